//! One core's side of the link to the Python workers: it hands requests to them, takes their
//! messages, and finds out what has become of the requests of a worker that has died.

#[cfg(feature = "sim")]
pub mod bench;
mod call;
mod peer;
mod receive;
mod room;
mod send;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::marshal::Marshal;
use super::message::{Id, MESSAGE_BYTES_MAX};
use super::outbox::{Outbox, Outgoing};
use super::request::{Frame, parse_frame};
use super::slots::{Failure, Slots, State};
use crate::engine::Descriptor;
use crate::net::{Events, Polling};
use crate::rt::{Event, draining, spawn_detached};
use crate::service::ResponseMemory;
use crate::task::time::{sleep, timeout};

pub(super) use call::Call;
pub(super) use peer::PAGE_BYTES;
use peer::Peer;

/// How long after a ring of its bell a worker's messages are looked for once more.
const AFTER_A_RING: Duration = Duration::from_millis(1);
/// How long a worker may take from receiving a request to marking it: on a busy machine its thread
/// may not run at once. Clients whose requests are lost wait for as long.
const UNTIL_MARKED: Duration = Duration::from_millis(500);
/// How often a request looks for a worker while there is none.
const WORKER_CHECK: Duration = Duration::from_millis(5);

/// How requests reach the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dispatch {
    /// All workers receive from one socket: whichever thread is free takes the next request.
    Shared,
    /// Each worker has its own, and runs many requests at a time.
    Each(Form),
}

/// What a worker with a socket of its own is told of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The `environ` of WSGI.
    Environ,
    /// The `scope` of ASGI.
    Scope,
}

/// What the supervisor hands to a core of a worker that is ready.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) number: u32,
    /// Requests that it runs at a time, of those that the core gives it.
    pub(super) width: u32,
    pub(super) dispatch: Dispatch,
    /// The near end of the worker's socket for this core.
    pub(super) data: OwnedFd,
    /// The far end of it, from which is read what a dead worker has not received.
    pub(super) far: OwnedFd,
    pub(super) bell: OwnedFd,
    pub(super) page: OwnedFd,
    /// The worker's process (a pidfd); none if that is not coring's own.
    pub(super) process: Option<OwnedFd>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) core: i32,
    shared: Rc<Outbox>,
    peers: RefCell<Vec<Rc<Peer>>>,
    slots: RefCell<Slots>,
    /// A fence that was sent, and happens when it is answered.
    fence: RefCell<Option<(Id, Rc<Event>)>>,
    /// Messages are received into it, one at a time.
    buffer: RefCell<Vec<u8>>,
    is_sweeping: Cell<bool>,
    is_draining: Cell<bool>,
    queue_max: usize,
    /// Requests that wait for the first worker, or for one in the place of those that have died.
    waiting: Cell<usize>,
    /// Requests that wait until a worker runs fewer than it may, in order; for `Dispatch::Each`.
    crowd: RefCell<VecDeque<Rc<Event>>>,
    /// What dead workers had not received, while there is none to take it; for `Dispatch::Each`.
    unreceived: RefCell<Vec<Vec<u8>>>,
    /// Bytes of a response that are kept for its client.
    response_bytes_max: usize,
    /// Whether responses have notes for the access log.
    pub(super) notes_for_log: Cell<bool>,
    /// Counts those of all responses.
    memory: ResponseMemory,
}

/// Counts a request as long as it waits.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The clock by which deadlines are given: that of Python's `time.monotonic()`, in seconds.
pub(super) fn monotonic() -> f64 {
    let time = clock_gettime(ClockId::Monotonic);
    #[expect(
        clippy::cast_precision_loss,
        reason = "an uptime of less than 2^53 seconds"
    )]
    let (seconds, nanoseconds) = (time.tv_sec as f64, time.tv_nsec as f64);
    seconds + nanoseconds / 1e9
}

impl Link {
    /// A link without workers. `shared` is the near end of the socket that all of them receive
    /// from; at most `queue_max` requests wait for a thread. `response_bytes_max` bytes of a
    /// response are kept for its client, and `memory_bytes_max` of all of them.
    pub(super) fn new(
        core: i32,
        shared: OwnedFd,
        queue_max: usize,
        (response_bytes_max, memory_bytes_max): (usize, usize),
    ) -> Rc<Self> {
        let link = Rc::new(Self {
            core,
            shared: Rc::new(Outbox::new(Descriptor::new(shared))),
            peers: RefCell::default(),
            slots: RefCell::default(),
            fence: RefCell::default(),
            buffer: RefCell::new(vec![0; MESSAGE_BYTES_MAX + 1]),
            is_sweeping: Cell::new(false),
            is_draining: Cell::new(false),
            queue_max,
            waiting: Cell::new(0),
            crowd: RefCell::default(),
            unreceived: RefCell::default(),
            response_bytes_max,
            notes_for_log: Cell::new(false),
            memory: ResponseMemory::new(memory_bytes_max),
        });
        let draining_link = link.clone();
        spawn_detached(async move {
            draining().await;
            draining_link.drain();
        });
        link
    }

    /// How requests are handed out at present; none while there is no worker.
    pub(super) fn dispatch(&self) -> Option<Dispatch> {
        let peers = self.peers.borrow();
        Some(peers.iter().find(|peer| !peer.is_retired.get())?.dispatch)
    }

    /// Waits until there is a worker; none if there is none at the deadline, or it `is_hopeless`.
    pub(super) async fn wait_for_worker(
        &self,
        deadline: f64,
        is_hopeless: impl Fn() -> bool,
    ) -> Option<Dispatch> {
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let dispatch = self.dispatch();
            if dispatch.is_some() || is_hopeless() || monotonic() > deadline {
                return dispatch;
            }
            sleep(WORKER_CHECK).await;
        }
    }

    /// Whether a further request would have to wait behind too many.
    pub(super) fn is_full(&self) -> bool {
        let peers = self.peers.borrow();
        match self.dispatch() {
            Some(Dispatch::Each(_)) => {
                let mut used = peers.iter().filter(|peer| !peer.is_retired.get());
                let waiting = self.crowd.borrow().len();
                let must_wait = waiting > 0 || !self.has_room();
                must_wait && waiting >= self.queue_max
                    || used.all(|peer| peer.outbox.queued() >= self.queue_max.max(1))
            }
            Some(Dispatch::Shared) => {
                let threads: u32 = peers.iter().map(|peer| peer.width).sum();
                self.slots.borrow().len() >= threads as usize + self.queue_max
            }
            None => self.waiting.get() >= self.queue_max,
        }
    }

    /// Takes up a worker that is ready.
    pub(super) fn join(self: &Rc<Self>, joined: Joined) {
        let (peer, bell) = self.add(joined);
        let link = self.clone();
        spawn_detached(async move { link.listen(&peer, bell).await });
    }

    /// Adds a worker. The result is what it is known by here, and its bell.
    fn add(&self, joined: Joined) -> (Rc<Peer>, OwnedFd) {
        let (peer, bell) = Peer::new(joined);
        let peer = Rc::new(peer);
        self.peers.borrow_mut().push(peer.clone());
        if self.is_draining.get() {
            peer.tell_drain();
        }
        let unreceived = self.unreceived.take();
        unreceived
            .into_iter()
            .for_each(|bytes| self.send_again(bytes));
        self.admit();
        (peer, bell)
    }

    /// The shared socket was shut down: requests go to another one, also those that wait. All that
    /// were sent before were received.
    pub(super) fn reopen_shared(&self, shared: OwnedFd) {
        self.shared.reopen(shared);
    }

    /// A worker gets no further requests. It finishes those that it has.
    pub(super) fn retire(&self, number: u32) {
        if let Some(peer) = self.peer(number) {
            peer.is_retired.set(true);
        }
    }

    /// The requests of a worker that has ended are answered, or given to another. `is_late`: it was
    /// ended because it did not go on.
    pub(super) fn worker_ended(self: &Rc<Self>, number: u32, is_late: bool) {
        let Some(dead) = self.peer(number) else {
            return;
        };
        self.collect(&dead);
        dead.end.fire();
        self.peers.borrow_mut().retain(|peer| peer.number != number);
        let unreceived = dead.take_unreceived();
        let failure = match is_late {
            true => Failure::TimedOut,
            false => Failure::WorkerDied,
        };
        match dead.dispatch {
            Dispatch::Each(_) => {
                unreceived
                    .into_iter()
                    .for_each(|bytes| self.send_again(bytes));
                self.fail_where(failure, |_, slot| slot.worker == Some(number));
            }
            Dispatch::Shared => {
                let marked = dead.marks();
                self.fail_where(failure, |id, slot| match slot.worker {
                    Some(worker) => worker == number,
                    None => marked.contains(&id),
                });
                let link = self.clone();
                spawn_detached(async move { link.find_lost().await });
            }
        }
    }

    /// A message that a dead worker had not received goes to another one, or waits for that, if it
    /// is of use.
    fn send_again(&self, bytes: Vec<u8>) {
        let peer = match parse_frame(&bytes) {
            Some(Frame::Request(id)) => {
                let peer = self.least_busy();
                let is_wanted = {
                    let mut slots = self.slots.borrow_mut();
                    let Some(slot) = slots.get(id) else { return };
                    slot.worker = peer.as_ref().map(|peer| peer.number);
                    matches!(slot.state, State::Waiting(_))
                };
                if let Some(peer) = &peer {
                    peer.running.set(peer.running.get() + 1);
                }
                if !is_wanted {
                    // Its client has gone meanwhile.
                    return self.fail(id, Failure::WorkerDied);
                }
                peer
            }
            Some(Frame::Part(id)) => match self.worker_of(id) {
                Some(peer) => Some(peer),
                None if self.is_unassigned(id) => None,
                // Its request had been received.
                None => return,
            },
            None => return,
        };
        match peer {
            Some(peer) => peer.send(Outgoing {
                bytes,
                descriptor: None,
            }),
            None => self.unreceived.borrow_mut().push(bytes),
        }
    }

    /// Whether a request waits for a worker that takes the place of those that have died.
    fn is_unassigned(&self, id: Id) -> bool {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get(id);
        slot.is_some_and(|slot| slot.worker.is_none() && !slot.is_ended)
    }

    /// Finds the requests that a dead worker had received from the shared socket and not yet
    /// marked. A fence is sent behind all requests. When a worker has received it, all of them were
    /// received; and soon after that, all that were received by workers that live are marked or
    /// answered.
    async fn find_lost(self: &Rc<Self>) {
        let before = self.slots.borrow().next_order();
        let fence = self.fence();
        fence.wait().await;
        sleep(UNTIL_MARKED).await;
        let peers = self.peers.borrow().clone();
        let marked: Vec<Id> = peers.iter().flat_map(|peer| peer.marks()).collect();
        // A mark is removed after the response was sent: whatever is not marked is here by now.
        peers.iter().for_each(|peer| self.collect(peer));
        self.fail_where(Failure::WorkerDied, |id, slot| {
            slot.order < before && slot.worker.is_none() && !marked.contains(&id)
        });
    }

    /// The fence that is under way, or a new one.
    fn fence(&self) -> Rc<Event> {
        let mut id = Id::default();
        id[4..].copy_from_slice(&self.slots.borrow_mut().nonce().to_le_bytes());
        let mut message = Marshal::with_capacity(32);
        message.tuple(3);
        message.int(5);
        message.int(self.core);
        message.bytes(&id);
        // A worker that dies may take a fence with it. The next one stands for it, too.
        let earlier = self.fence.borrow_mut().take();
        let event = earlier.map_or_else(Rc::default, |(_, event)| event);
        *self.fence.borrow_mut() = Some((id, event.clone()));
        self.shared.send(Outgoing {
            bytes: message.into_bytes(),
            descriptor: None,
        });
        event
    }

    fn peer(&self, number: u32) -> Option<Rc<Peer>> {
        let peers = self.peers.borrow();
        peers.iter().find(|peer| peer.number == number).cloned()
    }

    fn least_busy(&self) -> Option<Rc<Peer>> {
        let peers = self.peers.borrow();
        let peers = peers.iter().filter(|peer| !peer.is_retired.get());
        peers.min_by_key(|peer| peer.running.get()).cloned()
    }

    fn drain(&self) {
        self.is_draining.set(true);
        for peer in &*self.peers.borrow() {
            peer.tell_drain();
        }
    }

    /// Takes the messages of a worker each time that it rings, and once more a little later: a
    /// worker that goes on at once rings at most once in that time.
    async fn listen(self: Rc<Self>, peer: &Peer, bell: OwnedFd) {
        let mut bell = Polling::new(bell, Events::READABLE);
        let mut end = peer.end.wait();
        // `false`: there is no further ring.
        let mut ring = async || {
            let next = poll_fn(|context| match Pin::new(&mut end).poll(context) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending => pin!(bell.ready()).poll(context).map(|rung| rung.is_ok()),
            });
            next.await
        };
        while ring().await {
            self.collect(peer);
            while self.slots.borrow().len() > 0 {
                let has_rung = timeout(AFTER_A_RING, ring()).await;
                if has_rung == Ok(false) {
                    return;
                }
                self.collect(peer);
                if has_rung.is_err() {
                    break;
                }
            }
        }
    }
}
