//! What a coroutine waits for in the kernel: one handle per operation, whatever the engine.
//!
//! A handle holds the name of an operation. Dropping it leaves the operation to the engine, with
//! everything that the kernel may still use. Used in another run than the one that made it, it
//! panics.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use rustix::net::{AddressFamily, SocketAddrAny};

use super::current::{OUTSIDE, try_with_run, with_run, with_worker};
use super::descriptor::Descriptor;
use super::op::{Events, Interest, OpId, Peer, Sent, Then};
use super::run::Run;
use super::worker::Engine;
use crate::buf::{Chunk, Outgoing};

/// An operation's name, and the run in which it is valid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    id: OpId,
    run: Run,
}

impl Name {
    /// Of what `start` has begun in the current run.
    fn of(start: impl FnOnce(&Engine) -> OpId) -> Self {
        let name = with_worker(|worker| Self {
            id: start(&worker.engine),
            run: worker.run,
        });
        name.expect(OUTSIDE)
    }

    /// Another operation's name, in the same run.
    pub(super) fn beside(self, id: OpId) -> Self {
        Self { id, ..self }
    }

    /// Hands `body` the engine that knows the name.
    #[inline(always)]
    pub(super) fn with<R>(self, body: impl FnOnce(&Engine, OpId) -> R) -> R {
        with_run(self.run, |engine| body(engine, self.id))
    }

    /// The same, for the drop of a handle: outside its run there is nothing left to end.
    #[inline(always)]
    pub(super) fn end(self, body: impl FnOnce(&Engine, OpId)) {
        try_with_run(self.run, |engine| body(engine, self.id));
    }
}

/// An accept that goes on; dropping it ends it.
#[derive(Debug)]
pub struct Accepting(Name);

impl Accepting {
    /// Starts to accept when first polled.
    pub fn new(listener: Descriptor) -> Self {
        Self(Name::of(|engine| match engine {
            Engine::Uring(uring) => uring.0.start_accept(listener),
            Engine::Epoll(epoll) => epoll.start_accept(listener),
        }))
    }

    /// The next connection; none once it was stopped and everything accepted is handed out.
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<Option<io::Result<OwnedFd>>> {
        self.0.with(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.poll_accept(id, context),
            Engine::Epoll(epoll) => epoll.poll_accept(id, context),
        })
    }

    /// Accepts no more.
    pub fn stop(&self) {
        self.0.with(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.stop_accept(id),
            Engine::Epoll(epoll) => epoll.stop_accept(id),
        });
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.end(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.orphan(id),
            Engine::Epoll(epoll) => epoll.unwatch(id),
        });
    }
}

/// One connect; dropping it ends it.
#[derive(Debug)]
pub struct Connecting(Name);

impl Connecting {
    /// Starts to connect a socket that nobody else uses as yet.
    pub fn new(socket: Descriptor, address: SocketAddrAny) -> Self {
        Self(Name::of(|engine| match engine {
            Engine::Uring(uring) => uring.0.start_connect(socket, address),
            Engine::Epoll(epoll) => epoll.start_connect(socket, &address),
        }))
    }

    /// How it ended. To be polled until ready, and not after.
    pub fn poll_end(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        self.0.with(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.poll_connect(id, context),
            Engine::Epoll(epoll) => epoll.poll_connect(id, context),
        })
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.end(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.orphan(id),
            Engine::Epoll(epoll) => epoll.unwatch(id),
        });
    }
}

/// A wait for changes of a descriptor's state; dropping it ends it. Others may use and poll the
/// descriptor meanwhile.
#[derive(Debug)]
pub struct Polling(Name);

impl Polling {
    /// Starts to watch when first polled.
    pub fn new(descriptor: Descriptor, interest: Events) -> Self {
        Self(Name::of(|engine| match engine {
            Engine::Uring(uring) => uring.0.start_polling(descriptor, interest),
            Engine::Epoll(epoll) => epoll.start_polling(descriptor, interest),
        }))
    }

    pub(super) fn name(&self) -> Name {
        self.0
    }

    /// Events since the last call that was ready; at first, those that hold.
    pub fn poll_events(&self, context: &Context<'_>) -> Poll<io::Result<Events>> {
        self.0.with(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.poll_events(id, context),
            Engine::Epoll(epoll) => epoll.poll_events(id, context),
        })
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.end(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.orphan(id),
            Engine::Epoll(epoll) => epoll.end_polling(id),
        });
    }
}

/// A receive that goes on; dropping it ends it.
#[derive(Debug)]
pub struct Receiving(Name);

impl Receiving {
    /// Starts to receive from a socket of that family when first polled.
    pub fn new(socket: Descriptor, family: AddressFamily) -> Self {
        Self(Name::of(|engine| match engine {
            Engine::Uring(uring) => uring.0.start_recv(socket),
            Engine::Epoll(epoll) => epoll.start_recv(socket, family),
        }))
    }

    /// The next piece; none when the peer will send no more.
    #[inline]
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.0.with(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.poll_recv(id, context),
            Engine::Epoll(epoll) => epoll.poll_recv(id, context),
        })
    }

    /// Asks the kernel for all that has come by now, for this receive above all. False: nothing
    /// has.
    #[cold]
    pub fn look(&self) -> bool {
        self.0.with(|engine, id| {
            // A ring that fails does so again at the next visit, which reports it.
            let has_come = engine.look().unwrap_or(false);
            if let Engine::Uring(uring) = engine {
                uring.0.receive_queued(id);
            }
            has_come
        })
    }

    /// Whether more is known to have come. Nobody is woken for it.
    pub fn has_more(&self) -> bool {
        self.0.with(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.has_received(id),
            Engine::Epoll(epoll) => epoll.has_received(id),
        })
    }

    /// Tells whether the peer is still there. The caller is woken when that may have changed; no
    /// received byte is taken.
    pub fn poll_peer(&self, context: &Context<'_>) -> Peer {
        self.0.with(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.poll_peer(id, context),
            Engine::Epoll(epoll) => epoll.poll_peer(id, context),
        })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.end(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.orphan(id),
            Engine::Epoll(epoll) => epoll.unwatch(id),
        });
    }
}

/// One send; dropping it cancels it, and what was given away stays the engine's until then.
#[derive(Debug)]
pub struct Sending(Name);

impl Sending {
    /// Gives `outgoing` to the kernel, to be sent on the `socket` that `stream` receives from.
    #[inline(always)]
    pub fn new(stream: &Receiving, socket: Descriptor, outgoing: Outgoing, then: Then) -> Self {
        let run = stream.0.run;
        let id = with_run(run, |engine| match engine {
            Engine::Uring(uring) => uring.0.start_send(socket, outgoing, then),
            Engine::Epoll(epoll) => epoll.start_send(socket, outgoing, then),
        });
        Self(Name { id, run })
    }

    /// How it ended. To be polled until ready, and not after; what the caller wants to be woken
    /// for is its `interest`.
    #[inline]
    pub fn poll_end(&self, context: &Context<'_>, interest: Interest) -> Poll<Sent> {
        self.0.with(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.poll_send(id, context, interest),
            Engine::Epoll(epoll) => epoll.poll_send(id, context, interest),
        })
    }

    /// Ends a handle whose `poll_end` was ready: no operation is left to be dropped.
    #[inline(always)]
    pub fn ended(self) {
        std::mem::forget(self);
    }

    /// Whether everything has gone out. False outside its run, whose end has cut it off.
    pub fn is_done(&self) -> bool {
        let is_done = try_with_run(self.0.run, |engine| match engine {
            Engine::Uring(uring) => uring.0.has_sent(self.0.id),
            Engine::Epoll(epoll) => epoll.has_sent(self.0.id),
        });
        is_done.unwrap_or(false)
    }

    /// Asks the kernel to stop; `poll_end` then tells how far it came.
    pub fn cancel(&self) {
        self.0.with(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.cancel(id),
            Engine::Epoll(epoll) => epoll.cancel_send(id),
        });
    }
}

impl Drop for Sending {
    #[inline]
    fn drop(&mut self) {
        self.0.end(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.orphan(id),
            Engine::Epoll(epoll) => epoll.drop_send(id),
        });
    }
}
