//! The trait of factories, which make a service for each worker.

/// Makes the services of a server, one for each worker. Every closure or function that takes no
/// arguments and returns a [`Service`](super::Service) is a factory.
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
/// A handler itself is not a factory:
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
/// The compiler always infers `Kind`. It only keeps the trait's two implementations apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make services",
    label = "expected a function that takes no arguments and returns a service",
    note = "each worker makes its own service: for a handler `h`, pass `|| h`"
)]
pub trait ServiceFactory<Kind> {
    /// The type of the services; it implements [`Service`](super::Service).
    type Service;

    /// Makes the service of one worker. Each worker calls this once, on its own thread.
    fn make(&self) -> Self::Service;
}

impl<F: Fn() -> S, S> ServiceFactory<()> for F {
    type Service = S;

    fn make(&self) -> S {
        self()
    }
}

/// A second implementation that never applies, because no type implements `Never`. With only the
/// one above, the compiler would report that a handler is not an `Fn()`, instead of the trait's
/// note.
impl<F: never::Never> ServiceFactory<never::Kind> for F {
    type Service = ();

    fn make(&self) {}
}

mod never {
    pub trait Never {}

    #[derive(Debug)]
    pub enum Kind {}
}
