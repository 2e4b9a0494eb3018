//! The handles through which coroutines wait for the kernel: one type per operation, for both
//! engines.
//!
//! A handle holds the id of an operation. Dropping the handle leaves the operation to the engine,
//! with everything that the kernel may still use. A handle panics when it is used outside the run
//! that made it.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use rustix::net::{AddressFamily, SocketAddrAny};

use super::current::{NO_WORKER, try_with_run, with_run, with_worker};
use super::descriptor::Descriptor;
use super::op::{Events, Interest, OpId, Peer, Sent, Then};
use super::worker::Engine;
use crate::buf::{Chunk, Outgoing};
use crate::rt::Run;

/// An operation's id, and the run in which it is valid.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScopedId {
    id: OpId,
    run: Run,
}

impl ScopedId {
    /// The id of the operation that `start` begins in the current run.
    fn begin(start: impl FnOnce(&Engine) -> OpId) -> Self {
        let id = with_worker(|worker| Self {
            id: start(&worker.engine),
            run: worker.executor.run,
        });
        id.expect(NO_WORKER)
    }

    /// The id of another operation in the same run.
    pub(super) fn sibling(self, id: OpId) -> Self {
        Self { id, ..self }
    }

    /// Calls `body` with the engine that has the operation.
    #[inline(always)]
    pub(super) fn with<R>(self, body: impl FnOnce(&Engine, OpId) -> R) -> R {
        with_run(self.run, |engine| body(engine, self.id))
    }

    /// Calls `end`, which ends the operation. For destructors: outside a turn of the run, where a
    /// guest's host may drop a handle, `end` is called before its next turn.
    #[inline(always)]
    pub(super) fn end(self, end: impl FnOnce(&Engine, OpId) + Copy + Send + 'static) {
        let end = move || try_with_run(self.run, |engine| end(engine, self.id));
        if end().is_none() {
            self.run.call(end);
        }
    }
}

/// A continuous accept on a listener. Dropping it ends the accept.
#[derive(Debug)]
pub struct Accepting(ScopedId);

impl Accepting {
    /// Begins to accept when it is first polled.
    pub fn new(listener: Descriptor) -> Self {
        Self(ScopedId::begin(|engine| match engine {
            Engine::Uring(uring) => uring.0.start_accept(listener),
            Engine::Epoll(epoll) => epoll.start_accept(listener),
        }))
    }

    /// The next connection; `None` after `stop`, once all accepted connections are handed out.
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<Option<io::Result<OwnedFd>>> {
        self.0.with(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.poll_accept(id, context),
            Engine::Epoll(epoll) => epoll.poll_accept(id, context),
        })
    }

    /// Stops accepting.
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

/// One connect. Dropping it cancels the connect.
#[derive(Debug)]
pub struct Connecting(ScopedId);

impl Connecting {
    /// Begins to connect `socket`, which no other operation may be using yet.
    pub fn new(socket: Descriptor, address: SocketAddrAny) -> Self {
        Self(ScopedId::begin(|engine| match engine {
            Engine::Uring(uring) => uring.0.start_connect(socket, address),
            Engine::Epoll(epoll) => epoll.start_connect(socket, &address),
        }))
    }

    /// The result of the connect. Poll it until it is ready, and not after that.
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

/// A watch on the state of a descriptor. Dropping it ends the watch. Other code may use and watch
/// the descriptor at the same time.
#[derive(Debug)]
pub struct Polling(ScopedId);

impl Polling {
    /// Begins to watch when it is first polled.
    pub fn new(descriptor: Descriptor, interest: Events) -> Self {
        Self(ScopedId::begin(|engine| match engine {
            Engine::Uring(uring) => uring.0.start_polling(descriptor, interest),
            Engine::Epoll(epoll) => epoll.start_polling(descriptor, interest),
        }))
    }

    pub(super) fn id(&self) -> ScopedId {
        self.0
    }

    /// The events since the last call that was ready. The first call reports the current state.
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

/// A continuous receive on a socket. Dropping it cancels the receive.
#[derive(Debug)]
pub struct Receiving(ScopedId);

impl Receiving {
    /// Receives from a socket of the given family. Begins when it is first polled.
    pub fn new(socket: Descriptor, family: AddressFamily) -> Self {
        Self(ScopedId::begin(|engine| match engine {
            Engine::Uring(uring) => uring.0.start_recv(socket),
            Engine::Epoll(epoll) => epoll.start_recv(socket, family),
        }))
    }

    /// The next chunk; `None` when the peer will send no more (FIN).
    #[inline]
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        self.0.with(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.poll_recv(id, context),
            Engine::Epoll(epoll) => epoll.poll_recv(id, context),
        })
    }

    /// Fetches all completions that are available now, without waiting. If this receive is queued
    /// for a buffer, its bytes are received, too. Returns false if there were no completions.
    #[cold]
    pub fn fetch_completions(&self) -> bool {
        self.0.with(|engine, id| {
            // A failed ring fails again at the next visit, which reports the error.
            let has_come = engine.fetch_completions().unwrap_or(false);
            if let Engine::Uring(uring) = engine {
                uring.0.receive_queued(id);
            }
            has_come
        })
    }

    /// Whether bytes are known to have arrived. The caller is not woken when that changes.
    pub fn has_more(&self) -> bool {
        self.0.with(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.has_received(id),
            Engine::Epoll(epoll) => epoll.has_received(id),
        })
    }

    /// The state of the peer. No received byte is taken. The caller is woken when the state may
    /// have changed.
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

/// One send. Dropping it cancels the send; the engine keeps the bytes until the kernel has finished
/// with them.
#[derive(Debug)]
pub struct Sending(ScopedId);

impl Sending {
    /// Begins to send `outgoing` on `socket`, which must be the socket that `stream` receives from.
    #[inline(always)]
    pub fn new(stream: &Receiving, socket: Descriptor, outgoing: Outgoing, then: Then) -> Self {
        let run = stream.0.run;
        let id = with_run(run, |engine| match engine {
            Engine::Uring(uring) => uring.0.start_send(socket, outgoing, then),
            Engine::Epoll(epoll) => epoll.start_send(socket, outgoing, then),
        });
        Self(ScopedId { id, run })
    }

    /// The result of the send. Poll it until it is ready, and not after that. `interest` says which
    /// results wake the caller.
    #[inline]
    pub fn poll_end(&self, context: &Context<'_>, interest: Interest) -> Poll<Sent> {
        self.0.with(|engine, id| match engine {
            Engine::Uring(uring) => uring.0.poll_send(id, context, interest),
            Engine::Epoll(epoll) => epoll.poll_send(id, context, interest),
        })
    }

    /// Discards a handle whose `poll_end` was ready: there is no operation left to cancel.
    #[inline(always)]
    pub fn ended(self) {
        std::mem::forget(self);
    }

    /// Whether everything was sent. False outside the run, whose end cancelled the send.
    pub fn is_done(&self) -> bool {
        let is_done = try_with_run(self.0.run, |engine| match engine {
            Engine::Uring(uring) => uring.0.has_sent(self.0.id),
            Engine::Epoll(epoll) => epoll.has_sent(self.0.id),
        });
        is_done.unwrap_or(false)
    }

    /// Cancels the send; `poll_end` then reports how much was sent.
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::future::{Future, poll_fn};
    use std::io::pipe;
    use std::pin::pin;
    use std::time::Duration;

    use super::*;
    use crate::net::{TcpListener, TcpStream, UnixSeqpacket};
    use crate::rt::calling_waker;
    use crate::{EngineChoice, run_with};

    /// Uses both tables of epoll, or the one of the ring.
    fn reenter() {
        drop(TcpListener::bind(([127, 0, 0, 1], 0)));
        let (reader, _writer) = pipe().expect("a pipe");
        let polling = Polling::new(Descriptor::new(reader.into()), Events::READABLE);
        let _ = polling.poll_events(&Context::from_waker(std::task::Waker::noop()));
    }

    /// Foreign wakers that use the engine when they are cloned and when they are dropped.
    static REENTER: [fn(); 2] = [reenter; 2];

    /// Polls `future`, which waits, with one foreign waker after the other.
    fn poll_with_each(future: impl Future) {
        let mut future = pin!(future);
        for code in [&REENTER[0], &REENTER[1], &REENTER[0]] {
            let waker = calling_waker(code);
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
    }

    #[test]
    fn foreign_wakers_may_use_the_engine() {
        for choice in [EngineChoice::Auto, EngineChoice::Epoll] {
            let outcome = run_with(choice, async {
                let mut listener = TcpListener::bind(([127, 0, 0, 1], 0))?;
                poll_with_each(listener.accept());
                let mut client = TcpStream::connect(listener.local_addr()).await?;
                poll_with_each(client.read());
                poll_with_each(client.write_all(vec![b'x'; 20_000_000]));
                let (mut near, _far) = UnixSeqpacket::pair()?;
                poll_with_each(near.recv(Vec::new()));
                let sleep = || std::thread::sleep(Duration::from_millis(100));
                poll_with_each(crate::task::blocking(sleep));
                let (_sender, mut receiver) = crate::sync::channel::<()>(1);
                poll_with_each(receiver.recv());
                let (reader, _writer) = pipe()?;
                let polling = Polling::new(Descriptor::new(reader.into()), Events::READABLE);
                poll_with_each(poll_fn(|context| polling.poll_events(context)));
                io::Result::Ok(())
            });
            outcome.expect("an engine").expect("no error");
        }
    }

    /// epoll cannot watch a regular file.
    #[test]
    fn a_foreign_waker_of_a_poll_that_fails_may_use_the_engine() {
        let outcome = run_with(EngineChoice::Epoll, async {
            let file = Descriptor::new(File::open("Cargo.toml")?.into());
            let polling = Polling::new(file, Events::READABLE);
            for code in [&REENTER[0], &REENTER[1]] {
                let waker = calling_waker(code);
                let polled = polling.poll_events(&Context::from_waker(&waker));
                assert!(matches!(polled, Poll::Ready(Err(_))));
            }
            io::Result::Ok(())
        });
        outcome.expect("an engine").expect("no error");
    }
}
