//! What a server does: a request comes in, a response goes out.
//!
//! A service decides and never writes: it knows neither the connection nor the HTTP version.
//! Bodies flow through a handle, in both directions at once if the service wants it.

mod body;
mod file_body;
mod pipe;
mod request;
mod response;

pub use body::{Body, BodyError};
pub use pipe::Inlet;
pub use request::Request;
pub use response::Response;

/// Answers requests. Each worker has a service of its own, so a service need not be `Send` and
/// may keep state without locks.
///
/// Every async closure or function from [`Request`] to [`Response`] is a service.
pub trait Service {
    /// Answers one request. If the client resets the connection, the future is dropped.
    fn call(&self, request: Request) -> impl Future<Output = Response>;
}

impl<F: AsyncFn(Request) -> Response> Service for F {
    async fn call(&self, request: Request) -> Response {
        self(request).await
    }
}
