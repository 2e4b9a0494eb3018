//! What makes the services of a server, one for each worker.

/// Makes a service for each worker: every closure or function without arguments does that
/// returns one.
///
/// ```
/// use coring::{Request, Response, Server};
///
/// async fn hello(_: Request) -> Response {
///     Response::text("hello")
/// }
///
/// # fn main() -> coring::Result<()> {
/// let server = Server::builder().bind("127.0.0.1:0").start(|| hello)?;
/// # server.stop();
/// # server.wait()
/// # }
/// ```
///
/// The handler itself is not a factory:
///
/// ```compile_fail,E0277
/// # use coring::{Request, Response, Server};
/// # async fn hello(_: Request) -> Response {
/// #     Response::text("hello")
/// # }
/// # fn main() -> coring::Result<()> {
/// let server = Server::builder().bind("127.0.0.1:0").start(hello)?;
/// # server.wait()
/// # }
/// ```
///
/// `Kind` tells implementations apart, and is always inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make services",
    label = "expected a function without arguments that returns a service",
    note = "each worker makes a service of its own: for a handler `h`, give `|| h`"
)]
pub trait ServiceFactory<Kind> {
    /// The product: a [`Service`](super::Service).
    type Service;

    /// Makes the service of a worker, on the worker's thread.
    fn make(&self) -> Self::Service;
}

impl<F: Fn() -> S, S> ServiceFactory<()> for F {
    type Service = S;

    fn make(&self) -> S {
        self()
    }
}

/// If the implementation above were the only one, the compiler would report what it lacks (that a
/// handler is not an `Fn()`) in place of the note on the trait. Nothing implements `Never`.
impl<F: never::Never> ServiceFactory<never::Kind> for F {
    type Service = ();

    fn make(&self) {}
}

mod never {
    pub trait Never {}

    #[derive(Debug)]
    pub enum Kind {}
}
