//! One operation in flight, from its submission to its final completion.
//!
//! ```text
//!            push                     completion
//!   Idle ───────────► InKernel ──────────────────► Idle, keeps its result until it is taken
//!    ▲                   │ owner dropped
//!    │ more to come      ▼
//!    └── (multishot)  Orphaned ──── final completion ───► removed, with buffers and descriptor
//! ```
//!
//! An operation owns the descriptor and the buffers that the kernel uses for it. Its owner, a
//! handle in a coroutine, may be dropped at any time. The operation then stays in the table as an
//! orphan until its final completion. The id of an operation contains the generation of its slot:
//! once the slot is reused the id is invalid, and a late completion that carries it is dropped.
//!
//! Each file below holds one operation: how it is submitted, and what its completions mean.

mod accept;
mod close;
mod connect;
mod hangup;
mod message;
mod msg_header;
mod polling;
mod read;
mod recv;
mod send;
mod send_file;

use std::task::Waker;

pub(super) use accept::Accept;
pub use accept::accept;
pub(super) use close::close;
pub(super) use connect::{Connect, connect};
pub use hangup::Peer;
pub(super) use hangup::{Hangup, pending_error};
pub use message::Message;
pub(super) use message::{RecvMessage, SendMessage};
pub use msg_header::DESCRIPTORS_MAX;
pub use polling::Events;
pub(super) use polling::PollEvents;
pub(super) use read::Read;
pub(super) use recv::{Recv, StreamEnd, recv};
pub use send::{Interest, Sent, Then};
pub(super) use send::{PartialSend, Send, cancelled};

use crate::sys::mutants::mutate;

/// Why an operation must be in the table: its handle exists, and belongs to this run.
pub(super) const OP_EXISTS: &str = "an operation lives as long as its handle";

/// What to do after a completion, if the operation still has an owner.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Wake the waiting task.
    Wake,
    /// Wake the waiting task, and cancel the submission if it would complete again.
    WakeAndCancel,
    /// There was no provided buffer: queue the operation for one, and then submit it again.
    AwaitBuffer,
    /// Submit it again. Wake no task.
    Resubmit,
    /// Wake the waiting task, and remove the operation: it has nothing more to report.
    WakeAndForget,
    /// Remove the operation. Wake no task.
    Forget,
}

/// An operation in the table.
#[derive(Debug)]
pub(super) enum Op {
    Accept(Accept),
    Recv(Recv),
    Send(Send),
    Read(Read),
    Connect(Connect),
    Hangup(Hangup),
    PollEvents(PollEvents),
    RecvMessage(Box<RecvMessage>),
    SendMessage(Box<SendMessage>),
}

impl Op {
    /// Whether its destructor runs only our own code, and does not use the table.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Self::Send(send) if send.is_plain())
    }
}

/// The id of an operation: its slot in the table, and the generation of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpId {
    slot: u32,
    generation: u32,
}

/// Bits of the generation in `user_data`. The slot takes 32 bits, the tag 8.
const OP_GENERATION_BITS: u32 = 24;

/// The purpose of a submission: the top byte of its `user_data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Tag {
    /// An operation in the table.
    Op = 1,
    /// The cancellation of an operation. Its own completion is ignored, because the target's says
    /// how it ended.
    Cancel = 2,
    /// The close of a descriptor. No task waits for it.
    Close = 3,
}

impl OpId {
    /// The id of the operation at `slot` in its `generation`.
    pub(super) fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    pub(super) fn slot(self) -> u32 {
        self.slot
    }

    pub(super) fn generation(self) -> u32 {
        self.generation
    }

    /// The `user_data` of a submission on behalf of this operation.
    pub(super) fn user_data(self, tag: Tag) -> u64 {
        (tag as u64) << 56
            | u64::from(self.generation & OP_GENERATION_MASK) << 32
            | u64::from(self.slot)
    }
}

const OP_GENERATION_MASK: u32 = (1 << OP_GENERATION_BITS) - 1;

/// Whether the kernel uses an operation, and whether it still has an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpState {
    /// The kernel does not use it: it was not submitted yet, or has completed.
    Idle,
    /// The kernel may use its descriptor and buffers.
    InKernel,
    /// The kernel may use it, but no task will take the result.
    Orphaned,
}

#[derive(Debug)]
pub(super) struct OpEntry {
    pub(super) op: Op,
    pub(super) state: OpState,
    /// The current submission is being cancelled.
    pub(super) cancelled: bool,
    /// The task that waits for it.
    pub(super) waker: Option<Waker>,
}

#[derive(Debug)]
struct TableSlot {
    generation: u32,
    entry: Option<OpEntry>,
}

/// The operations of one engine.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<TableSlot>,
    vacant: Vec<u32>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
        }
    }

    /// Adds an operation. `op` builds it in place, because moving it costs more than building it.
    #[inline(always)]
    pub(super) fn insert(&mut self, op: impl FnOnce() -> Op) -> (OpId, &mut OpEntry) {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(TableSlot {
                generation: 0,
                entry: None,
            });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 operations")
        });
        let table_slot = &mut self.slots[slot as usize];
        assert!(table_slot.entry.is_none(), "a vacant slot is empty");
        let entry = table_slot.entry.get_or_insert_with(|| OpEntry {
            op: op(),
            state: OpState::Idle,
            cancelled: false,
            waker: None,
        });
        (OpId::new(slot, table_slot.generation), entry)
    }

    /// The operation that a completion belongs to; `None` if it is no longer in the table.
    #[inline]
    pub(super) fn completed(&self, user_data: u64) -> Option<OpId> {
        #[expect(clippy::cast_possible_truncation, reason = "the fields of `user_data`")]
        let (slot, generation) = (
            user_data as u32,
            (user_data >> 32) as u32 & OP_GENERATION_MASK,
        );
        let table_slot = self.slots.get(slot as usize)?;
        let is_same = mutate!(
            IgnoreGeneration,
            true,
            table_slot.generation & OP_GENERATION_MASK == generation
        );
        let is_live = table_slot.entry.is_some() && is_same;
        is_live.then_some(OpId::new(slot, table_slot.generation))
    }

    /// The operation with this id; `None` if it is no longer in the table.
    #[inline]
    pub(super) fn get(&mut self, id: OpId) -> Option<&mut OpEntry> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if mutate!(IgnoreGeneration, false, slot.generation != id.generation) {
            return None;
        }
        slot.entry.as_mut()
    }

    /// Removes the operation. Its id becomes invalid.
    pub(super) fn remove(&mut self, id: OpId) -> Option<OpEntry> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let entry = slot.entry.take()?;
        self.vacate(id.slot);
        Some(entry)
    }

    /// Drops the operation in place. Its id becomes invalid. Its destructor must run only our own
    /// code, because the table is borrowed.
    #[inline(always)]
    pub(super) fn drop_in_place(&mut self, id: OpId) {
        self.slots[id.slot as usize].entry = None;
        self.vacate(id.slot);
    }

    /// Makes a slot vacant, with the next generation. A slot whose generations are used up is never
    /// used again, because a handle may keep the id of a finished send for hours.
    #[inline(always)]
    fn vacate(&mut self, slot: u32) {
        let generation = &mut self.slots[slot as usize].generation;
        if let Some(next) = generation.checked_add(1) {
            *generation = next;
            self.vacant.push(slot);
        }
    }

    /// The ids of all operations.
    pub(super) fn ids(&self) -> Vec<OpId> {
        let slots = (0..)
            .zip(&self.slots)
            .filter(|(_, table_slot)| table_slot.entry.is_some());
        slots
            .map(|(slot, table_slot)| OpId {
                slot,
                generation: table_slot.generation,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn any_op() -> Op {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        Op::Read(Read::new(eventfd.into()))
    }

    /// Every idle connection has an operation in the table, so larger operations are boxed.
    #[test]
    fn an_operation_is_no_larger_than_a_send_or_a_receive() {
        let largest = size_of::<Recv>().max(size_of::<Send>());
        assert!(size_of::<Op>() <= largest + size_of::<u64>());
    }

    #[test]
    fn an_id_is_invalid_once_its_slot_is_used_again() {
        let mut table = Table::new();
        let first = table.insert(any_op).0;
        assert!(table.remove(first).is_some());
        let second = table.insert(any_op).0;
        assert_eq!(first.slot, second.slot);
        assert!(table.get(first).is_none());
        assert!(table.remove(first).is_none());
        assert!(table.get(second).is_some());
    }

    #[test]
    fn a_completion_finds_its_own_operation_and_no_later_one() {
        let mut table = Table::new();
        let first = table.insert(any_op).0;
        let user_data = first.user_data(Tag::Op);
        assert_eq!(table.completed(user_data), Some(first));
        table.remove(first);
        assert_eq!(table.completed(user_data), None);
        let second = table.insert(any_op).0;
        assert_eq!(table.completed(user_data), None);
        assert_eq!(table.completed(second.user_data(Tag::Op)), Some(second));
    }

    #[test]
    fn a_slot_whose_generations_are_used_up_is_not_used_again() {
        let mut table = Table::new();
        let first = table.insert(any_op).0;
        table.remove(first);
        table.slots[0].generation = u32::MAX;
        let last = table.insert(any_op).0;
        assert_eq!((last.slot, last.generation), (0, u32::MAX));
        table.remove(last);
        let next = table.insert(any_op).0;
        assert_eq!(next.slot, 1);
        assert!(table.get(last).is_none(), "its slot is empty");
    }
}
