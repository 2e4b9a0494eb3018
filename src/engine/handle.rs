//! What a coroutine waits for in the kernel: one handle per operation, whatever the engine.
//!
//! A handle holds the name of an operation. Dropping it leaves the operation to the engine, with
//! everything that the kernel may still use.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use rustix::net::SocketAddrAny;

use super::descriptor::Descriptor;
use super::op::{Interest, OpId, Sent, Then};
use super::{Engine, try_with_current, with_current};
use crate::buf::{Chunk, Outgoing};

/// An accept that goes on; dropping it ends it.
#[derive(Debug)]
pub struct Accepting(OpId);

impl Accepting {
    /// Starts to accept when first polled.
    pub fn new(listener: Descriptor) -> Self {
        Self(with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.start_accept(listener),
            Engine::Epoll(epoll) => epoll.start_accept(listener),
        }))
    }

    /// The next connection; none once it was stopped and everything accepted is handed out.
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<Option<io::Result<OwnedFd>>> {
        with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.poll_accept(self.0, context),
            Engine::Epoll(epoll) => epoll.poll_accept(self.0, context),
        })
    }

    /// Accepts no more.
    pub fn stop(&self) {
        with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.stop_accept(self.0),
            Engine::Epoll(epoll) => epoll.stop_accept(self.0),
        });
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        try_with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.orphan(self.0),
            Engine::Epoll(epoll) => epoll.unwatch(self.0),
        });
    }
}

/// One connect; dropping it ends it.
#[derive(Debug)]
pub struct Connecting(OpId);

impl Connecting {
    /// Starts to connect a socket that nobody else uses as yet.
    pub fn new(socket: Descriptor, address: SocketAddrAny) -> Self {
        Self(with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.start_connect(socket, address),
            Engine::Epoll(epoll) => epoll.start_connect(socket, &address),
        }))
    }

    /// How it ended. To be polled until ready, and not after.
    pub fn poll_end(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.poll_connect(self.0, context),
            Engine::Epoll(epoll) => epoll.poll_connect(self.0, context),
        })
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        try_with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.orphan(self.0),
            Engine::Epoll(epoll) => epoll.unwatch(self.0),
        });
    }
}

/// A receive that goes on; dropping it ends it.
#[derive(Debug)]
pub struct Receiving(OpId);

impl Receiving {
    /// Starts to receive when first polled.
    pub fn new(socket: Descriptor) -> Self {
        Self(with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.start_recv(socket),
            Engine::Epoll(epoll) => epoll.start_recv(socket),
        }))
    }

    /// The next piece; none when the peer will send no more.
    #[inline]
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.poll_recv(self.0, context),
            Engine::Epoll(epoll) => epoll.poll_recv(self.0, context),
        })
    }

    /// Whether more is known to have come. Nobody is woken for it.
    pub fn has_more(&self) -> bool {
        with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.has_received(self.0),
            Engine::Epoll(epoll) => epoll.has_received(self.0),
        })
    }

    /// Ready when the connection broke, without taking anything of what was received.
    pub fn poll_broken(&self, context: &Context<'_>) -> Poll<io::Error> {
        with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.poll_broken(self.0, context),
            Engine::Epoll(epoll) => epoll.poll_broken(self.0, context),
        })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        try_with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.orphan(self.0),
            Engine::Epoll(epoll) => epoll.unwatch(self.0),
        });
    }
}

/// One send; dropping it cancels it, and what was given away stays the engine's until then.
#[derive(Debug)]
pub struct Sending(OpId);

impl Sending {
    /// Gives `outgoing` to the kernel.
    #[inline(always)]
    pub fn new(socket: Descriptor, outgoing: Outgoing, then: Then) -> Self {
        Self(with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.start_send(socket, outgoing, then),
            Engine::Epoll(epoll) => epoll.start_send(socket, outgoing, then),
        }))
    }

    /// How it ended. To be polled until ready, and not after; what the caller wants to be woken
    /// for is its `interest`.
    #[inline]
    pub fn poll_end(&self, context: &Context<'_>, interest: Interest) -> Poll<Sent> {
        with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.poll_send(self.0, context, interest),
            Engine::Epoll(epoll) => epoll.poll_send(self.0, context, interest),
        })
    }

    /// Asks the kernel to stop; `poll_end` then tells how far it came.
    pub fn cancel(&self) {
        with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.cancel(self.0),
            Engine::Epoll(epoll) => epoll.cancel_send(self.0),
        });
    }
}

impl Drop for Sending {
    #[inline]
    fn drop(&mut self) {
        try_with_current(|engine| match engine {
            Engine::Uring(uring) => uring.0.orphan(self.0),
            Engine::Epoll(epoll) => epoll.drop_send(self.0),
        });
    }
}
