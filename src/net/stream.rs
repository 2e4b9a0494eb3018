//! The socket of one connection.

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
use crate::rt::EventWait;
use crate::sys::mutants::mutate;
use crate::sys::{limits, socket};

/// A connected byte stream, TCP or Unix, on the current worker. Dropping it cancels its operations.
/// The socket is closed when the kernel has completed them.
#[derive(Debug)]
pub struct Stream {
    sending: Option<Sending>,
    receiving: Receiving,
    socket: Descriptor,
}

impl Stream {
    /// Takes over a connected socket of the address family `family`.
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

    /// Connects a new socket to `address`. If the future is dropped before it is ready, the connect
    /// is cancelled, and the socket is closed when the kernel has completed it.
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

    /// The next received chunk; `None` after the peer's FIN.
    ///
    /// # Errors
    /// If the connection is broken.
    #[inline]
    pub fn poll_recv(&self, context: &Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.receiving.poll_next(context)
    }

    /// Processes all completions that have arrived at the worker by now, for this stream and all
    /// others, without waiting. Returns whether there were any.
    pub fn fetch_completions(&self) -> bool {
        self.receiving.fetch_completions()
    }

    /// Whether [`Stream::poll_recv`] has more bytes to return, as far as is known.
    pub fn has_more(&self) -> bool {
        self.receiving.has_more()
    }

    /// The state of the peer, for a caller that does not receive from it meanwhile. The caller is
    /// woken when the state may have changed.
    pub fn poll_peer(&self, context: &Context<'_>) -> Peer {
        let peer = self.receiving.poll_peer(context);
        if peer != Peer::Present {
            self.socket.notify_gone();
        }
        peer
    }

    /// Ends an exchange with the peer. This completes [`Remote::gone`] of all references made
    /// before.
    #[inline]
    pub fn end_exchange(&self) {
        self.socket.end_exchange();
    }

    /// Makes a reference to the stream that does not keep the socket open.
    #[inline]
    pub fn remote(&self) -> Remote {
        Remote(self.socket.downgrade())
    }

    /// Gives `outgoing` to the kernel to be sent. `then` says what follows it. Only one send can be
    /// in flight.
    ///
    /// # Panics
    /// If another send is in flight, and outside the run that made the stream.
    #[inline(always)]
    pub fn start_send(&mut self, outgoing: Outgoing, then: Then) {
        assert!(
            mutate!(SecondSend, true, self.sending.is_none()),
            "a send is in flight already; two would mix their bytes"
        );
        let socket = self.socket.clone();
        self.sending = Some(Sending::new(&self.receiving, socket, outgoing, then));
    }

    /// Whether a send is in flight.
    pub fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Whether a send is in flight that has not sent everything, as far as is known.
    pub fn has_unsent(&self) -> bool {
        self.sending
            .as_ref()
            .is_some_and(|sending| !sending.is_done())
    }

    /// The outcome of the send in flight. `interest` selects the outcomes that wake the caller.
    ///
    /// # Panics
    /// If no send is in flight.
    #[inline]
    pub fn poll_sent(&mut self, context: &Context<'_>, interest: Interest) -> Poll<Sent> {
        let sending = self.sending.as_ref().expect("a send is in flight");
        let end = sending.poll_end(context, interest);
        if end.is_ready() {
            self.sending.take().into_iter().for_each(Sending::ended);
        }
        end
    }

    /// Asks the kernel to cancel the send in flight. [`Stream::poll_sent`] then returns how many
    /// bytes were sent.
    pub fn cancel_send(&self) {
        if let Some(sending) = &self.sending {
            sending.cancel();
        }
    }

    /// Ends our side of the stream (FIN). Receiving continues.
    pub fn shutdown_write(&self) {
        // This fails only if the peer is gone already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// Makes the close of the socket reset the connection (RST). Bytes that the peer has not
    /// received by then are lost. This has no effect on a Unix socket, which cannot be reset.
    pub fn reset_on_close(&self) {
        // This fails only if the peer is gone already.
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    /// Resets the connection at once (RST). Operations in flight end with an error. A Unix socket
    /// cannot be reset; its side of the stream is ended instead, as by
    /// [`Stream::shutdown_write`].
    pub fn reset(&self) {
        if self.is_unix() {
            self.shutdown_write();
        } else {
            self.reset_on_close();
            // connect(2) to AF_UNSPEC disconnects the socket with a RST. A kernel that refuses this
            // while one of its threads waits on the socket sends the RST at the close.
            let _ = rustix::net::connect_unspec(&self.socket);
        }
    }

    /// The number of sent bytes that the peer has not acknowledged (Unix: not read); `None` if that
    /// cannot be known.
    pub fn unacknowledged(&self) -> Option<u32> {
        socket::unacknowledged(&self.socket).ok()
    }

    /// Sets `TCP_NODELAY` and `SO_KEEPALIVE`: the kernel sends written bytes at once, and detects a
    /// peer that has disappeared.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn set_tcp_options(&self) -> io::Result<()> {
        sockopt::set_tcp_nodelay(&self.socket, true)?;
        Ok(sockopt::set_socket_keepalive(&self.socket, true)?)
    }

    /// The number of the socket's descriptor.
    pub fn number(&self) -> u64 {
        limits::number(&self.socket)
    }

    /// The local address.
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

    /// Whether it is a Unix socket that has a file.
    pub fn has_socket_file(&self) -> bool {
        self.local().is_ok_and(|local| socket::has_file(&local))
    }

    /// The peer's address; `None` for a Unix socket, or if the peer is gone already.
    pub fn peer(&self) -> Option<SocketAddr> {
        let address = rustix::net::getpeername(&self.socket).ok().flatten()?;
        address.try_into().ok()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.socket.notify_gone();
    }
}

/// A reference to a stream that does not keep the socket open.
#[derive(Debug, Clone)]
pub struct Remote(WeakDescriptor);

impl Remote {
    /// As [`Stream::peer`]; `None` also if the stream is closed. Remembered from the first call.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.upgrade()?.addresses().peer
    }

    /// The local address; `None` for a Unix socket, or if the stream is closed. Remembered from the
    /// first call.
    pub fn local(&self) -> Option<SocketAddr> {
        self.0.upgrade()?.addresses().local
    }

    /// Whether the stream is open and is a Unix socket that has a file. Remembered from the first
    /// call.
    pub fn has_socket_file(&self) -> bool {
        let descriptor = self.0.upgrade();
        descriptor.is_some_and(|descriptor| descriptor.addresses().has_socket_file)
    }

    /// Waits until the peer has half-closed or reset the stream, the stream is dropped, or the
    /// exchange in which the reference was made has ended. A half-close and a reset are noticed
    /// only while a task calls [`Stream::poll_peer`].
    pub fn gone(&self) -> EventWait {
        self.0.gone()
    }
}
