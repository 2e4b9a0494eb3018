//! TCP streams and listeners for programs.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use super::address::Address;
use super::bind::{Bound, bind};
use super::duplex::{Duplex, ReadHalf, WriteHalf};
use super::listener::Listener;
use super::race::connect_tcp;
use super::reading;
use super::resolve::ToAddresses;
use crate::buf::{Chunk, Part};

/// A TCP connection. Dropping it cancels its operations and closes the socket. If bytes that were
/// given to [`TcpStream::write_all`] are still unsent, or if a panic drops the stream, the
/// connection is reset (RST). So the peer cannot mistake a truncated stream for a complete one.
///
/// Bytes are passed by value in both directions: the kernel chooses the memory for bytes that it
/// receives, and owns bytes to be sent until it has sent them. So no buffer is borrowed while a
/// coroutine waits, and a future may be dropped at any time.
///
/// A stream belongs to the [`run`](crate::run) or server that made it. Reading or writing it
/// elsewhere panics.
pub struct TcpStream(pub(super) Duplex);

impl TcpStream {
    /// Connects to an address, or to a name and a port as in `"localhost:8000"`. A name is resolved
    /// as by [`lookup_host`](super::lookup_host). If it has several addresses, they are tried in
    /// turn, one every 250 ms or as soon as one has failed, and the first connection wins
    /// (RFC 8305).
    ///
    /// It takes as long as the kernel tries, often minutes; give it a timeout. If the future is
    /// dropped, the attempts are cancelled and their sockets closed.
    ///
    /// ```
    /// # use coring::net::TcpListener;
    /// use std::time::Duration;
    ///
    /// use coring::net::TcpStream;
    /// use coring::time::timeout;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// coring::run(async {
    /// #   let listener = TcpListener::bind(([127, 0, 0, 1], 0))?;
    /// #   let port = listener.local_addr().port();
    ///     let connect = TcpStream::connect(("localhost", port));
    ///     let stream = timeout(Duration::from_secs(10), connect).await??;
    ///     assert_eq!(stream.peer_addr()?.port(), port);
    ///     Ok(())
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of connect(2), of the first attempt if there are several; or the name cannot be
    /// resolved.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn connect(peer: impl ToAddresses) -> io::Result<Self> {
        Ok(Self(Duplex::new(connect_tcp(peer).await?)))
    }

    /// Receives the next chunk, of up to 4 KiB; `None` after the peer's FIN. If the future is
    /// dropped, no bytes are lost.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn read(&mut self) -> io::Result<Option<Chunk>> {
        self.0.read().await
    }

    /// Receives exactly `len` bytes. They are held in memory until all of them have come, so limit
    /// a `len` that a peer has sent. If the future is dropped, no bytes are lost.
    ///
    /// ```
    /// # use coring::net::{TcpListener, TcpStream};
    /// # fn main() -> std::io::Result<()> {
    /// # coring::run(async {
    /// # let mut listener = TcpListener::bind(([127, 0, 0, 1], 0))?;
    /// # let mut client = TcpStream::connect(listener.local_addr()).await?;
    /// # let mut stream = listener.accept().await?;
    /// client.write_all_vectored(["\0\u{5}", "hello"]).await?;
    /// let length = stream.read_exact(2).await?;
    /// let length = u16::from_be_bytes([length[0], length[1]]);
    /// assert_eq!(&*stream.read_exact(length.into()).await?, b"hello");
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// `UnexpectedEof` if the stream ends before; the bytes that have come can still be read. Those
    /// of [`TcpStream::read`].
    pub async fn read_exact(&mut self, len: usize) -> io::Result<Part> {
        self.0.read_exact(len).await
    }

    /// Receives the bytes up to and including the next `delimiter`. At the end of the stream:
    /// the bytes before it, which have no delimiter, or `None` if there are none. If the future is
    /// dropped, no bytes are lost.
    ///
    /// ```
    /// # use coring::net::{TcpListener, TcpStream};
    /// # fn main() -> std::io::Result<()> {
    /// # coring::run(async {
    /// # let mut listener = TcpListener::bind(([127, 0, 0, 1], 0))?;
    /// # let mut client = TcpStream::connect(listener.local_addr()).await?;
    /// # let mut stream = listener.accept().await?;
    /// client.write_all("one;two;").await?;
    /// assert_eq!(&*stream.read_until(b';', 80).await?.expect("a piece"), b"one;");
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// `InvalidData` if the first `bytes_max` bytes contain no delimiter; they can still be read.
    /// Those of [`TcpStream::read`].
    pub async fn read_until(
        &mut self,
        delimiter: u8,
        bytes_max: usize,
    ) -> io::Result<Option<Part>> {
        self.0.read_until(delimiter, bytes_max).await
    }

    /// Receives the next line, of at most `bytes_max` bytes with its end, and returns it without
    /// its end (LF or CR LF). The last line needs none; `None` after it. If the future is dropped,
    /// no bytes are lost.
    ///
    /// ```
    /// # use coring::net::{TcpListener, TcpStream};
    /// # fn main() -> std::io::Result<()> {
    /// # coring::run(async {
    /// # let mut listener = TcpListener::bind(([127, 0, 0, 1], 0))?;
    /// # let mut client = TcpStream::connect(listener.local_addr()).await?;
    /// # let mut stream = listener.accept().await?;
    /// client.write_all("one\r\ntwo").await?;
    /// client.shutdown_write();
    /// assert_eq!(stream.read_line(80).await?.as_deref(), Some("one"));
    /// assert_eq!(stream.read_line(80).await?.as_deref(), Some("two"));
    /// assert_eq!(stream.read_line(80).await?, None);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// `InvalidData` if the line is too long, or is not UTF-8; a line that is not UTF-8 is
    /// consumed. Those of [`TcpStream::read`].
    pub async fn read_line(&mut self, bytes_max: usize) -> io::Result<Option<String>> {
        let line = self.read_until(b'\n', bytes_max).await?;
        line.as_deref().map(reading::line).transpose()
    }

    /// Sends `bytes`, and waits until the kernel has taken all of them. If the future is dropped,
    /// the kernel may still send all or some of them. The next write sends the rest first.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn write_all(&mut self, bytes: impl Into<Part>) -> io::Result<()> {
        self.0.write_all(bytes.into()).await
    }

    /// As [`TcpStream::write_all`], for several parts in their order. The kernel gets up to 64 of
    /// them in one call.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn write_all_vectored(
        &mut self,
        parts: impl IntoIterator<Item = impl Into<Part>>,
    ) -> io::Result<()> {
        self.0.write_all_vectored(parts).await
    }

    /// As [`TcpStream::read`], for hand-written futures.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.0.poll_read(context)
    }

    /// For hand-written futures: takes the first of `bytes`, up to 64 KiB, and starts to send a
    /// copy of them. Returns their number, or waits if the bytes of the write before are unsent.
    /// Call [`TcpStream::poll_flush`] before the stream is dropped: bytes that the kernel has not
    /// taken by then are lost, and the connection is reset.
    ///
    /// ```
    /// # use coring::net::{TcpListener, TcpStream};
    /// use std::future::poll_fn;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # coring::run(async {
    /// # let mut listener = TcpListener::bind(([127, 0, 0, 1], 0))?;
    /// # let mut client = TcpStream::connect(listener.local_addr()).await?;
    /// # let mut stream = listener.accept().await?;
    /// let taken = poll_fn(|context| client.poll_write(context, b"hello")).await?;
    /// assert_eq!(taken, 5);
    /// poll_fn(|context| client.poll_flush(context)).await?;
    /// assert_eq!(&*stream.read_exact(5).await?, b"hello");
    /// # Ok(())
    /// # })
    /// # }
    /// ```
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

    /// Ready when the kernel has taken all bytes that were written.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(context)
    }

    /// Ends our side of the stream (FIN). Bytes of the peer can still be read. If bytes of a
    /// dropped write are unsent, the connection is reset instead.
    pub fn shutdown_write(&mut self) {
        self.0.shutdown_write();
    }

    /// Splits the stream into its two directions, for two coroutines.
    ///
    /// ```no_run
    /// use coring::net::TcpStream;
    ///
    /// async fn talk(stream: TcpStream) -> std::io::Result<()> {
    ///     let (mut input, mut output) = stream.split();
    ///     coring::spawn(async move {
    ///         while let Ok(Some(line)) = input.read_line(1000).await {
    ///             println!("{line}");
    ///         }
    ///     });
    ///     output.write_all("hello\n").await
    /// }
    /// ```
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        self.0.split()
    }

    /// The peer's address.
    ///
    /// # Errors
    /// `NotConnected` if the connection is broken.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let peer = self.0.stream().peer();
        peer.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The local address.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.stream().local()?.try_into()?)
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream").finish_non_exhaustive()
    }
}

/// A listening TCP socket. While it lives, a process of another user cannot bind its address, and a
/// process of the same user can bind it only with `SO_REUSEPORT` (socket(7)).
///
/// ```
/// use coring::net::{TcpListener, TcpStream};
///
/// # fn main() -> std::io::Result<()> {
/// coring::run(async {
///     let mut listener = TcpListener::bind(([127, 0, 0, 1], 0))?;
///     let address = listener.local_addr();
///     coring::spawn(async move {
///         let mut stream = listener.accept().await?;
///         while let Some(chunk) = stream.read().await? {
///             stream.write_all(chunk).await?;
///         }
///         std::io::Result::Ok(())
///     });
///     let mut stream = TcpStream::connect(address).await?;
///     stream.write_all("hello").await?;
///     let echo = stream.read().await?.expect("an echo");
///     assert_eq!(&*echo, b"hello");
///     Ok(())
/// })
/// # }
/// ```
pub struct TcpListener {
    listener: Listener,
    address: SocketAddr,
}

impl TcpListener {
    /// Listens on `address`; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// If the address cannot be bound. The message is one line; it names the process that has the
    /// port, if that can be known.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn bind(address: impl Into<SocketAddr>) -> io::Result<Self> {
        let Bound {
            address, sockets, ..
        } = bind(&Address::Tcp(address.into()), 1)?;
        let (Address::Tcp(address), Some(socket)) = (address, sockets.into_iter().next()) else {
            unreachable!("one socket was requested, with a TCP address")
        };
        let listener = Listener::new(socket);
        Ok(Self { listener, address })
    }

    /// Accepts the next connection.
    ///
    /// # Errors
    /// If no connection can be accepted, for example because descriptors or memory are exhausted.
    /// Sleep before the next call, which tries again.
    pub async fn accept(&mut self) -> io::Result<TcpStream> {
        let accepted = poll_fn(|context| self.listener.poll_accept(context)).await;
        let stream = accepted.expect("this listener is never stopped")?;
        Ok(TcpStream(Duplex::new(stream)))
    }

    /// The address on which it listens, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
