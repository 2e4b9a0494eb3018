//! The listening socket of one worker.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{AddressFamily, getsockname};

use super::stream::Stream;
use crate::engine::{self, Accepting, Descriptor};

/// A listening socket on the current worker.
#[derive(Debug)]
pub struct Listener {
    socket: Descriptor,
    accepting: Accepting,
    /// The address family of accepted connections.
    family: AddressFamily,
}

impl Listener {
    /// Takes over a listening socket.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn new(socket: OwnedFd) -> Self {
        // A descriptor that is not a socket has no name. The first accept on it fails.
        let family = getsockname(&socket).map_or(AddressFamily::UNSPEC, |own| own.address_family());
        let socket = Descriptor::new(socket);
        Self {
            family,
            accepting: Accepting::new(socket.clone()),
            socket,
        }
    }

    /// The next connection. After [`Listener::stop`], `None` once all accepted connections were
    /// returned.
    ///
    /// # Errors
    /// Those of accept(2) that do not concern a single connection, for example exhausted
    /// descriptors or memory. The next poll tries again.
    pub fn poll_accept(&self, context: &Context<'_>) -> Poll<Option<io::Result<Stream>>> {
        let accepted = self.accepting.poll_next(context);
        accepted.map(|next| next.map(|result| result.map(|socket| self.stream(socket))))
    }

    /// Stops accepting. New connections wait in the kernel's backlog.
    pub fn stop(&self) {
        self.accepting.stop();
    }

    /// Accepts a connection that waits in the backlog, if there is one, without waiting. Call this
    /// only after [`Listener::stop`].
    ///
    /// # Errors
    /// Those of accept(2).
    pub fn take_from_backlog(&self) -> io::Result<Option<Stream>> {
        fcntl_setfl(&self.socket, fcntl_getfl(&self.socket)? | OFlags::NONBLOCK)?;
        Ok(engine::accept(&self.socket)?.map(|socket| self.stream(socket)))
    }

    #[inline]
    fn stream(&self, socket: OwnedFd) -> Stream {
        Stream::new(Descriptor::new(socket), self.family)
    }

    /// Closes the socket at once. From now on, new connections are refused.
    pub fn close(self) {
        let Self {
            socket, accepting, ..
        } = self;
        drop(accepting);
        socket.close_now();
    }
}
