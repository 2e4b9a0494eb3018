//! One worker's end of an address.

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
    /// Of the connections that come.
    family: AddressFamily,
}

impl Listener {
    /// Takes over a listening socket.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn new(socket: OwnedFd) -> Self {
        // A descriptor that is not a socket fails when it is asked for connections.
        let family = getsockname(&socket).map_or(AddressFamily::UNSPEC, |own| own.address_family());
        let socket = Descriptor::new(socket);
        Self {
            family,
            accepting: Accepting::new(socket.clone()),
            socket,
        }
    }

    /// The next connection; none after [`Listener::stop`], when all that were accepted are handed
    /// out.
    ///
    /// # Errors
    /// Those of accept(2) that are not about a single connection: descriptors or memory are
    /// exhausted, say. Polling again tries again.
    pub fn poll_accept(&self, context: &Context<'_>) -> Poll<Option<io::Result<Stream>>> {
        let accepted = self.accepting.poll_next(context);
        accepted.map(|next| next.map(|result| result.map(|socket| self.stream(socket))))
    }

    /// Accepts no more; connections that come wait in the kernel's backlog.
    pub fn stop(&self) {
        self.accepting.stop();
    }

    /// Takes a connection out of the backlog, if one waits there. To be called once stopped.
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

    /// Closes the socket at once: connections that come are refused from now on.
    pub fn close(self) {
        let Self {
            socket, accepting, ..
        } = self;
        drop(accepting);
        socket.close_now();
    }
}
