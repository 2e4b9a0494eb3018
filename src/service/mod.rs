//! Services: the program's code that turns a request into a response.
//!
//! A service returns a response and never writes to the socket. It sees neither the connection nor
//! how the protocol frames a message. Bodies are read and written through handles, so a service can
//! receive a request's body while it sends the response's.

mod body;
mod body_channel;
mod body_sender;
mod content;
mod factory;
mod file_body;
mod files;
mod html;
mod methods;
mod optional_box;
mod part_queue;
mod request;
mod request_builder;
mod response;
mod response_memory;
mod router;
mod stream_body;
#[cfg(feature = "tower")]
mod tower;
mod upgrade;

pub(crate) use body::BodyParts;
pub use body::{Body, BodyError};
pub use body_channel::RequestBodySender;
pub use body_sender::{BodySender, Gone, TryWriteError};
pub use content::ContentError;
pub use factory::ServiceFactory;
pub(crate) use file_body::BodyPart;
pub use files::Files;
#[cfg(feature = "sim")]
pub use files::{Relative, with_slash};
pub(crate) use html::Escaped;
pub use request::Request;
pub use request_builder::{InvalidRequest, RequestBuilder};
pub use response::{NextResponse, Response};
pub(crate) use response_memory::ResponseMemory;
pub use router::Router;
#[cfg(feature = "tower")]
pub use tower::{Tower, TowerBody, tower};
pub use upgrade::{Upgraded, UpgradedReader, UpgradedWriter};

/// Answers requests. Each worker has its own service, so a service need not be `Send` and may keep
/// state without locks.
///
/// Every async closure or function from [`Request`] to [`Response`] is a service.
pub trait Service {
    /// Answers one request.
    ///
    /// The server drops the future before it is ready if the connection fails: the client reset the
    /// connection or broke off the request's body, was too slow, or violated the protocol or a
    /// limit. It also drops the future when the server stops. Put cleanup into a destructor.
    fn call(&self, request: Request) -> impl Future<Output = Response>;
}

impl<F: AsyncFn(Request) -> Response> Service for F {
    fn call(&self, request: Request) -> impl Future<Output = Response> {
        self(request)
    }
}
