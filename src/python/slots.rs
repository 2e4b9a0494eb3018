//! The requests of one core that its workers have not answered in full, by their numbers.

use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::task::Waker;

use super::body::Share;
use super::message::Id;
use super::stream::Incoming;
use super::upload::Credit;
use ::http::StatusCode;

use crate::service::{BodySender, Response};
use crate::sys::mutants::mutate;

/// Where a request stands.
#[derive(Debug)]
pub(super) enum State {
    /// No response has begun.
    Waiting(Option<Waker>),
    /// A response, or the reason why there is none, waits for the call to take it.
    Responded(Result<StartedResponse, Failure>),
    /// The call has taken the response, or was dropped before there was one.
    Over,
}

/// A response, and the rest of its body if that is still to come.
#[derive(Debug)]
pub(super) struct StartedResponse {
    pub(super) response: Response,
    pub(super) rest: Option<(Rc<Incoming>, BodySender)>,
}

/// Why a request has no response from its application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The worker that had it has died.
    WorkerDied,
    /// The worker that had it was ended because it did not go on.
    TimedOut,
    /// No worker was free until its deadline.
    Expired,
    /// Its response was not valid.
    Invalid,
    /// Its proxy contradicts itself, which has this status.
    Refused(StatusCode),
}

/// A request that was given to the workers.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    /// The worker that has it, as far as that is known.
    pub(super) worker: Option<u32>,
    /// When it was sent, as a number that grows with each request of this core.
    pub(super) order: u64,
    /// CLOCK_MONOTONIC in seconds: no worker begins with it later.
    pub(super) deadline: f64,
    /// The body of its response, once that has begun and is not whole.
    pub(super) incoming: Option<Rc<Incoming>>,
    /// The body of the request, if that follows it.
    pub(super) upload: Option<Rc<Credit>>,
    /// What the body of the request has of the memory for bodies, if that came first.
    pub(super) share: Option<Share>,
    /// The worker will send no more for it.
    pub(super) is_ended: bool,
    /// How long it waited for its worker, in µs, if the worker has told.
    pub(super) waited: Option<u32>,
    /// Whether it asked for the head alone.
    pub(super) is_head: bool,
}

impl Slot {
    /// Whether a worker may have the request: none is known that has it, or it is this one, and
    /// its response has not ended.
    pub(super) fn may_be_of(&self, worker: u32) -> bool {
        let is_its_own = self.worker.is_none_or(|other| other == worker);
        !self.is_ended && mutate!(BelieveAnyWorker, true, is_its_own)
    }
}

/// A slab of slots. A number is an index and a nonce, so a worker that invents numbers meets no
/// other request.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<(u32, Option<Slot>)>,
    free: Vec<u32>,
    random: RandomState,
    nonces: u64,
    orders: u64,
}

impl Slots {
    /// Requests that are not over.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A number that is not to be guessed, and not zero.
    pub(super) fn nonce(&mut self) -> u32 {
        self.nonces += 1;
        // SipHash with a key of this process.
        (self.random.hash_one(self.nonces) >> 32) as u32 | 1
    }

    /// The order of the next request.
    pub(super) fn next_order(&self) -> u64 {
        self.orders
    }

    pub(super) fn insert(&mut self, deadline: f64, is_head: bool) -> Id {
        let order = self.orders;
        self.orders += 1;
        let nonce = self.nonce();
        let slot = Some(Slot {
            state: State::Waiting(None),
            worker: None,
            order,
            deadline,
            incoming: None,
            upload: None,
            share: None,
            is_ended: false,
            waited: None,
            is_head,
        });
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = (nonce, slot);
                index
            }
            None => {
                self.slots.push((nonce, slot));
                u32::try_from(self.slots.len() - 1).expect("fewer requests than that")
            }
        };
        let mut id = Id::default();
        id[..4].copy_from_slice(&index.to_le_bytes());
        id[4..].copy_from_slice(&nonce.to_le_bytes());
        id
    }

    pub(super) fn get(&mut self, id: Id) -> Option<&mut Slot> {
        let (index, nonce) = split(id);
        match self.slots.get_mut(index)? {
            (other, Some(slot)) if *other == nonce => Some(slot),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<Slot> {
        self.get(id)?;
        let (index, _) = split(id);
        self.free
            .push(u32::try_from(index).expect("it came from 32 bits"));
        self.slots[index].1.take()
    }

    /// All of them, with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &Slot)> {
        (0_u32..)
            .zip(&self.slots)
            .filter_map(|(index, (nonce, slot))| {
                let mut id = Id::default();
                id[..4].copy_from_slice(&index.to_le_bytes());
                id[4..].copy_from_slice(&nonce.to_le_bytes());
                Some((id, slot.as_ref()?))
            })
    }
}

fn split(id: Id) -> (usize, u32) {
    let [a, b, c, d, e, f, g, h] = id;
    let index = u32::from_le_bytes([a, b, c, d]);
    (index as usize, u32::from_le_bytes([e, f, g, h]))
}
