//! Unix stream sockets for programs, with a path as their address.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use rustix::net::SocketAddrUnix;

use super::address::Address;
use super::bind::{Bound, SocketFile, bind};
use super::duplex::{Duplex, ReadHalf, WriteHalf};
use super::listener::Listener;
use super::reading;
use super::stream::Stream;
use crate::buf::{Chunk, Part};

/// A connection over a Unix socket. It works like a [`TcpStream`](super::TcpStream), except that a
/// Unix socket cannot be reset: its peer sees an ordinary end of the stream even if bytes were
/// unsent.
pub struct UnixStream(pub(super) Duplex);

impl UnixStream {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Those of connect(2). On epoll also `WouldBlock` if the listener's backlog is full.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path.as_ref())?;
        let stream = Stream::connect(address.into()).await?;
        Ok(Self(Duplex::new(stream)))
    }

    /// As [`TcpStream::read`](super::TcpStream::read).
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn read(&mut self) -> io::Result<Option<Chunk>> {
        self.0.read().await
    }

    /// As [`TcpStream::read_exact`](super::TcpStream::read_exact).
    ///
    /// # Errors
    /// `UnexpectedEof` if the stream ends before, and those of [`UnixStream::read`].
    pub async fn read_exact(&mut self, len: usize) -> io::Result<Part> {
        self.0.read_exact(len).await
    }

    /// As [`TcpStream::read_until`](super::TcpStream::read_until).
    ///
    /// # Errors
    /// `InvalidData` if there is no delimiter within the limit, and those of [`UnixStream::read`].
    pub async fn read_until(
        &mut self,
        delimiter: u8,
        bytes_max: usize,
    ) -> io::Result<Option<Part>> {
        self.0.read_until(delimiter, bytes_max).await
    }

    /// As [`TcpStream::read_line`](super::TcpStream::read_line).
    ///
    /// # Errors
    /// `InvalidData` if the line is too long or not UTF-8, and those of [`UnixStream::read`].
    pub async fn read_line(&mut self, bytes_max: usize) -> io::Result<Option<String>> {
        let line = self.read_until(b'\n', bytes_max).await?;
        line.as_deref().map(reading::line).transpose()
    }

    /// As [`TcpStream::write_all`](super::TcpStream::write_all).
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn write_all(&mut self, bytes: impl Into<Part>) -> io::Result<()> {
        self.0.write_all(bytes.into()).await
    }

    /// As [`TcpStream::write_all_vectored`](super::TcpStream::write_all_vectored).
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn write_all_vectored(
        &mut self,
        parts: impl IntoIterator<Item = impl Into<Part>>,
    ) -> io::Result<()> {
        self.0.write_all_vectored(parts).await
    }

    /// As [`TcpStream::poll_read`](super::TcpStream::poll_read).
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.0.poll_read(context)
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
        self.0.poll_write(context, bytes)
    }

    /// As [`TcpStream::poll_flush`](super::TcpStream::poll_flush).
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(context)
    }

    /// Ends our side of the stream. Bytes of the peer can still be read.
    pub fn shutdown_write(&mut self) {
        self.0.shutdown_write();
    }

    /// Splits the stream into its two directions, for two coroutines.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        self.0.split()
    }
}

impl fmt::Debug for UnixStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixStream").finish_non_exhaustive()
    }
}

/// A listening Unix socket. Dropping it removes the socket's file.
///
/// ```
/// use coring::net::{UnixListener, UnixStream};
///
/// # let path = std::env::temp_dir().join(format!("coring-unix-{}", std::process::id()));
/// coring::run(async move {
///     let mut listener = UnixListener::bind(&path)?;
///     coring::spawn(async move {
///         let mut peer = listener.accept().await?;
///         peer.write_all("hello\n").await
///     });
///     let mut stream = UnixStream::connect(&path).await?;
///     assert_eq!(stream.read_line(100).await?.as_deref(), Some("hello"));
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
pub struct UnixListener {
    listener: Listener,
    path: PathBuf,
    _file: Option<SocketFile>,
}

impl UnixListener {
    /// Listens at `path`. Replaces a socket file that a dead process has left there.
    ///
    /// # Errors
    /// If the path cannot be bound. The message is one line.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn bind(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let Bound { sockets, file, .. } = bind(&Address::Unix(path.clone()), 1)?;
        let Some(socket) = sockets.into_iter().next() else {
            unreachable!("one socket was requested")
        };
        Ok(Self {
            listener: Listener::new(socket),
            path,
            _file: file,
        })
    }

    /// Accepts the next connection.
    ///
    /// # Errors
    /// Those of [`TcpListener::accept`](super::TcpListener::accept).
    pub async fn accept(&mut self) -> io::Result<UnixStream> {
        let accepted = poll_fn(|context| self.listener.poll_accept(context)).await;
        let stream = accepted.expect("this listener is never stopped")?;
        Ok(UnixStream(Duplex::new(stream)))
    }

    /// The path at which it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for UnixListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixListener")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
