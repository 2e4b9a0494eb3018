//! The readiness engine: edge-triggered epoll, for where io_uring is forbidden (epoll(7)).
//!
//! The same operations as on the ring, performed here: what a coroutine asks for is tried when the
//! kernel has said that it may go, and sending is tried at once. What is known of a socket stands
//! in an array indexed by its descriptor, as in picoev.

mod connections;
mod polls;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
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
use crate::engine::op::{self, End, GONE, Interest, OpId, PartSent, Peer, Sent, Then};
use crate::metrics::WorkerMetrics;
use crate::rt::{contain, drop_waker, note_waker, wake};
use polls::Polls;

/// Events taken in one visit.
const EVENTS_MAX: usize = 512;
/// Pieces that one socket may hand out in a row before the others have their turn.
const BURST_MAX: u8 = 16;
/// The event data of the worker's eventfd, which no socket has.
const WAKE: u64 = u64::MAX;
/// The event data of the instance of `polls`.
const POLLS: u64 = u64::MAX - 1;
/// The longest wait: beyond 24 days epoll_wait(2) cannot tell, and a call would be needed that old
/// kernels and some filters do not have. To wake up for nothing then is no harm.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// What is known of one descriptor.
#[derive(Debug, Default)]
struct Watch {
    /// Whose it is, among those that had this number.
    generation: u32,
    /// Kept open while somebody receives from it or accepts on it.
    owner: Option<Descriptor>,
    /// The kernel has said that something is there, and we have not seen the end of it.
    readable: bool,
    /// A receive that fills less than a block is not the end of what is there. The end of the
    /// stream may follow; or the receive ended at the mark of an urgent byte, or behind the bytes
    /// that descriptors came with, as it may on a Unix socket.
    reads_on: bool,
    /// What the kernel has said of the peer.
    peer: Peer,
    /// Accepts no more.
    stopped: bool,
    /// Pieces handed out in a row.
    burst: u8,
    end: Option<End>,
    reader: Option<Waker>,
    /// What could not be sent at once.
    sending: Option<PartSent>,
    /// Why that did not go on.
    trouble: Option<io::Error>,
    writer: Option<Waker>,
    /// The kernel has said that it takes bytes: a connect is done.
    writable: bool,
}

/// One worker's epoll instance and what it watches.
pub(in crate::engine) struct Epoll {
    epoll: OwnedFd,
    watches: RefCell<Vec<Watch>>,
    events: RefCell<Vec<Event>>,
    polls: Polls,
    /// Written by other threads to end the worker's sleep. Each write is an edge, so nobody needs
    /// to read it.
    _wake: Arc<OwnedFd>,
    pool: Pool,
    metrics: Arc<WorkerMetrics>,
}

impl Epoll {
    /// # Errors
    /// When the kernel refuses epoll_create1(2) or epoll_ctl(2).
    pub(super) fn new(
        pool: Pool,
        wake: Arc<OwnedFd>,
        metrics: Arc<WorkerMetrics>,
    ) -> Result<Self, Refused> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(Refused::call("epoll_create1"))?;
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), edge)
            .map_err(Refused::call("epoll_ctl"))?;
        Ok(Self {
            epoll,
            watches: RefCell::default(),
            events: RefCell::new(Vec::with_capacity(EVENTS_MAX)),
            polls: Polls::new(),
            _wake: wake,
            pool,
            metrics,
        })
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Waits for readiness if `sleep` says how long (`Some`: at most so long; `Some(None)`: for
    /// ever), and tells whom it concerns. How many events there were.
    ///
    /// # Errors
    /// Those of epoll_wait(2), but for a signal.
    pub(super) fn visit(&self, sleep: Option<Option<Duration>>) -> io::Result<usize> {
        let timeout = match sleep {
            None => Some(Duration::ZERO),
            Some(timeout) => timeout,
        };
        let timeout = timeout.map(|timeout| {
            timeout
                .min(WAIT_MAX)
                .try_into()
                .expect("a timer's range is smaller than the clock's")
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
                _ => self.note(event),
            }
        }
        Ok(events.len())
    }

    pub(super) fn start_recv(&self, socket: Descriptor, family: AddressFamily) -> OpId {
        let flags = EventFlags::IN | EventFlags::PRI | EventFlags::OUT | EventFlags::RDHUP;
        let id = self.watch(socket, flags);
        if let Some(watch) = find(&mut self.watches.borrow_mut(), id) {
            watch.reads_on = family == AddressFamily::UNIX;
        }
        id
    }

    /// The next piece; none at the end.
    #[inline]
    pub(super) fn poll_recv(
        &self,
        id: OpId,
        context: &Context<'_>,
    ) -> Poll<io::Result<Option<Chunk>>> {
        let mut watches = self.watches.borrow_mut();
        let watch = find(&mut watches, id).expect(GONE);
        if watch.burst == BURST_MAX {
            watch.burst = 0;
            drop(watches);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let socket = watch.owner.as_ref().filter(|_| watch.readable);
        match socket.map(|socket| op::recv(socket, &self.pool)) {
            Some(Ok(Some(chunk))) => {
                self.metrics.bytes_received.add(chunk.len() as u64);
                // A stream that gave less than there was room for has no more as yet; when it
                // has, that is another edge.
                watch.readable = watch.reads_on || chunk.is_whole_block();
                watch.burst += 1;
                Poll::Ready(Ok(Some(chunk)))
            }
            Some(Err(end)) => Poll::Ready(watch.end.get_or_insert(end).again()),
            Some(Ok(None)) | None => {
                watch.readable = false;
                watch.burst = 0;
                // Not before: an error may have come behind bytes that were still to be received.
                if let Some(end) = &watch.end {
                    return Poll::Ready(end.again());
                }
                let replaced = note_waker(&mut watch.reader, context.waker());
                drop(watches);
                drop(replaced);
                Poll::Pending
            }
        }
    }

    /// Whether something is there to be received.
    pub(super) fn has_received(&self, id: OpId) -> bool {
        let mut watches = self.watches.borrow_mut();
        let watch = find(&mut watches, id).filter(|watch| watch.readable);
        // What the kernel told of may have been taken since, or be the end.
        watch
            .and_then(|watch| watch.owner.as_ref())
            .is_some_and(|socket| ioctl_fionread(socket).is_ok_and(|bytes| bytes > 0))
    }

    /// Tells whether the peer is still there; the caller is woken when that may have changed. No
    /// received byte is taken.
    pub(super) fn poll_peer(&self, id: OpId, context: &Context<'_>) -> Peer {
        let mut watches = self.watches.borrow_mut();
        let watch = find(&mut watches, id).expect(GONE);
        let peer = match &watch.end {
            Some(End::Error(_)) => Peer::Gone,
            Some(End::Eof) => watch.peer.max(Peer::HalfClosed),
            None => watch.peer,
        };
        let replaced = note_waker(&mut watch.reader, context.waker());
        drop(watches);
        drop(replaced);
        peer
    }

    /// Sends at once what the socket takes; the rest follows when it takes more.
    pub(super) fn start_send(&self, socket: Descriptor, outgoing: Outgoing, then: Then) -> OpId {
        let slot = number(&socket);
        let mut sending = PartSent::new(socket, outgoing, then);
        self.metrics.submissions.add(1);
        let went = sending.go_on(&self.metrics);
        // Borrowed after `sending` is made, so given back before that is dropped: what was sent may
        // run code of the service's then, which may come back here.
        let mut watches = self.watches.borrow_mut();
        let watch = watches
            .get_mut(slot as usize)
            .filter(|watch| watch.owner.is_some());
        let watch = watch.expect(GONE);
        let id = OpId::new(slot, watch.generation);
        match went {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                watch.sending = Some(sending);
                watch.trouble = Some(error);
            }
            Poll::Pending => watch.sending = Some(sending),
        }
        id
    }

    /// How a send ended.
    #[inline]
    pub(super) fn poll_send(
        &self,
        id: OpId,
        context: &Context<'_>,
        interest: Interest,
    ) -> Poll<Sent> {
        let mut watches = self.watches.borrow_mut();
        let Some(watch) = find(&mut watches, id) else {
            return Poll::Ready(Sent::All);
        };
        let Some(mut sending) = watch.sending.take() else {
            return Poll::Ready(Sent::All);
        };
        if let Some(error) = watch.trouble.take() {
            return Poll::Ready(sending.into_sent(error));
        }
        sending.interest = interest;
        watch.sending = Some(sending);
        let replaced = note_waker(&mut watch.writer, context.waker());
        drop(watches);
        drop(replaced);
        Poll::Pending
    }

    /// Whether a send has sent everything.
    pub(super) fn has_sent(&self, id: OpId) -> bool {
        let mut watches = self.watches.borrow_mut();
        find(&mut watches, id).is_none_or(|watch| watch.sending.is_none())
    }

    /// Ends a send where it stands.
    pub(super) fn cancel_send(&self, id: OpId) {
        let mut watches = self.watches.borrow_mut();
        let waker = find(&mut watches, id).filter(|watch| watch.sending.is_some());
        let waker = waker.and_then(|watch| {
            watch.trouble = Some(op::cancelled());
            watch.writer.take()
        });
        drop(watches);
        waker.into_iter().for_each(wake);
    }

    /// The sender is gone, and what was not sent with it.
    pub(super) fn drop_send(&self, id: OpId) {
        let mut watches = self.watches.borrow_mut();
        let unsent = find(&mut watches, id).and_then(|watch| {
            watch.trouble = None;
            watch.sending.take()
        });
        drop(watches);
        // Dropped last: it may hold the last use of its descriptor, and code of the service's.
        contain(|| drop(unsent));
    }

    /// Nobody watches the descriptor any more. The kernel forgets it when it is closed.
    pub(super) fn unwatch(&self, id: OpId) {
        let mut watches = self.watches.borrow_mut();
        let gone = find(&mut watches, id).map(std::mem::take);
        if let Some(gone) = &gone {
            watches[id.slot() as usize].generation = gone.generation.wrapping_add(1);
            if let Some(owner) = &gone.owner {
                // A Unix listener is shared with other workers and is not closed with our end.
                let _ = epoll::delete(&self.epoll, owner);
            }
        }
        drop(watches);
        // Dropped last: it may hold the last use of its descriptor, and code of the service's.
        contain(|| drop(gone));
    }

    fn watch(&self, owner: Descriptor, flags: EventFlags) -> OpId {
        let slot = number(&owner);
        let mut watches = self.watches.borrow_mut();
        if watches.len() <= slot as usize {
            watches.resize_with(slot as usize + 1, Watch::default);
        }
        let watch = &mut watches[slot as usize];
        let id = OpId::new(slot, watch.generation);
        watch.end = self.add(&owner, id, flags).err().map(End::Error);
        watch.owner = Some(owner);
        id
    }

    /// Asks the kernel to tell of it (epoll_ctl(2)).
    fn add(&self, owner: &Descriptor, id: OpId, flags: EventFlags) -> io::Result<()> {
        let data = EventData::new_u64(u64::from(id.generation()) << 32 | u64::from(id.slot()));
        Ok(epoll::add(
            &self.epoll,
            owner,
            data,
            flags | EventFlags::ET,
        )?)
    }

    /// Lets an event have its effect. One for a descriptor that is somebody else's by now is
    /// dropped.
    fn note(&self, event: &Event) {
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
        // An urgent byte that was there when the kernel told of it is told of as well.
        watch.reads_on |= flags.intersects(ended | EventFlags::PRI);
        let mut reader = None;
        if flags.intersects(EventFlags::IN | ended) {
            watch.readable = true;
            reader = watch.reader.take();
        }
        if flags.contains(EventFlags::ERR)
            && !matches!(watch.end, Some(End::Error(_)))
            && let Some(socket) = &watch.owner
            && let Some(error) = op::pending_error(socket.as_fd())
        {
            watch.end = Some(End::Error(error));
        }
        let (mut writer, mut unwoken) = (None, None);
        let mut sent = None;
        watch.writable |= flags.contains(EventFlags::OUT);
        if watch.sending.is_none() && flags.intersects(EventFlags::OUT | ended) {
            // Whoever waits to write and sends nothing waits for a connect.
            writer = watch.writer.take();
        } else if let Some(sending) = &mut watch.sending
            && watch.trouble.is_none()
            && let Poll::Ready(outcome) = sending.go_on(&self.metrics)
        {
            let waits = outcome.is_err() || sending.interest == Interest::End;
            match outcome {
                Ok(()) => sent = watch.sending.take(),
                Err(error) => watch.trouble = Some(error),
            }
            *(if waits { &mut writer } else { &mut unwoken }) = watch.writer.take();
        }
        drop(watches);
        // The bytes that were sent may run code of the service's when they are dropped.
        contain(|| drop(sent));
        unwoken.into_iter().for_each(drop_waker);
        reader.into_iter().chain(writer).for_each(wake);
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        for watch in self.watches.take() {
            // Of a socket that was leaked. What it was to send may run code of the service's.
            contain(|| drop(watch));
        }
        // The gauge tells what is left: the coroutines have dropped what they held.
        self.metrics.blocks_in_use.set(self.pool.in_use() as u64);
    }
}

impl fmt::Debug for Epoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoll").finish_non_exhaustive()
    }
}

/// The watch of that name; none when its descriptor is somebody else's by now.
fn find(watches: &mut [Watch], id: OpId) -> Option<&mut Watch> {
    let watch = watches.get_mut(id.slot() as usize)?;
    let current = OpId::new(id.slot(), watch.generation);
    (current == id && watch.owner.is_some()).then_some(watch)
}

/// A descriptor's place in the array.
fn number(descriptor: &Descriptor) -> u32 {
    descriptor.raw().unsigned_abs()
}
