//! Reading from and writing to a stream, and both at once. It knows no addresses.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

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
}

impl Duplex {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            outbox: SendQueue::new(),
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
            if !self.stream.is_sending() {
                let Some(outgoing) = self.outbox.take(SEND_BYTES_MAX) else {
                    return Poll::Ready(Ok(()));
                };
                self.stream.start_send(outgoing, Then::GoOn);
            }
            let Sent::Part(outgoing, result) =
                ready!(self.stream.poll_sent(context, Interest::End))
            else {
                continue;
            };
            match result {
                Ok(sent) => self.outbox.put_back(outgoing, sent as usize),
                Err(error) if is_passing(&error) => self.outbox.put_back(outgoing, 0),
                Err(error) => {
                    // Nothing more will arrive there.
                    self.outbox = SendQueue::new();
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    pub(super) fn split(self) -> (ReadHalf, WriteHalf) {
        let duplex = Rc::new(RefCell::new(self));
        (ReadHalf(duplex.clone()), WriteHalf(duplex))
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

/// The outgoing side of a stream. When it is dropped, the peer is told that no more will come.
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
        self.0.borrow().stream.shutdown_write();
    }
}

/// Whether an error of send(2) only ends the attempt.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}
