//! Reading from and writing to a stream, and splitting it for two coroutines.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::stream::Stream;
use super::transport::{RecvOutcome, Transport};
use crate::buf::{Chunk, Part};
use crate::engine;

/// A stream whose reads and writes have no deadline.
#[derive(Debug)]
pub(super) struct Duplex(Transport);

impl Duplex {
    pub(super) fn new(stream: Stream) -> Self {
        Self(Transport::new(stream))
    }

    pub(super) fn stream(&self) -> &Stream {
        self.0.stream()
    }

    pub(super) async fn read(&mut self) -> io::Result<Option<Chunk>> {
        poll_fn(|context| self.poll_read(context)).await
    }

    pub(super) async fn write_all(&mut self, bytes: Part) -> io::Result<()> {
        self.0.send_queue.push(bytes);
        poll_fn(|context| self.poll_flush(context)).await
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        loop {
            if let Some(chunk) = self.0.recv_buf.take_chunk(&engine::pool()) {
                return Poll::Ready(Ok(Some(chunk)));
            }
            match ready!(self.0.poll_recv(context))? {
                RecvOutcome::Bytes(_) => {}
                RecvOutcome::Fin => return Poll::Ready(Ok(None)),
                RecvOutcome::Overdue => unreachable!("this transport has no deadlines"),
            }
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(context).map_err(io::Error::from)
    }

    /// Ends our side of the stream (FIN), or resets the connection if bytes are unsent.
    pub(super) fn shutdown_write(&mut self) {
        self.0.shutdown_write();
    }

    pub(super) fn split(self) -> (ReadHalf, WriteHalf) {
        let duplex = Rc::new(RefCell::new(self));
        (ReadHalf(duplex.clone()), WriteHalf(duplex))
    }
}

impl Drop for Duplex {
    fn drop(&mut self) {
        self.0.reset_unless_ended();
    }
}

/// The reading half of a stream. The socket is closed when both halves are dropped.
#[derive(Debug)]
pub struct ReadHalf(Rc<RefCell<Duplex>>);

impl ReadHalf {
    /// As [`TcpStream::read`](super::TcpStream::read).
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn read(&mut self) -> io::Result<Option<Chunk>> {
        poll_fn(|context| self.0.borrow_mut().poll_read(context)).await
    }
}

/// The writing half of a stream. Dropping it ends our side of the stream (FIN). If bytes are
/// unsent, or if a panic drops it, the connection is reset instead.
#[derive(Debug)]
pub struct WriteHalf(Rc<RefCell<Duplex>>);

impl WriteHalf {
    /// As [`TcpStream::write_all`](super::TcpStream::write_all).
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn write_all(&mut self, bytes: impl Into<Part>) -> io::Result<()> {
        self.0.borrow_mut().0.send_queue.push(bytes.into());
        poll_fn(|context| self.0.borrow_mut().poll_flush(context)).await
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.0.borrow_mut().shutdown_write();
    }
}
