//! The byte stream of a connection that has switched from HTTP to another protocol.

use std::io;
use std::pin::Pin;
use std::thread;

use super::body::Body;
use super::body_sender::BodySender;
use super::request::gone;
use crate::buf::Part;
use crate::net::Remote;

/// Bytes that a service may write to the stream before it has to wait for the client.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// The service's function that takes over a connection after the switch.
pub type Continuation = Box<dyn FnOnce(Upgraded) -> Pin<Box<dyn Future<Output = ()>>>>;

/// A byte stream between the service and the client, after
/// [`Response::upgrade`](crate::Response::upgrade) has switched the protocol. Its first bytes are
/// those that the client sent right after its request.
///
/// Reading has no timeout: the service decides how long to wait. The server's write timeout closes
/// the connection of a client that does not read, as in HTTP. A drain waits for the connection up
/// to the drain's time limit; the service can wait for [`draining`](crate::draining) and then end
/// it.
#[derive(Debug)]
pub struct Upgraded {
    reader: UpgradedReader,
    writer: UpgradedWriter,
    /// The client's connection; `None` for a built request.
    remote: Option<Remote>,
}

/// The reading half of an [`Upgraded`] stream.
#[derive(Debug)]
pub struct UpgradedReader(Body);

/// The writing half of an [`Upgraded`] stream.
///
/// Dropping it closes the connection after all bytes are sent; the reading half then ends, too.
/// If a panic drops it, the server resets the connection.
#[derive(Debug)]
pub struct UpgradedWriter(Option<BodySender>);

impl Upgraded {
    /// A stream that reads from `incoming`, and the body of the bytes that are written to it.
    pub(crate) fn new(incoming: Body) -> (Self, Body) {
        let (sender, outgoing) = Body::channel(AHEAD_BYTES_MAX);
        let stream = Self {
            reader: UpgradedReader(incoming),
            writer: UpgradedWriter(Some(sender)),
            remote: None,
        };
        (stream, outgoing)
    }

    /// Sets the connection that [`Upgraded::gone`] watches.
    pub(super) fn with_remote(self, remote: Option<Remote>) -> Self {
        Self { remote, ..self }
    }

    /// Waits until the client has reset the connection (RST) or half-closed it (FIN), or the server
    /// has closed it. The future does not borrow the stream, so another coroutine may await it. For
    /// a coroutine that neither reads nor writes meanwhile: a read or a write that fails tells the
    /// same. For a built request it is never ready.
    ///
    /// ```
    /// use coring::{HeaderValue, Request, Response};
    ///
    /// # async fn news() -> String { String::new() }
    /// async fn subscribe(request: Request) -> Response {
    ///     let protocol = HeaderValue::from_static("news");
    ///     Response::upgrade(&request, protocol, async |mut stream| {
    ///         let gone = stream.gone();
    ///         let writer = coring::spawn(async move {
    ///             while stream.write(news().await).await.is_ok() {}
    ///         });
    ///         gone.await;
    ///         writer.abort();
    ///     })
    /// }
    /// ```
    pub fn gone(&self) -> impl Future<Output = ()> + Unpin + 'static {
        gone(self.remote.as_ref())
    }

    /// As [`UpgradedReader::read`].
    ///
    /// # Errors
    /// Those of [`UpgradedReader::read`].
    pub async fn read(&mut self) -> io::Result<Option<Part>> {
        self.reader.read().await
    }

    /// As [`UpgradedWriter::write`].
    ///
    /// # Errors
    /// Those of [`UpgradedWriter::write`].
    pub async fn write(&mut self, bytes: impl Into<Part>) -> io::Result<()> {
        self.writer.write(bytes).await
    }

    /// Splits the stream into its halves, so that two coroutines can read and write.
    pub fn split(self) -> (UpgradedReader, UpgradedWriter) {
        (self.reader, self.writer)
    }
}

impl UpgradedReader {
    /// Waits for the next bytes; `None` when the client has half-closed the connection.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionReset`] if the connection failed or has ended.
    pub async fn read(&mut self) -> io::Result<Option<Part>> {
        let part = self.0.part().await;
        part.map_err(|_| io::ErrorKind::ConnectionReset.into())
    }
}

impl UpgradedWriter {
    /// Waits until the send queue of 64 KiB has room for `bytes`, and writes them. So a client that
    /// reads slowly makes the caller wait.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] if the connection failed or has ended.
    pub async fn write(&mut self, bytes: impl Into<Part>) -> io::Result<()> {
        let sender = self.0.as_mut().expect("only the drop takes the sender");
        let written = sender.write(bytes).await;
        written.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for UpgradedWriter {
    fn drop(&mut self) {
        if !thread::panicking()
            && let Some(sender) = self.0.take()
        {
            sender.finish();
        }
    }
}
