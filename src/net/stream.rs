//! A connection's socket.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::{AddressFamily, Shutdown, SocketAddrAny, SocketFlags, SocketType, sockopt};

use crate::buf::{Chunk, Outgoing};
use crate::engine::{
    Connecting, Descriptor, Interest, Peer, Receiving, Sending, Sent, Then, WeakDescriptor,
};
use crate::rt::Occurrence;
use crate::sys::mutants::mutate;
use crate::sys::{limits, socket};

/// A connected byte stream, TCP or Unix, on the current worker. Dropping it cancels what is in
/// flight and closes the socket when the kernel is done.
#[derive(Debug)]
pub struct Stream {
    sending: Option<Sending>,
    receiving: Receiving,
    socket: Descriptor,
}

impl Stream {
    /// Takes over a connected socket of that family.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn new(socket: Descriptor, family: AddressFamily) -> Self {
        Self {
            sending: None,
            receiving: Receiving::new(socket.clone(), family),
            socket,
        }
    }

    /// Connects a new socket. If the future is dropped before it is ready, the kernel is told to
    /// give up, and the socket is closed when it has.
    ///
    /// # Errors
    /// Those of socket(2) and connect(2).
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn connect(address: SocketAddrAny) -> io::Result<Self> {
        let (family, flags) = (address.address_family(), SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        let socket = Descriptor::new(socket);
        let connecting = Connecting::new(socket.clone(), address);
        poll_fn(|context| connecting.poll_end(context)).await?;
        drop(connecting);
        Ok(Self::new(socket, family))
    }

    /// The next piece that arrives; none when the peer will send no more.
    ///
    /// # Errors
    /// When the connection broke.
    #[inline]
    pub fn poll_recv(&self, context: &Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.receiving.poll_next(context)
    }

    /// Asks the kernel at once for all that has arrived by now, on this stream or another. False:
    /// nothing has.
    pub fn look(&self) -> bool {
        self.receiving.look()
    }

    /// Whether more is known to have arrived.
    pub fn has_more(&self) -> bool {
        self.receiving.has_more()
    }

    /// Tells whether the peer is still there, while nothing is received from it. The caller is
    /// woken when that may have changed.
    pub fn poll_peer(&self, context: &Context<'_>) -> Peer {
        let peer = self.receiving.poll_peer(context);
        if peer != Peer::Present {
            self.socket.tell_gone();
        }
        peer
    }

    /// The stream as others may know it.
    #[inline]
    pub fn remote(&self) -> Remote {
        Remote(self.socket.downgrade())
    }

    /// Gives `outgoing` to the kernel, and says what comes after it. There is one send at a time.
    ///
    /// # Panics
    /// While another send is in flight, and in another run than the stream's own.
    #[inline(always)]
    pub fn start_send(&mut self, outgoing: Outgoing, then: Then) {
        assert!(
            mutate!(SecondSend, true, self.sending.is_none()),
            "one send at a time keeps the bytes in order"
        );
        let socket = self.socket.clone();
        self.sending = Some(Sending::new(&self.receiving, socket, outgoing, then));
    }

    /// Whether a send is in flight.
    pub fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Whether a send has not sent everything, as far as is known by now.
    pub fn has_unsent(&self) -> bool {
        self.sending
            .as_ref()
            .is_some_and(|sending| !sending.is_done())
    }

    /// How the send in flight ended. The caller is woken for what it has an `interest` in.
    ///
    /// # Panics
    /// When no send is in flight.
    #[inline]
    pub fn poll_sent(&mut self, context: &Context<'_>, interest: Interest) -> Poll<Sent> {
        let sending = self.sending.as_ref().expect("a send is in flight");
        let end = sending.poll_end(context, interest);
        if end.is_ready() {
            self.sending.take().into_iter().for_each(Sending::ended);
        }
        end
    }

    /// Asks the kernel to end the send in flight; [`Stream::poll_sent`] then tells how far it came.
    pub fn cancel_send(&self) {
        if let Some(sending) = &self.sending {
            sending.cancel();
        }
    }

    /// Tells the peer that nothing more will come (FIN); receiving goes on.
    pub fn shutdown_write(&self) {
        // It can only fail when the peer is gone already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// Lets the close of the socket break the connection off (RST); what the peer has not yet
    /// received is lost. A Unix socket knows no such end.
    pub fn reset_on_close(&self) {
        // It can only fail when the peer is gone already.
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    /// Breaks the connection off at once (RST); what is in flight ends with an error. On a Unix
    /// socket, which knows no such end, the peer is told that nothing more will come.
    pub fn reset(&self) {
        if self.is_unix() {
            self.shutdown_write();
        } else {
            self.reset_on_close();
            // Dissolves the association (connect(2)). A kernel that refuses this while one of its
            // threads waits on the socket does it at the close.
            let _ = rustix::net::connect_unspec(&self.socket);
        }
    }

    /// How many bytes of what was sent have not reached the peer; none when that cannot be known.
    pub fn unacknowledged(&self) -> Option<u32> {
        socket::unacknowledged(&self.socket).ok()
    }

    /// Sends what is written at once, and finds out by itself when a peer is gone.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn set_tcp_options(&self) -> io::Result<()> {
        sockopt::set_tcp_nodelay(&self.socket, true)?;
        Ok(sockopt::set_socket_keepalive(&self.socket, true)?)
    }

    /// The number of its descriptor.
    pub fn number(&self) -> u64 {
        limits::number(&self.socket)
    }

    /// Our own address.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local(&self) -> io::Result<SocketAddrAny> {
        Ok(rustix::net::getsockname(&self.socket)?)
    }

    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.local()
            .is_ok_and(|local| local.address_family() == AddressFamily::UNIX)
    }

    /// The peer's address; none for a Unix socket, or when the peer is gone already.
    pub fn peer(&self) -> Option<SocketAddr> {
        peer_of(&self.socket)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.socket.tell_gone();
    }
}

/// A stream's two ends, for those that neither own it nor keep it open.
#[derive(Debug, Clone)]
pub struct Remote(WeakDescriptor);

impl Remote {
    /// As [`Stream::peer`]; none when the stream is closed.
    pub fn peer(&self) -> Option<SocketAddr> {
        peer_of(&self.0.upgrade()?)
    }

    /// Our own address; none for a Unix socket, or when the stream is closed.
    pub fn local(&self) -> Option<SocketAddr> {
        let address = rustix::net::getsockname(self.0.upgrade()?).ok()?;
        address.try_into().ok()
    }

    /// Waits until the peer has ended its side or reset the stream, or the stream is dropped. The
    /// first two are noticed while somebody polls the stream.
    pub fn gone(&self) -> Occurrence {
        self.0.gone()
    }
}

fn peer_of(socket: &Descriptor) -> Option<SocketAddr> {
    let address = rustix::net::getpeername(socket).ok().flatten()?;
    address.try_into().ok()
}
