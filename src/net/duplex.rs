//! Reading from and writing to a stream, and both at once. It knows no addresses.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::thread;

use super::stream::Stream;
use crate::buf::{Chunk, Part, SendQueue};
use crate::engine::{Interest, Sent, Then};

/// Bytes in one send, at most: a slow peer's progress is to be seen.
const SEND_BYTES_MAX: usize = 256 << 10;

/// A stream, and what is owed to its peer.
#[derive(Debug)]
pub(super) struct Duplex {
    pub(super) stream: Stream,
    outbox: SendQueue,
    /// A send has failed: the peer misses bytes, and none may follow.
    is_cut: bool,
    /// The peer was told that no more will come, with everything sent.
    has_ended: bool,
}

impl Duplex {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            outbox: SendQueue::new(),
            is_cut: false,
            has_ended: false,
        }
    }

    pub(super) async fn read(&self) -> io::Result<Option<Chunk>> {
        poll_fn(|context| self.stream.poll_recv(context)).await
    }

    pub(super) async fn write_all(&mut self, bytes: Part) -> io::Result<()> {
        self.outbox.push(bytes);
        poll_fn(|context| self.poll_written(context)).await
    }

    /// Ready when nothing is owed.
    fn poll_written(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.is_cut {
                self.outbox = SendQueue::new();
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if !self.stream.is_sending() {
                let Some(outgoing) = self.outbox.take(SEND_BYTES_MAX) else {
                    return Poll::Ready(Ok(()));
                };
                self.stream.start_send(outgoing, Then::GoOn);
            }
            if let Sent::Part { error, .. } = ready!(self.stream.poll_sent(context, Interest::End))
            {
                self.outbox = SendQueue::new();
                self.is_cut = true;
                return Poll::Ready(Err(error));
            }
        }
    }

    /// Tells the peer that no more will come (FIN). A peer that does not get everything must not
    /// take this for the end: if bytes are unsent, the connection is reset.
    pub(super) fn shutdown_write(&mut self) {
        if self.has_ended {
            return;
        }
        if self.misses_bytes() {
            self.is_cut = true;
            self.stream.reset();
        } else {
            self.has_ended = true;
            self.stream.shutdown_write();
        }
    }

    /// Whether the peer does not get all that it was to get, if this stream ends now.
    fn misses_bytes(&self) -> bool {
        // Code that panics was mostly about to send more.
        let is_whole = !self.is_cut && self.outbox.is_empty() && !self.stream.has_unsent();
        !is_whole || thread::panicking()
    }

    pub(super) fn split(self) -> (ReadHalf, WriteHalf) {
        let duplex = Rc::new(RefCell::new(self));
        (ReadHalf(duplex.clone()), WriteHalf(duplex))
    }
}

impl Drop for Duplex {
    fn drop(&mut self) {
        if !self.has_ended && self.misses_bytes() {
            self.stream.reset_on_close();
        }
    }
}

/// The incoming side of a stream; the socket is closed when both sides are dropped.
#[derive(Debug)]
pub struct ReadHalf(Rc<RefCell<Duplex>>);

impl ReadHalf {
    /// As [`TcpStream::read`](super::TcpStream::read).
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn read(&mut self) -> io::Result<Option<Chunk>> {
        poll_fn(|context| self.0.borrow().stream.poll_recv(context)).await
    }
}

/// The outgoing side of a stream. When it is dropped, the peer is told that no more will come; if
/// bytes are unsent then, or a panic drops it, the connection is reset instead.
#[derive(Debug)]
pub struct WriteHalf(Rc<RefCell<Duplex>>);

impl WriteHalf {
    /// As [`TcpStream::write_all`](super::TcpStream::write_all).
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn write_all(&mut self, bytes: impl Into<Part>) -> io::Result<()> {
        self.0.borrow_mut().outbox.push(bytes.into());
        poll_fn(|context| self.0.borrow_mut().poll_written(context)).await
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.0.borrow_mut().shutdown_write();
    }
}
