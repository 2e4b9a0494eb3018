//! The engine on epoll, edge-triggered, for systems that forbid io_uring (epoll(7)).
//!
//! It performs the same operations as the ring. A receive or an accept is tried once the kernel has
//! reported readiness; a send is tried at once. The state of each socket is kept in an array
//! indexed by its descriptor, as in picoev.

mod connections;
mod polls;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::AddressFamily;

use crate::buf::{Chunk, Outgoing, Pool};
use crate::engine::Refused;
use crate::engine::descriptor::Descriptor;
use crate::engine::op::{
    self, Interest, OP_EXISTS, OpId, PartialSend, Peer, Sent, StreamEnd, Then,
};
use crate::engine::worker::Eventfd;
use crate::metrics::WorkerMetrics;
use crate::rt::{ClonedWaker, catch_panic, drop_waker, wake};
use polls::Polls;

/// The most events taken in one visit.
const SOCKET_EVENTS_MAX: usize = 512;
/// The most chunks that one socket hands out in a row before it yields to other sockets.
const CHUNK_BURST_MAX: u8 = 16;
/// The event data of the worker's eventfd. No socket has this value.
const WAKE: u64 = u64::MAX;
/// The event data of the inner epoll instance, in `polls`.
const POLLS: u64 = u64::MAX - 1;
/// The longest wait. epoll_wait(2) can wait at most 24 days; a longer wait needs epoll_pwait2(2),
/// which old kernels do not have and some seccomp filters forbid. A needless wake-up once an hour
/// does no harm.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// The state of one descriptor.
#[derive(Debug, Default)]
struct Watch {
    /// Distinguishes the owner from former owners of the same descriptor number.
    generation: u32,
    /// The descriptor, kept open while it is received from, accepted on, or connected.
    owner: Option<Descriptor>,
    /// The kernel has reported readability, and the socket was not found empty since.
    readable: bool,
    /// Read on even after a chunk that did not fill its block: the socket may not be empty. The end
    /// of the stream may follow. Or the receive stopped at the mark of an urgent byte; or, on a
    /// Unix socket, after the bytes that came with descriptors.
    read_until_empty: bool,
    /// The state of the peer, as far as the kernel has reported it.
    peer: Peer,
    /// The accept was stopped.
    stopped: bool,
    /// Chunks handed out in a row.
    burst: u8,
    end: Option<StreamEnd>,
    reader: Option<Waker>,
    /// The send that did not finish at once.
    sending: Option<PartialSend>,
    /// The error that stopped `sending`.
    send_error: Option<io::Error>,
    writer: Option<Waker>,
    /// The kernel has reported writability. For a connect this means that it is done.
    writable: bool,
}

/// One worker's epoll instance, and the descriptors that it watches.
pub(in crate::engine) struct Epoll {
    epoll: OwnedFd,
    watches: RefCell<Vec<Watch>>,
    events: RefCell<Vec<Event>>,
    polls: Polls,
    /// Each write to it triggers an edge, so it is never read.
    _eventfd: Eventfd,
    pool: Pool,
    metrics: Arc<WorkerMetrics>,
}

impl Epoll {
    /// # Errors
    /// If the kernel refuses epoll_create1(2) or epoll_ctl(2).
    pub(super) fn new(
        pool: Pool,
        eventfd: Eventfd,
        metrics: Arc<WorkerMetrics>,
    ) -> Result<Self, Refused> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(Refused::call("epoll_create1"))?;
        if let Eventfd::Wakes(wake) = &eventfd {
            let edge = EventFlags::IN | EventFlags::ET;
            epoll::add(&epoll, wake, EventData::new_u64(WAKE), edge)
                .map_err(Refused::call("epoll_ctl"))?;
        }
        Ok(Self {
            epoll,
            watches: RefCell::default(),
            events: RefCell::new(Vec::with_capacity(SOCKET_EVENTS_MAX)),
            polls: Polls::new(),
            _eventfd: eventfd,
            pool,
            metrics,
        })
    }

    /// The epoll instance. It is readable while events can be taken.
    pub(super) fn instance(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Takes readiness events and applies them. `sleep` says whether to wait for one: `None` does
    /// not wait, `Some(Some(time))` waits at most that long, `Some(None)` waits without limit.
    /// Returns the number of events.
    ///
    /// # Errors
    /// Those of epoll_wait(2), except EINTR.
    pub(super) fn visit(&self, sleep: Option<Option<Duration>>) -> io::Result<usize> {
        let timeout = match sleep {
            None => Some(Duration::ZERO),
            Some(timeout) => timeout,
        };
        let timeout = timeout.map(|timeout| {
            timeout
                .min(WAIT_MAX)
                .try_into()
                .expect("a wait of an hour fits a timespec")
        });
        self.metrics.enters.add(1);
        self.metrics.blocks_in_use.set(self.pool.in_use() as u64);
        let mut events = self.events.borrow_mut();
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.metrics.completions.add(events.len() as u64);
        for event in events.iter() {
            match event.data.u64() {
                WAKE => {}
                POLLS => self.polls.visit()?,
                _ => self.apply(event),
            }
        }
        Ok(events.len())
    }

    pub(super) fn start_recv(&self, socket: Descriptor, family: AddressFamily) -> OpId {
        let flags = EventFlags::IN | EventFlags::PRI | EventFlags::OUT | EventFlags::RDHUP;
        let id = self.watch(socket, flags);
        if let Some(watch) = find(&mut self.watches.borrow_mut(), id) {
            watch.read_until_empty = family == AddressFamily::UNIX;
        }
        id
    }

    /// The next chunk; `None` at the end of the stream.
    #[inline]
    pub(super) fn poll_recv(
        &self,
        id: OpId,
        context: &Context<'_>,
    ) -> Poll<io::Result<Option<Chunk>>> {
        let mut waker = ClonedWaker::of(context);
        let mut watches = self.watches.borrow_mut();
        let watch = find(&mut watches, id).expect(OP_EXISTS);
        if watch.burst == CHUNK_BURST_MAX {
            watch.burst = 0;
            drop(watches);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let socket = watch.owner.as_ref().filter(|_| watch.readable);
        match socket.map(|socket| op::recv(socket, &self.pool)) {
            Some(Ok(Some(chunk))) => {
                self.metrics.bytes_received.add(chunk.len() as u64);
                // A stream that did not fill the block is empty for now. The next bytes trigger
                // another edge.
                watch.readable = watch.read_until_empty || chunk.is_whole_block();
                watch.burst += 1;
                Poll::Ready(Ok(Some(chunk)))
            }
            Some(Err(end)) => Poll::Ready(watch.end.get_or_insert(end).result()),
            Some(Ok(None)) | None => {
                watch.readable = false;
                watch.burst = 0;
                // Not before: an error may have been reported while bytes before it were still to
                // be read.
                if let Some(end) = &watch.end {
                    return Poll::Ready(end.result());
                }
                waker.store(&mut watch.reader);
                Poll::Pending
            }
        }
    }

    /// Whether received bytes wait in the socket.
    pub(super) fn has_received(&self, id: OpId) -> bool {
        let mut watches = self.watches.borrow_mut();
        let watch = find(&mut watches, id).filter(|watch| watch.readable);
        // The bytes may have been taken since the report, or the report was of the end.
        watch
            .and_then(|watch| watch.owner.as_ref())
            .is_some_and(|socket| ioctl_fionread(socket).is_ok_and(|bytes| bytes > 0))
    }

    /// The state of the peer. No received byte is taken. The caller is woken when the state may
    /// have changed.
    pub(super) fn poll_peer(&self, id: OpId, context: &Context<'_>) -> Peer {
        let mut waker = ClonedWaker::of(context);
        let mut watches = self.watches.borrow_mut();
        let watch = find(&mut watches, id).expect(OP_EXISTS);
        let peer = match &watch.end {
            Some(StreamEnd::Error(_)) => Peer::Gone,
            Some(StreamEnd::Eof) => watch.peer.max(Peer::HalfClosed),
            None => watch.peer,
        };
        waker.store(&mut watch.reader);
        peer
    }

    /// Sends at once what the socket accepts, and the rest when the socket has room.
    pub(super) fn start_send(&self, socket: Descriptor, outgoing: Outgoing, then: Then) -> OpId {
        let slot = index_of(&socket);
        let mut sending = PartialSend::new(socket, outgoing, then);
        self.metrics.submissions.add(1);
        let outcome = sending.send_more(&self.metrics);
        // Borrowed after `sending` was created, so released before `sending` is dropped: its
        // destructor may run code of the service, which may call this engine.
        let mut watches = self.watches.borrow_mut();
        let watch = watches
            .get_mut(slot as usize)
            .filter(|watch| watch.owner.is_some());
        let watch = watch.expect(OP_EXISTS);
        let id = OpId::new(slot, watch.generation);
        match outcome {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                watch.sending = Some(sending);
                watch.send_error = Some(error);
            }
            Poll::Pending => watch.sending = Some(sending),
        }
        id
    }

    /// The outcome of a send.
    #[inline]
    pub(super) fn poll_send(
        &self,
        id: OpId,
        context: &Context<'_>,
        interest: Interest,
    ) -> Poll<Sent> {
        let mut waker = ClonedWaker::of(context);
        let mut watches = self.watches.borrow_mut();
        let Some(watch) = find(&mut watches, id) else {
            return Poll::Ready(Sent::All);
        };
        let Some(mut sending) = watch.sending.take() else {
            return Poll::Ready(Sent::All);
        };
        if let Some(error) = watch.send_error.take() {
            return Poll::Ready(sending.into_sent(error));
        }
        sending.interest = interest;
        watch.sending = Some(sending);
        waker.store(&mut watch.writer);
        Poll::Pending
    }

    /// Whether a send has sent everything.
    pub(super) fn has_sent(&self, id: OpId) -> bool {
        let mut watches = self.watches.borrow_mut();
        find(&mut watches, id).is_none_or(|watch| watch.sending.is_none())
    }

    /// Cancels a send. Bytes that were already sent stay sent.
    pub(super) fn cancel_send(&self, id: OpId) {
        let mut watches = self.watches.borrow_mut();
        let waker = find(&mut watches, id).filter(|watch| watch.sending.is_some());
        let waker = waker.and_then(|watch| {
            watch.send_error = Some(op::cancelled());
            watch.writer.take()
        });
        drop(watches);
        waker.into_iter().for_each(wake);
    }

    /// Drops what was not sent; the send's owner is gone.
    pub(super) fn drop_send(&self, id: OpId) {
        let mut watches = self.watches.borrow_mut();
        let unsent = find(&mut watches, id).and_then(|watch| {
            watch.send_error = None;
            watch.sending.take()
        });
        drop(watches);
        // Dropped outside the borrow: it may close its descriptor, and run code of the service.
        catch_panic(|| drop(unsent));
    }

    /// Stops watching a descriptor, because its owner is gone.
    pub(super) fn unwatch(&self, id: OpId) {
        let mut watches = self.watches.borrow_mut();
        let gone = find(&mut watches, id).map(std::mem::take);
        if let Some(gone) = &gone {
            watches[id.slot() as usize].generation = gone.generation.wrapping_add(1);
            if let Some(owner) = &gone.owner {
                // epoll forgets a file only when its last descriptor is closed. A Unix listener is
                // shared with other workers, so ours is removed here.
                let _ = epoll::delete(&self.epoll, owner);
            }
        }
        drop(watches);
        // Dropped outside the borrow: it may close its descriptor, and run code of the service.
        catch_panic(|| drop(gone));
    }

    fn watch(&self, owner: Descriptor, flags: EventFlags) -> OpId {
        let slot = index_of(&owner);
        let mut watches = self.watches.borrow_mut();
        if watches.len() <= slot as usize {
            watches.resize_with(slot as usize + 1, Watch::default);
        }
        let watch = &mut watches[slot as usize];
        let id = OpId::new(slot, watch.generation);
        watch.end = self.add(&owner, id, flags).err().map(StreamEnd::Error);
        watch.owner = Some(owner);
        id
    }

    /// Registers a descriptor with the kernel (epoll_ctl(2)).
    fn add(&self, owner: &Descriptor, id: OpId, flags: EventFlags) -> io::Result<()> {
        let data = EventData::new_u64(u64::from(id.generation()) << 32 | u64::from(id.slot()));
        Ok(epoll::add(
            &self.epoll,
            owner,
            data,
            flags | EventFlags::ET,
        )?)
    }

    /// Applies an event. An event for a former owner of the descriptor number is dropped.
    fn apply(&self, event: &Event) {
        let data = event.data.u64();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the two halves of the data"
        )]
        let id = OpId::new(data as u32, (data >> 32) as u32);
        let mut watches = self.watches.borrow_mut();
        let Some(watch) = find(&mut watches, id) else {
            self.metrics.stale_completions.add(1);
            return;
        };
        let flags = event.flags;
        let ended = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        watch.peer = watch.peer.max(Peer::of_events(flags.bits()));
        // After the end or an urgent byte (`EPOLLPRI`), a short chunk does not mean that the socket
        // is empty. The kernel reports an urgent byte that is already there in the same event.
        watch.read_until_empty |= flags.intersects(ended | EventFlags::PRI);
        let mut reader = None;
        if flags.intersects(EventFlags::IN | ended) {
            watch.readable = true;
            reader = watch.reader.take();
        }
        if flags.contains(EventFlags::ERR)
            && !matches!(watch.end, Some(StreamEnd::Error(_)))
            && let Some(socket) = &watch.owner
            && let Some(error) = op::pending_error(socket.as_fd())
        {
            watch.end = Some(StreamEnd::Error(error));
        }
        let (mut writer, mut unused_waker) = (None, None);
        let mut sent = None;
        watch.writable |= flags.contains(EventFlags::OUT);
        if watch.sending.is_none() && flags.intersects(EventFlags::OUT | ended) {
            // A task that waits to write, without a send, waits for a connect.
            writer = watch.writer.take();
        } else if let Some(sending) = &mut watch.sending
            && watch.send_error.is_none()
            && let Poll::Ready(outcome) = sending.send_more(&self.metrics)
        {
            let wakes = outcome.is_err() || sending.interest == Interest::End;
            match outcome {
                Ok(()) => sent = watch.sending.take(),
                Err(error) => watch.send_error = Some(error),
            }
            *(if wakes {
                &mut writer
            } else {
                &mut unused_waker
            }) = watch.writer.take();
        }
        drop(watches);
        // Dropping the bytes that were sent may run code of the service.
        catch_panic(|| drop(sent));
        unused_waker.into_iter().for_each(drop_waker);
        reader.into_iter().chain(writer).for_each(wake);
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        for watch in self.watches.take() {
            // The watch of a socket that was leaked. Dropping its unsent bytes may run code of the
            // service.
            catch_panic(|| drop(watch));
        }
        // The gauge shows what is left after all coroutines were dropped.
        self.metrics.blocks_in_use.set(self.pool.in_use() as u64);
    }
}

impl fmt::Debug for Epoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoll").finish_non_exhaustive()
    }
}

/// The state for this id; `None` if the descriptor number has another owner now.
fn find(watches: &mut [Watch], id: OpId) -> Option<&mut Watch> {
    let watch = watches.get_mut(id.slot() as usize)?;
    let current = OpId::new(id.slot(), watch.generation);
    (current == id && watch.owner.is_some()).then_some(watch)
}

/// A descriptor's index in the array.
fn index_of(descriptor: &Descriptor) -> u32 {
    descriptor.raw().unsigned_abs()
}
