//! What a connection, or a part of it, becomes when a service leaves HTTP.

use std::io;
use std::pin::Pin;
use std::thread;

use super::body::Body;
use super::body_sender::BodySender;
use crate::buf::Part;

/// Bytes that a continuation may write ahead of its client.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// What a service does with a connection that has left HTTP.
pub type Continuation = Box<dyn FnOnce(Upgraded) -> Pin<Box<dyn Future<Output = ()>>>>;

/// A byte stream to the client, in the protocol on which
/// [`Response::upgrade`](crate::Response::upgrade) has agreed. It begins with what the client has
/// sent behind its request.
///
/// It has no read timeout: the continuation decides how long to wait. A client that does not take
/// what is written is cut by the server's write timeout, as in HTTP. The connection counts as open,
/// and a drain waits for it up to its limit: [`draining`](crate::draining) tells when to end.
#[derive(Debug)]
pub struct Upgraded {
    reader: UpgradedReader,
    writer: UpgradedWriter,
}

/// The incoming side of an [`Upgraded`] stream.
#[derive(Debug)]
pub struct UpgradedReader(Body);

/// The outgoing side of an [`Upgraded`] stream. When it is dropped, the connection ends in order
/// once everything is sent, also for the incoming side. A panic that drops it resets the
/// connection.
#[derive(Debug)]
pub struct UpgradedWriter(Option<BodySender>);

impl Upgraded {
    /// The stream of what comes as `incoming`, and the body of what is written.
    pub(crate) fn new(incoming: Body) -> (Self, Body) {
        let (sender, outgoing) = Body::channel(AHEAD_BYTES_MAX);
        let stream = Self {
            reader: UpgradedReader(incoming),
            writer: UpgradedWriter(Some(sender)),
        };
        (stream, outgoing)
    }

    /// As [`UpgradedReader::read`].
    ///
    /// # Errors
    /// As there.
    pub async fn read(&mut self) -> io::Result<Option<Part>> {
        self.reader.read().await
    }

    /// As [`UpgradedWriter::write`].
    ///
    /// # Errors
    /// As there.
    pub async fn write(&mut self, bytes: impl Into<Part>) -> io::Result<()> {
        self.writer.write(bytes).await
    }

    /// Its two sides, for two coroutines.
    pub fn split(self) -> (UpgradedReader, UpgradedWriter) {
        (self.reader, self.writer)
    }
}

impl UpgradedReader {
    /// The next bytes; none when the client has ended its side of the connection.
    ///
    /// # Errors
    /// When the connection broke or has ended.
    pub async fn read(&mut self) -> io::Result<Option<Part>> {
        let part = self.0.part().await;
        part.map_err(|_| io::ErrorKind::ConnectionReset.into())
    }
}

impl UpgradedWriter {
    /// Writes `bytes`, as soon as there is room for them: a client that reads slowly is waited for.
    ///
    /// # Errors
    /// When the connection broke or has ended.
    pub async fn write(&mut self, bytes: impl Into<Part>) -> io::Result<()> {
        let sender = self.0.as_mut().expect("it is there until the drop");
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
