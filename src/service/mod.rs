//! What a server does: a request comes in, a response goes out.
//!
//! A service decides and never writes: it knows neither the connection nor the HTTP version.
//! Bodies flow through a handle, in both directions at once if the service wants it.

mod answer_memory;
mod body;
mod body_sender;
mod content;
mod factory;
mod file_body;
mod files;
mod pipe;
mod rare;
mod request;
mod request_builder;
mod response;
mod router;
mod stream_body;
mod upgrade;

pub use body::{Body, BodyError};
pub use body_sender::{BodySender, Gone, TryWriteError};
pub use content::ContentError;
pub use factory::ServiceFactory;
pub(crate) use file_body::Piece;
pub use files::Files;
#[cfg(feature = "sim")]
pub use files::{Relative, with_slash};
pub use pipe::Inlet;
pub use request::Request;
pub use request_builder::{InvalidRequest, RequestBuilder};
pub use response::{NextResponse, Response};
pub use router::Router;
pub use upgrade::{Upgraded, UpgradedReader, UpgradedWriter};

/// Answers requests. Each worker has a service of its own, so a service need not be `Send` and
/// may keep state without locks.
///
/// Every async closure or function from [`Request`] to [`Response`] is a service.
pub trait Service {
    /// Answers one request. The future is dropped before it is ready when the connection cannot go
    /// on: the client has reset it or broken off, was too slow, broke the protocol or a limit, or
    /// the server ends. What has to be undone then belongs in a destructor.
    fn call(&self, request: Request) -> impl Future<Output = Response>;
}

impl<F: AsyncFn(Request) -> Response> Service for F {
    fn call(&self, request: Request) -> impl Future<Output = Response> {
        self(request)
    }
}
