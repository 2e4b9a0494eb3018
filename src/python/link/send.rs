//! The messages to workers, and requests that expire.

use std::rc::Rc;
use std::time::Duration;

use super::{Call, Link, Peer, WORKER_CHECK, monotonic};
use crate::python::message::Id;
use crate::python::outbox::Outgoing;
use crate::python::request;
use crate::python::slots::{Failure, Slot};
use crate::rt::spawn_detached;
use crate::task::time::sleep;

/// How often deadlines are checked while requests wait.
const SWEEP: Duration = Duration::from_millis(500);
/// How long after a request's deadline its mark is looked for: a worker that has received it in
/// time has set the mark by then.
const AFTER_DEADLINE: f64 = 0.1;

impl Link {
    /// The number of a request that is about to be sent.
    pub(in crate::python) fn open(self: &Rc<Self>, deadline: f64, is_head: bool) -> Call {
        let id = self.slots.borrow_mut().insert(deadline, is_head);
        Call {
            link: self.clone(),
            id,
        }
    }

    /// Sends a request to whichever thread is free first.
    pub(in crate::python) fn send_shared(self: &Rc<Self>, message: Outgoing) {
        self.shared.send(message);
        self.ensure_sweep();
    }

    fn ensure_sweep(self: &Rc<Self>) {
        if !self.is_sweeping.replace(true) {
            let link = self.clone();
            spawn_detached(async move { link.sweep().await });
        }
    }

    /// Sends a request to the worker that has the fewest. `false`: there is none.
    pub(in crate::python) fn send_to_one(self: &Rc<Self>, id: Id, message: Outgoing) -> bool {
        let Some(peer) = self.least_busy() else {
            return false;
        };
        if let Some(slot) = self.slots.borrow_mut().get(id) {
            slot.worker = Some(peer.number);
        }
        peer.running.set(peer.running.get() + 1);
        peer.send(message);
        self.ensure_sweep();
        // A worker that has just come has room for more than one.
        self.admit();
        true
    }

    /// Says that requests have expired which no worker has begun with. A worker that begins with a
    /// request marks it, then looks at its deadline: so what is not marked after that never begins.
    ///
    /// Messages are taken, too. A worker's ring is of no use if others fill its socket again before
    /// it can send: code of the application that writes to descriptors which it has not opened.
    async fn sweep(&self) {
        while self.slots.borrow().len() > 0 {
            sleep(SWEEP).await;
            let late = monotonic() - AFTER_DEADLINE;
            let is_late = |slot: &Slot| {
                // Also one whose client has gone.
                let is_open = !slot.is_ended && slot.worker.is_none();
                is_open && slot.deadline < late
            };
            let late: Vec<Id> = {
                let slots = self.slots.borrow();
                let late = slots.iter().filter(|(_, slot)| is_late(slot));
                late.map(|(id, _)| id).collect()
            };
            let peers = self.peers.borrow().clone();
            let marked: Vec<Id> = match late.is_empty() {
                true => Vec::new(),
                false => peers.iter().flat_map(|peer| peer.marks()).collect(),
            };
            peers.iter().for_each(|peer| self.collect(peer));
            for id in late {
                if !marked.contains(&id) {
                    self.fail(id, Failure::Expired);
                }
            }
        }
        self.is_sweeping.set(false);
    }

    /// A worker's response may continue by `bytes` bytes.
    pub(super) fn grant(&self, id: Id, bytes: u32) {
        let Some(peer) = self.worker_of(id) else {
            return;
        };
        peer.tell(|message| {
            message.tuple(3);
            message.int(3);
            message.bytes(&id);
            message.int(i32::try_from(bytes).expect("a part of a body is short"));
        });
    }

    /// Sends a part of a request's body to the worker that has the request, when what was sent to
    /// that worker before has found room. If there is no worker at present, it waits for one.
    pub(in crate::python) async fn send_part(&self, id: Id, part: &[u8], has_more: bool) {
        loop {
            let Some(peer) = self.worker_of(id) else {
                if !self.is_unassigned(id) {
                    return;
                }
                sleep(WORKER_CHECK).await;
                continue;
            };
            if peer.outbox.queued() == 0 {
                return peer.send(request::part(id, part, has_more));
            }
            peer.outbox.room().await;
        }
    }

    pub(super) fn worker_of(&self, id: Id) -> Option<Rc<Peer>> {
        let number = self.slots.borrow_mut().get(id)?.worker?;
        self.peer(number)
    }
}
