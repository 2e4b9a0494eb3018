//! One core's side of the link to the Python workers: it hands requests to them, takes their messages,
//! and finds out what has become of the requests of a worker that has died.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rustix::io::{Errno, pread};
use rustix::net::{RecvFlags, recv};
use rustix::time::{ClockId, clock_gettime};

use super::marshal::Marshal;
use super::message::{self, Id, MESSAGE_BYTES_MAX, Message, ResponseHead};
use super::outbox::{Outbox, Outgoing};
use super::request::request_id;
use super::slots::{Answer, Failure, Slot, Slots, State};
use super::stream::{Incoming, Written};
use super::upload::Credit;
use crate::messages;
use crate::net::{Events, Polling};
use crate::rt::{Event, draining, spawn_detached};
use crate::service::{Body, BodySender, Response};
use crate::task::time::sleep;

/// Bytes of a response that are taken from a worker ahead of its client.
pub(super) const RESPONSE_BYTES_MAX: usize = 1 << 20;
/// How long after a ring of its bell a worker's messages are looked for once more.
const AFTER_A_RING: Duration = Duration::from_millis(1);
/// How long a worker may take from receiving a request to marking it.
const UNTIL_MARKED: Duration = Duration::from_millis(50);
/// How often deadlines are looked at while requests wait.
const SWEEP: Duration = Duration::from_millis(500);
/// How often a request looks for a worker while there is none.
const WORKER_CHECK: Duration = Duration::from_millis(5);
/// How long after a request's deadline its mark is looked for: a worker that has received it in time
/// has set the mark by then.
const AFTER_DEADLINE: f64 = 0.1;
/// Bytes of the page in which a worker's threads mark their requests, 16 for each.
pub(super) const PAGE_BYTES: usize = 4096;
const MARK_BYTES: usize = 16;

/// How requests reach the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dispatch {
    /// All workers receive from one socket: whichever thread is free takes the next request.
    Shared,
    /// Each worker has its own, and runs any number of requests at a time.
    Each,
}

/// What the supervisor hands to a core of a worker that is ready.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) number: u32,
    pub(super) threads: u32,
    pub(super) dispatch: Dispatch,
    /// The near end of the worker's socket for this core.
    pub(super) data: OwnedFd,
    /// The far end of it, from which is read what a dead worker has not received.
    pub(super) far: OwnedFd,
    pub(super) bell: OwnedFd,
    pub(super) page: OwnedFd,
}

/// A worker, as a core sees it.
#[derive(Debug)]
struct Peer {
    number: u32,
    threads: u32,
    dispatch: Dispatch,
    outbox: Rc<Outbox>,
    data: OwnedFd,
    far: OwnedFd,
    page: OwnedFd,
    /// Requests that it was given and has not answered in full; for `Dispatch::Each`.
    running: Cell<u32>,
    is_dead: Cell<bool>,
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
    /// A link without workers. `shared` is the near end of the socket that all of them receive from;
    /// at most `queue_max` requests wait for a thread.
    pub(super) fn new(core: i32, shared: OwnedFd, queue_max: usize) -> Rc<Self> {
        let link = Rc::new(Self {
            core,
            shared: Rc::new(Outbox::new(shared)),
            peers: RefCell::default(),
            slots: RefCell::default(),
            fence: RefCell::default(),
            buffer: RefCell::new(vec![0; MESSAGE_BYTES_MAX + 1]),
            is_sweeping: Cell::new(false),
            is_draining: Cell::new(false),
            queue_max,
            waiting: Cell::new(0),
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
        Some(self.peers.borrow().first()?.dispatch)
    }

    /// Waits until there is a worker; none if there is none at the deadline.
    pub(super) async fn wait_for_worker(&self, deadline: f64) -> Option<Dispatch> {
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let dispatch = self.dispatch();
            if dispatch.is_some() || monotonic() > deadline {
                return dispatch;
            }
            sleep(WORKER_CHECK).await;
        }
    }

    /// Whether a further request would have to wait behind too many.
    pub(super) fn is_full(&self) -> bool {
        let peers = self.peers.borrow();
        let threads: u32 = peers.iter().map(|peer| peer.threads).sum();
        match self.dispatch() {
            Some(Dispatch::Each) => {
                let mut queued = peers.iter().map(|peer| peer.outbox.queued());
                queued.all(|queued| queued >= self.queue_max)
            }
            Some(Dispatch::Shared) => {
                self.slots.borrow().len() >= threads as usize + self.queue_max
            }
            None => self.waiting.get() >= self.queue_max,
        }
    }

    /// Takes up a worker that is ready.
    pub(super) fn join(self: &Rc<Self>, joined: Joined) -> io::Result<()> {
        let peer = Rc::new(Peer {
            number: joined.number,
            threads: joined.threads,
            dispatch: joined.dispatch,
            outbox: Rc::new(Outbox::new(joined.data.try_clone()?)),
            data: joined.data,
            far: joined.far,
            page: joined.page,
            running: Cell::new(0),
            is_dead: Cell::new(false),
        });
        self.peers.borrow_mut().push(peer.clone());
        if self.is_draining.get() {
            tell(&peer, drained);
        }
        let link = self.clone();
        spawn_detached(async move { link.listen(&peer, joined.bell).await });
        Ok(())
    }

    /// The requests of a worker that has died are answered, or given to another.
    pub(super) fn bury(self: &Rc<Self>, number: u32) {
        let Some(dead) = self.peer(number) else {
            return;
        };
        self.collect(&dead);
        dead.is_dead.set(true);
        self.peers.borrow_mut().retain(|peer| peer.number != number);
        match dead.dispatch {
            Dispatch::Each => {
                for frame in unreceived(&dead.far) {
                    self.send_again(frame);
                }
                self.fail_where(|_, slot| slot.worker == Some(number));
            }
            Dispatch::Shared => {
                let marked = marks(&dead.page);
                self.fail_where(|id, slot| slot.worker == Some(number) || marked.contains(&id));
                let link = self.clone();
                spawn_detached(async move { link.find_lost().await });
            }
        }
    }

    /// A request that a dead worker had not received goes to another one.
    fn send_again(&self, frame: Vec<u8>) {
        let Some(id) = request_id(&frame) else { return };
        let Some(peer) = self.least_busy() else {
            return self.fail(id, Failure::WorkerDied);
        };
        if let Some(slot) = self.slots.borrow_mut().get(id) {
            slot.worker = Some(peer.number);
            peer.running.set(peer.running.get() + 1);
            peer.outbox.send(Outgoing {
                bytes: frame,
                descriptor: None,
            });
        }
    }

    /// Finds the requests that a dead worker had received from the shared socket and not yet marked.
    /// A fence is sent behind all requests. When a worker has received it, all of them were received;
    /// and soon after that, all that were received by workers that live are marked or answered.
    async fn find_lost(self: &Rc<Self>) {
        let before = self.slots.borrow().next_order();
        let fence = self.fence();
        fence.wait().await;
        sleep(UNTIL_MARKED).await;
        let peers = self.peers.borrow().clone();
        let marked: Vec<Id> = peers.iter().flat_map(|peer| marks(&peer.page)).collect();
        // A mark is removed after the response was sent: whatever is not marked is here by now.
        peers.iter().for_each(|peer| self.collect(peer));
        self.fail_where(|id, slot| {
            slot.order < before && slot.worker.is_none() && !marked.contains(&id)
        });
    }

    /// The fence that is under way, or a new one.
    fn fence(&self) -> Rc<Event> {
        let mut id = Id::default();
        id[4..].copy_from_slice(&self.slots.borrow_mut().nonce().to_le_bytes());
        let event = Rc::new(Event::default());
        let mut message = Marshal::with_capacity(32);
        message.tuple(3);
        message.int(5);
        message.int(self.core);
        message.bytes(&id);
        // A worker that dies takes its fence with it, and then there is another.
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
        peers.iter().min_by_key(|peer| peer.running.get()).cloned()
    }

    fn drain(&self) {
        self.is_draining.set(true);
        for peer in &*self.peers.borrow() {
            tell(peer, drained);
        }
    }

    /// Takes the messages of a worker each time that it rings.
    async fn listen(self: Rc<Self>, peer: &Peer, bell: OwnedFd) {
        let mut bell = Polling::new(bell, Events::READABLE);
        while !peer.is_dead.get() && bell.ready().await.is_ok() {
            self.collect(peer);
            if self.slots.borrow().len() > 0 {
                sleep(AFTER_A_RING).await;
                self.collect(peer);
            }
        }
    }
}

/// What comes from the workers.
impl Link {
    /// Takes all messages that a worker has sent.
    fn collect(&self, peer: &Peer) {
        let mut buffer = self.buffer.borrow_mut();
        loop {
            match recv(&peer.data, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return,
                Ok((_, len)) => match message::parse(&buffer[..len]) {
                    Ok(message) => self.take(peer, message),
                    Err(malformed) => report(peer, &malformed),
                },
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn take(&self, peer: &Peer, message: Message<'_>) {
        match message {
            Message::Head {
                id,
                status,
                head,
                body,
                is_whole,
            } => {
                self.begin(peer, id, (status, head), body, is_whole);
                if is_whole {
                    self.end(id, true);
                }
            }
            Message::Body { id, body, is_last } => {
                let incoming = self
                    .slots
                    .borrow_mut()
                    .get(id)
                    .and_then(|slot| slot.incoming.clone());
                if let Some(incoming) = incoming
                    && !incoming.push(Bytes::copy_from_slice(body))
                {
                    report(peer, &"it is beyond the credit of its response");
                    incoming.end(false);
                }
                if is_last {
                    self.end(id, true);
                }
            }
            Message::Abort { id } => {
                self.answer(id, Err(Failure::Invalid));
                self.end(id, false);
            }
            Message::Expired { id } => self.fail(id, Failure::Expired),
            Message::Fenced { id } => {
                let fence = self.fence.borrow_mut().take_if(|(other, _)| *other == id);
                if let Some((_, event)) = fence {
                    event.fire();
                }
            }
            Message::Want { id, size } => {
                let upload = self
                    .slots
                    .borrow_mut()
                    .get(id)
                    .and_then(|slot| slot.upload.clone());
                if let Some(upload) = upload {
                    upload.add(size);
                }
            }
        }
    }

    /// The head of a response has come.
    fn begin(&self, peer: &Peer, id: Id, head: (u16, &[u8]), body: &[u8], is_whole: bool) {
        let is_head = {
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.get(id) else { return };
            if slot.worker.is_none() {
                slot.worker = Some(peer.number);
            }
            if slot.incoming.is_some() || matches!(slot.state, State::Answered(_)) {
                drop(slots);
                return report(peer, &"its request has a response already");
            }
            slot.is_head
        };
        let outcome = match message::parse_head(head.0, head.1) {
            Ok(head) => Ok(answer(head, body, is_whole && !is_head)),
            Err(invalid) => {
                messages::report(format_args!(
                    "the application's response is not valid: {invalid}; its client gets 502"
                ));
                Err(Failure::Invalid)
            }
        };
        if let Ok(answer) = &outcome
            && let Some(slot) = self.slots.borrow_mut().get(id)
        {
            slot.incoming = answer.rest.as_ref().map(|(incoming, _)| incoming.clone());
        }
        if !self.answer(id, outcome) && !is_whole {
            unwanted(peer, id);
        }
    }

    /// Hands the outcome to the call. `false`: there is none that waits for a response to read.
    fn answer(&self, id: Id, outcome: Result<Answer, Failure>) -> bool {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get(id) else {
            return false;
        };
        let State::Waiting(waker) = &mut slot.state else {
            return false;
        };
        let (waker, is_response) = (waker.take(), outcome.is_ok());
        slot.state = State::Answered(outcome);
        drop(slots);
        if let Some(waker) = waker {
            waker.wake();
        }
        is_response
    }

    /// The worker will send no more for this request.
    fn end(&self, id: Id, is_whole: bool) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get(id) else { return };
        let incoming = slot.incoming.take();
        if let Some(peer) = slot.worker.take().and_then(|number| self.peer(number)) {
            peer.running.set(peer.running.get().saturating_sub(1));
        }
        slot.is_ended = true;
        if matches!(slot.state, State::Over) {
            slots.remove(id);
        }
        drop(slots);
        if let Some(incoming) = incoming {
            incoming.end(is_whole);
        }
    }

    /// There will be no response, or no more of it.
    fn fail(&self, id: Id, failure: Failure) {
        self.answer(id, Err(failure));
        self.end(id, false);
    }

    fn fail_where(&self, is_lost: impl Fn(Id, &Slot) -> bool) {
        let slots = self.slots.borrow();
        let lost = slots
            .iter()
            .filter(|(id, slot)| !slot.is_ended && is_lost(*id, slot));
        let lost: Vec<Id> = lost.map(|(id, _)| id).collect();
        drop(slots);
        for id in lost {
            self.fail(id, Failure::WorkerDied);
        }
    }
}

/// What goes to the workers.
impl Link {
    /// The number of a request that is about to be sent.
    pub(super) fn open(self: &Rc<Self>, deadline: f64, is_head: bool) -> Call {
        let id = self.slots.borrow_mut().insert(deadline, is_head);
        Call {
            link: self.clone(),
            id,
        }
    }

    /// Sends a request to whichever thread is free first.
    pub(super) fn send_shared(self: &Rc<Self>, message: Outgoing) {
        self.shared.send(message);
        if !self.is_sweeping.replace(true) {
            let link = self.clone();
            spawn_detached(async move { link.sweep().await });
        }
    }

    /// Sends a request to the worker that has the fewest. `false`: there is none.
    pub(super) fn send_to_one(&self, id: Id, message: Outgoing) -> bool {
        let Some(peer) = self.least_busy() else {
            return false;
        };
        if let Some(slot) = self.slots.borrow_mut().get(id) {
            slot.worker = Some(peer.number);
        }
        peer.running.set(peer.running.get() + 1);
        peer.outbox.send(message);
        true
    }

    /// Says that requests have expired which no worker has begun with. A worker that begins with a
    /// request marks it, then looks at its deadline: so what is not marked after that never begins.
    async fn sweep(&self) {
        while self.slots.borrow().len() > 0 {
            sleep(SWEEP).await;
            let late = monotonic() - AFTER_DEADLINE;
            let is_late =
                |slot: &Slot| matches!(slot.state, State::Waiting(_)) && slot.deadline < late;
            let late: Vec<Id> = {
                let slots = self.slots.borrow();
                let late = slots.iter().filter(|(_, slot)| is_late(slot));
                late.map(|(id, _)| id).collect()
            };
            if late.is_empty() {
                continue;
            }
            let peers = self.peers.borrow().clone();
            let marked: Vec<Id> = peers.iter().flat_map(|peer| marks(&peer.page)).collect();
            peers.iter().for_each(|peer| self.collect(peer));
            for id in late {
                if !marked.contains(&id) {
                    self.fail(id, Failure::Expired);
                }
            }
        }
        self.is_sweeping.set(false);
    }

    /// A worker's response may go on by so many bytes.
    fn grant(&self, id: Id, bytes: u32) {
        let Some(peer) = self.worker_of(id) else {
            return;
        };
        tell(&peer, |message| {
            message.tuple(3);
            message.int(3);
            message.bytes(&id);
            message.int(i32::try_from(bytes).expect("a part of a body is short"));
        });
    }

    /// Sends a part of a request's body to the worker that has the request.
    pub(super) fn send_part(&self, id: Id, part: &[u8], has_more: bool) {
        let Some(peer) = self.worker_of(id) else {
            return;
        };
        tell(&peer, |message| {
            message.tuple(4);
            message.int(1);
            message.bytes(&id);
            message.bytes(part);
            message.bool(has_more);
        });
    }

    fn worker_of(&self, id: Id) -> Option<Rc<Peer>> {
        let number = self.slots.borrow_mut().get(id)?.worker?;
        self.peer(number)
    }
}

/// A request that waits for its response. If it is dropped, its worker is told.
#[derive(Debug)]
pub(super) struct Call {
    link: Rc<Link>,
    pub(super) id: Id,
}

impl Call {
    /// The request's body follows it; the result says how much of it the worker has room for.
    pub(super) fn upload(&self) -> Rc<Credit> {
        let credit = Rc::new(Credit::new());
        if let Some(slot) = self.link.slots.borrow_mut().get(self.id) {
            slot.upload = Some(credit.clone());
        }
        credit
    }

    /// Waits for the response. `gone` is ready when the client has disconnected, for a worker that is
    /// to hear of that.
    pub(super) async fn response<G>(self, mut gone: Option<G>) -> Result<Response, Failure>
    where
        G: Future<Output = ()> + Unpin + 'static,
    {
        let outcome = poll_fn(|context| {
            if let Some(future) = &mut gone
                && Pin::new(future).poll(context).is_ready()
            {
                gone = None;
                self.disconnect();
            }
            self.poll_outcome(context)
        });
        let Answer { response, rest } = outcome.await?;
        if let Some((incoming, sender)) = rest {
            spawn_detached(self.write_rest(incoming, sender, gone));
        }
        Ok(response)
    }

    fn poll_outcome(&self, context: &mut Context<'_>) -> Poll<Result<Answer, Failure>> {
        let mut slots = self.link.slots.borrow_mut();
        let slot = slots.get(self.id).expect("its call holds it");
        match &mut slot.state {
            State::Waiting(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            state => match mem::replace(state, State::Over) {
                State::Answered(outcome) => Poll::Ready(outcome),
                _ => unreachable!("a call takes one outcome"),
            },
        }
    }

    async fn write_rest(
        self,
        incoming: Rc<Incoming>,
        sender: BodySender,
        gone: Option<impl Future<Output = ()> + Unpin>,
    ) {
        let grant = |bytes| self.link.grant(self.id, bytes);
        if incoming.write_to(sender, gone, grant).await == Written::Gone {
            self.disconnect();
        }
    }

    /// Tells the worker that nobody waits for this request.
    fn disconnect(&self) {
        if let Some(peer) = self.link.worker_of(self.id) {
            unwanted(&peer, self.id);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut slots = self.link.slots.borrow_mut();
        let Some(slot) = slots.get(self.id) else {
            return;
        };
        slot.incoming = None;
        if slot.is_ended {
            slots.remove(self.id);
            return;
        }
        slot.state = State::Over;
        drop(slots);
        self.disconnect();
    }
}

/// The response of a head. The rest of its body is still to come unless `is_complete`.
fn answer(head: ResponseHead, body: &[u8], is_complete: bool) -> Answer {
    let mut response = Response::new(head.status).with_field_lines(Rc::new(head.lines));
    if let Some(reason) = head.reason {
        response = response.with_reason(reason);
    }
    let body = Bytes::copy_from_slice(body);
    if is_complete && head.length.is_none_or(|length| length == body.len() as u64) {
        let response = response.with_body(body);
        return Answer {
            response,
            rest: None,
        };
    }
    // A length that is stated is held against the body, or sent without one (HEAD).
    let (mut sender, channel) = Body::channel(RESPONSE_BYTES_MAX);
    let incoming = Rc::new(Incoming::new(body.len()));
    sender.try_write(body).expect("an empty queue has room");
    let channel = match head.length {
        Some(length) => channel.with_length(length),
        None => channel,
    };
    Answer {
        response: response.with_body(channel),
        rest: Some((incoming, sender)),
    }
}

/// Sends a short message to a worker.
fn tell(peer: &Peer, write: impl FnOnce(&mut Marshal)) {
    let mut message = Marshal::with_capacity(64);
    write(&mut message);
    peer.outbox.send(Outgoing {
        bytes: message.into_bytes(),
        descriptor: None,
    });
}

fn drained(message: &mut Marshal) {
    message.tuple(1);
    message.int(4);
}

fn unwanted(peer: &Peer, id: Id) {
    tell(peer, |message| {
        message.tuple(2);
        message.int(2);
        message.bytes(&id);
    });
}

fn report(peer: &Peer, what: &dyn fmt::Display) {
    let number = peer.number;
    messages::report(format_args!(
        "worker {number} has sent a message that is dropped: {what}; does the application write to \
         descriptors that it has not opened?"
    ));
}

/// The requests that a worker's threads have marked.
fn marks(page: &OwnedFd) -> Vec<Id> {
    let mut bytes = [0; PAGE_BYTES];
    // A page that cannot be read has no marks: its worker's requests are found to be lost.
    let len = pread(page, &mut bytes, 0).unwrap_or(0);
    let marks = bytes[..len].chunks_exact(MARK_BYTES).map(|mark| {
        let mut id = Id::default();
        id.copy_from_slice(&mark[..8]);
        id
    });
    marks.filter(|id| *id != Id::default()).collect()
}

/// The messages that a dead worker has not received, read from its own end of the socket.
fn unreceived(far: &OwnedFd) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    while let Ok((_, len @ 1..)) = recv(far, &mut buffer[..], RecvFlags::DONTWAIT) {
        frames.push(buffer[..len].to_vec());
    }
    frames
}
