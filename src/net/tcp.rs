//! TCP as programs see it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;

use super::address::Address;
use super::bind::{Bound, bind};
use super::duplex::{Duplex, ReadHalf, WriteHalf};
use super::listener::Listener;
use super::stream::Stream;
use crate::buf::{Chunk, Part};

/// A TCP connection. Dropping it ends what is under way and closes it. If bytes that were given to
/// [`TcpStream::write_all`] are unsent then, or a panic drops it, the connection is reset (RST), so
/// that the peer does not take a part for the whole.
///
/// Bytes are given away in both directions: the kernel chooses where it puts what it receives, and
/// owns what it sends until it has sent it. So no buffer is lent for as long as somebody waits, and
/// a future may be dropped at any time.
///
/// A stream belongs to the [`run`](crate::run) or server in which it was made. Reading or writing
/// it in another one panics.
pub struct TcpStream(Duplex);

impl TcpStream {
    /// Connects to `address`. Names are not looked up, which would keep the worker waiting.
    ///
    /// # Errors
    /// Those of connect(2).
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn connect(address: impl Into<SocketAddr>) -> io::Result<Self> {
        let stream = Stream::connect(address.into().into()).await?;
        stream.set_tcp_options()?;
        Ok(Self(Duplex::new(stream)))
    }

    /// The next piece that arrives, of up to 4 KiB; none when the peer will send no more. Nothing
    /// is lost if the future is dropped.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn read(&mut self) -> io::Result<Option<Chunk>> {
        self.0.read().await
    }

    /// Gives `bytes` away to be sent, and waits until the kernel has taken all of them. If the
    /// future is dropped, it may send them yet, or a part of them; the next write goes on behind.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn write_all(&mut self, bytes: impl Into<Part>) -> io::Result<()> {
        self.0.write_all(bytes.into()).await
    }

    /// Tells the peer that no more will come (FIN); what it sends can still be read. If bytes of a
    /// write that was given up are unsent, the connection is reset instead.
    pub fn shutdown_write(&mut self) {
        self.0.shutdown_write();
    }

    /// Both directions apart, for two coroutines.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        self.0.split()
    }

    /// The peer's address.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let peer = self.0.stream().peer();
        peer.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Our own address.
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

/// A TCP address that is ours, and the connections that come to it. While it lives, no other user's
/// process can have the address, and none of this user's that does not ask to share it
/// (`SO_REUSEPORT`, socket(7)).
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
    /// When the address cannot be had: one line, with who has the port where that can be known.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn bind(address: impl Into<SocketAddr>) -> io::Result<Self> {
        let Bound {
            address, sockets, ..
        } = bind(&Address::Tcp(address.into()), 1)?;
        let (Address::Tcp(address), Some(socket)) = (address, sockets.into_iter().next()) else {
            unreachable!("one socket was asked for, with a TCP address")
        };
        let listener = Listener::new(socket);
        Ok(Self { listener, address })
    }

    /// The next connection.
    ///
    /// # Errors
    /// When no connection can be accepted: descriptors or memory are exhausted, say. The next call
    /// tries again, so it is wise to sleep before.
    pub async fn accept(&mut self) -> io::Result<TcpStream> {
        let accepted = poll_fn(|context| self.listener.poll_accept(context)).await;
        let stream = accepted.expect("it is never stopped")?;
        Ok(TcpStream(Duplex::new(stream)))
    }

    /// Where it listens, with the real port.
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
