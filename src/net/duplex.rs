//! Reading from and writing to a stream, and splitting it for two coroutines.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::reading;
use super::stream::Stream;
use super::transport::Transport;
use crate::buf::{Chunk, Part};
use crate::engine;

/// The most bytes that one [`Duplex::poll_write`] takes.
const WRITE_BYTES_MAX: usize = 64 << 10;

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

    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Chunk>>> {
        loop {
            if let Some(chunk) = self.0.recv_buf.take_chunk(&engine::pool()) {
                return Poll::Ready(Ok(Some(chunk)));
            }
            if !ready!(reading::poll_more(&mut self.0, context))? {
                return Poll::Ready(Ok(None));
            }
        }
    }

    /// Copies received bytes into `target`, and returns their number. 0 after the peer's FIN.
    #[cfg(any(feature = "futures-io", feature = "tokio-io"))]
    pub(super) fn poll_read_into(
        &mut self,
        context: &mut Context<'_>,
        len_max: usize,
        put: impl FnOnce(&[u8]),
    ) -> Poll<io::Result<usize>> {
        while self.0.recv_buf.is_empty() && len_max > 0 {
            if !ready!(reading::poll_more(&mut self.0, context))? {
                break;
            }
        }
        let unread = self.0.recv_buf.unread();
        let len = unread.len().min(len_max);
        put(&unread[..len]);
        self.0.recv_buf.consume(len);
        Poll::Ready(Ok(len))
    }

    /// Takes the first bytes and starts to send a copy of them. It waits for the end of the send
    /// before, and never queues bytes behind it: the caller may not poll the stream again.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_flush(context))?;
        let bytes = &bytes[..bytes.len().min(WRITE_BYTES_MAX)];
        self.0.send_queue.write(&engine::pool(), bytes);
        self.0.start_to_send(context)?;
        Poll::Ready(Ok(bytes.len()))
    }

    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(context).map_err(io::Error::from)
    }

    /// Ends our side of the stream when all is sent.
    #[cfg(any(feature = "futures-io", feature = "tokio-io"))]
    pub(super) fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(context))?;
        self.shutdown_write();
        Poll::Ready(Ok(()))
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
pub struct ReadHalf(pub(super) Rc<RefCell<Duplex>>);

impl ReadHalf {
    /// As [`TcpStream::read`](super::TcpStream::read).
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn read(&mut self) -> io::Result<Option<Chunk>> {
        poll_fn(|context| self.poll_read(context)).await
    }

    /// As [`ReadHalf::read`], for hand-written futures.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.0.borrow_mut().poll_read(context)
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
/// unsent, as they may be after [`WriteHalf::poll_write`] without a flush, or if a panic drops it,
/// the connection is reset instead.
#[derive(Debug)]
pub struct WriteHalf(pub(super) Rc<RefCell<Duplex>>);

impl WriteHalf {
    /// As [`TcpStream::write_all`](super::TcpStream::write_all).
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn write_all(&mut self, bytes: impl Into<Part>) -> io::Result<()> {
        self.0.borrow_mut().0.send_queue.push(bytes.into());
        poll_fn(|context| self.poll_flush(context)).await
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
        poll_fn(|context| self.poll_flush(context)).await
    }

    /// As [`TcpStream::poll_write`](super::TcpStream::poll_write).
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(context, bytes)
    }

    /// As [`TcpStream::poll_flush`](super::TcpStream::poll_flush).
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_flush(context)
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.0.borrow_mut().shutdown_write();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::tests::on_each;
    use crate::net::{TcpListener, TcpStream};
    use crate::task::spawn;
    use crate::time::timeout;

    const SHORT_WAIT: Duration = Duration::from_millis(100);

    async fn pair() -> io::Result<(TcpStream, TcpStream)> {
        let mut listener = TcpListener::bind(([127, 0, 0, 1], 0))?;
        let stream = TcpStream::connect(listener.local_addr()).await?;
        Ok((stream, listener.accept().await?))
    }

    /// Byte `n` of what the tests send.
    fn byte(n: usize) -> u8 {
        (n % 251).to_le_bytes()[0]
    }

    #[test]
    fn polled_writes_own_their_bytes_and_wait_for_a_peer_that_does_not_read() {
        on_each(async || {
            let (mut stream, peer) = pair().await?;
            let mut taken = 0;
            let endless = async {
                // More than all buffers on the way hold.
                while taken < 256 << 20 {
                    let mut bytes: Vec<_> = (taken..taken + 100_000).map(byte).collect();
                    let write = poll_fn(|context| stream.poll_write(context, &bytes)).await?;
                    assert!((1..=64 << 10).contains(&write), "{write}");
                    taken += write;
                    bytes.fill(255);
                }
                io::Result::Ok(())
            };
            assert!(timeout(SHORT_WAIT, endless).await.is_err());
            let (mut reader, mut writer) = peer.split();
            let reading = spawn(async move {
                let mut received = Vec::new();
                while received.len() < taken {
                    // A poll that is given up loses nothing.
                    let poll = poll_fn(|context| reader.poll_read(context));
                    let Ok(chunk) = timeout(Duration::from_micros(1), poll).await else {
                        continue;
                    };
                    received.extend_from_slice(&chunk?.expect("more bytes"));
                }
                io::Result::Ok(received)
            });
            poll_fn(|context| stream.poll_flush(context)).await?;
            let received = reading.await.expect("no panic")?;
            assert_eq!(received.len(), taken);
            assert!(received.iter().enumerate().all(|(n, &got)| got == byte(n)));
            // The other direction, of a half. A write is sent without a flush.
            assert_eq!(poll_fn(|context| writer.poll_write(context, b"")).await?, 0);
            for part in ["one ", "two ", "three"] {
                let write = poll_fn(|context| writer.poll_write(context, part.as_bytes()));
                assert_eq!(write.await?, part.len());
            }
            assert_eq!(&*stream.read_exact(13).await?, b"one two three");
            poll_fn(|context| writer.poll_flush(context)).await?;
            drop(writer);
            let end = poll_fn(|context| stream.poll_read(context)).await?;
            assert!(end.is_none());
            Ok(())
        });
    }
}
