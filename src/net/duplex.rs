//! Reading from and writing to a stream, and splitting it for two coroutines.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::reading;
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

    pub(super) async fn write_all_vectored(
        &mut self,
        parts: impl IntoIterator<Item = impl Into<Part>>,
    ) -> io::Result<()> {
        self.push_all(parts);
        poll_fn(|context| self.poll_flush(context)).await
    }

    fn push_all(&mut self, parts: impl IntoIterator<Item = impl Into<Part>>) {
        for part in parts {
            self.0.send_queue.push(part.into());
        }
    }

    pub(super) async fn read_exact(&mut self, len: usize) -> io::Result<Part> {
        poll_fn(|context| reading::poll_exact(&mut self.0, len, context)).await
    }

    pub(super) async fn read_until(
        &mut self,
        delimiter: u8,
        bytes_max: usize,
    ) -> io::Result<Option<Part>> {
        let mut scanned = 0;
        poll_fn(|context| self.poll_until(delimiter, bytes_max, &mut scanned, context)).await
    }

    fn poll_until(
        &mut self,
        delimiter: u8,
        bytes_max: usize,
        scanned: &mut usize,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Part>>> {
        reading::poll_until(&mut self.0, delimiter, bytes_max, scanned, context)
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

    /// As [`TcpStream::read_exact`](super::TcpStream::read_exact).
    ///
    /// # Errors
    /// `UnexpectedEof` if the stream ends before, and those of [`ReadHalf::read`].
    pub async fn read_exact(&mut self, len: usize) -> io::Result<Part> {
        poll_fn(|context| reading::poll_exact(&mut self.0.borrow_mut().0, len, context)).await
    }

    /// As [`TcpStream::read_until`](super::TcpStream::read_until).
    ///
    /// # Errors
    /// `InvalidData` if there is no delimiter within the limit, and those of [`ReadHalf::read`].
    pub async fn read_until(
        &mut self,
        delimiter: u8,
        bytes_max: usize,
    ) -> io::Result<Option<Part>> {
        let mut scanned = 0;
        poll_fn(|context| {
            let mut duplex = self.0.borrow_mut();
            duplex.poll_until(delimiter, bytes_max, &mut scanned, context)
        })
        .await
    }

    /// As [`TcpStream::read_line`](super::TcpStream::read_line).
    ///
    /// # Errors
    /// `InvalidData` if the line is too long or not UTF-8, and those of [`ReadHalf::read`].
    pub async fn read_line(&mut self, bytes_max: usize) -> io::Result<Option<String>> {
        let line = self.read_until(b'\n', bytes_max).await?;
        line.as_deref().map(reading::line).transpose()
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

    /// As [`TcpStream::write_all_vectored`](super::TcpStream::write_all_vectored).
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn write_all_vectored(
        &mut self,
        parts: impl IntoIterator<Item = impl Into<Part>>,
    ) -> io::Result<()> {
        self.0.borrow_mut().push_all(parts);
        poll_fn(|context| self.0.borrow_mut().poll_flush(context)).await
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.0.borrow_mut().shutdown_write();
    }
}
