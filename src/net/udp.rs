//! UDP sockets for programs. A datagram is sent or received by a system call that does not wait; if
//! it would, the coroutine waits until the socket is ready and tries again.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketAddrAny, recvfrom, send, sendto};

use crate::engine::{Descriptor, Events, Polling};
use crate::rt::yield_now;

/// At most this many datagrams are sent and received without a pause. A peer can send as fast as
/// this worker receives, and its other coroutines must have their turn.
const BURST_MAX: u32 = 64;

/// A UDP socket. Its coroutines may share it, for example in an `Rc`: one may receive while others
/// send.
///
/// ```
/// use coring::net::UdpSocket;
///
/// # fn main() -> std::io::Result<()> {
/// coring::run(async {
///     let server = UdpSocket::bind(([127, 0, 0, 1], 0))?;
///     let client = UdpSocket::bind(([127, 0, 0, 1], 0))?;
///     client.send_to(b"hello", server.local_addr()?).await?;
///     let (datagram, peer) = server.recv_from(1500).await?;
///     assert_eq!((&datagram[..], peer), (&b"hello"[..], client.local_addr()?));
///     Ok(())
/// })
/// # }
/// ```
pub struct UdpSocket {
    socket: Descriptor,
    /// The datagrams since the last pause.
    burst: Cell<u32>,
}

impl UdpSocket {
    /// Makes a socket with this local address; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn bind(address: impl Into<SocketAddr>) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address.into())?;
        Ok(Self {
            socket: Descriptor::new(socket.into()),
            burst: Cell::new(0),
        })
    }

    /// Sets the peer of [`UdpSocket::send`]. From then on only its datagrams are received.
    ///
    /// # Errors
    /// Those of connect(2).
    pub fn connect(&self, peer: impl Into<SocketAddr>) -> io::Result<()> {
        Ok(rustix::net::connect(&self.socket, &peer.into())?)
    }

    /// Receives one datagram and its sender. Bytes beyond `bytes_max` are lost, as the kernel does
    /// not keep them. If the future is dropped, no datagram is lost.
    ///
    /// # Errors
    /// Those of recvfrom(2), such as `ConnectionRefused` if an earlier datagram to the peer had no
    /// receiver.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn recv_from(&self, bytes_max: usize) -> io::Result<(Vec<u8>, SocketAddr)> {
        let mut bytes = Vec::with_capacity(bytes_max);
        let receive = || {
            let (_, _, peer) = recvfrom(
                &self.socket,
                spare_capacity(&mut bytes),
                RecvFlags::DONTWAIT,
            )?;
            peer.ok_or(Errno::NOTCONN)
        };
        let peer = self.attempt(Events::READABLE, receive).await?;
        Ok((bytes, peer.try_into()?))
    }

    /// Sends one datagram to `peer`. If the future is dropped before it is ready, the datagram is
    /// not sent.
    ///
    /// # Errors
    /// Those of sendto(2), such as `EMSGSIZE`.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn send_to(&self, bytes: &[u8], peer: impl Into<SocketAddr>) -> io::Result<()> {
        let peer = SocketAddrAny::from(peer.into());
        let send = || sendto(&self.socket, bytes, SendFlags::DONTWAIT, &peer);
        self.attempt(Events::WRITABLE, send).await.map(drop)
    }

    /// Sends one datagram to the peer that [`UdpSocket::connect`] has set. Dropping is as for
    /// [`UdpSocket::send_to`].
    ///
    /// # Errors
    /// `EDESTADDRREQ` without a peer, and those of [`UdpSocket::send_to`].
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let send = || send(&self.socket, bytes, SendFlags::DONTWAIT);
        self.attempt(Events::WRITABLE, send).await.map(drop)
    }

    /// The local address, with the real port.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(rustix::net::getsockname(&self.socket)?.try_into()?)
    }

    /// Calls `call` until it does not fail because it would wait. Each waiter has a poll of its
    /// own, so each is woken.
    async fn attempt<T>(
        &self,
        ready: Events,
        mut call: impl FnMut() -> Result<T, Errno>,
    ) -> io::Result<T> {
        if self.burst.replace(self.burst.get() + 1) == BURST_MAX {
            // Before the call: if the future is dropped meanwhile, no datagram is lost.
            self.burst.set(0);
            yield_now().await;
        }
        let mut polling = None;
        loop {
            match call() {
                Err(Errno::AGAIN) => {
                    self.burst.set(0);
                    let polling =
                        polling.get_or_insert_with(|| Polling::new(self.socket.clone(), ready));
                    poll_fn(|context| polling.poll_events(context)).await?;
                }
                Err(Errno::INTR) => {}
                outcome => return Ok(outcome?),
            }
        }
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::net::tests::on_each;
    use crate::spawn;
    use crate::task::join_all;
    use crate::time::timeout;

    fn socket() -> io::Result<UdpSocket> {
        UdpSocket::bind(([127, 0, 0, 1], 0))
    }

    #[test]
    fn datagrams_keep_their_bounds_and_a_dropped_receive_loses_none() {
        on_each(async || {
            let (near, far) = (socket()?, socket()?);
            let early = timeout(Duration::from_millis(30), near.recv_from(10)).await;
            assert!(early.is_err());
            for text in ["one", "", "longer than ten bytes"] {
                far.send_to(text.as_bytes(), near.local_addr()?).await?;
            }
            let mut received = Vec::new();
            for _ in 0..3 {
                let (datagram, peer) = near.recv_from(10).await?;
                assert_eq!(peer, far.local_addr()?);
                received.push(String::from_utf8(datagram).expect("text"));
            }
            assert_eq!(received, ["one", "", "longer tha"]);
            Ok(())
        });
    }

    #[test]
    fn a_socket_that_is_never_empty_lets_other_coroutines_run() {
        on_each(async || {
            let near = socket()?;
            let address = near.local_addr()?;
            near.send_to(b"x", address).await?;
            let other = spawn(async {});
            for _ in 0..BURST_MAX {
                let (datagram, _) = near.recv_from(10).await?;
                near.send_to(&datagram, address).await?;
            }
            assert!(other.is_finished());
            Ok(())
        });
    }

    #[test]
    fn all_receivers_of_a_socket_get_datagrams() {
        on_each(async || {
            let near = Rc::new(socket()?);
            let receivers = (0..3).map(|_| {
                let near = near.clone();
                spawn(async move { near.recv_from(10).await })
            });
            let receivers: Vec<_> = receivers.collect();
            yield_now().await;
            let far = socket()?;
            assert_eq!(
                far.send(b"x").await.unwrap_err().raw_os_error(),
                Some(libc::EDESTADDRREQ)
            );
            far.connect(near.local_addr()?)?;
            for number in 0..3 {
                far.send(&[number]).await?;
            }
            let mut received = Vec::new();
            for outcome in join_all(receivers).await {
                received.extend(outcome.expect("no panic")?.0);
            }
            received.sort_unstable();
            assert_eq!(received, [0, 1, 2]);
            Ok(())
        });
    }

    #[test]
    fn a_peer_without_a_socket_is_an_error_of_a_connected_one() {
        on_each(async || {
            let near = socket()?;
            // Closed at once: the engine would close a socket of its own a little later.
            let gone = std::net::UdpSocket::bind(("127.0.0.1", 0))?.local_addr()?;
            near.connect(gone)?;
            near.send(b"x").await?;
            let error = near.recv_from(10).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            Ok(())
        });
    }
}
