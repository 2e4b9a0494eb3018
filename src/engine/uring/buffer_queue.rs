//! The queue of receives that wait for a provided buffer.
//!
//! A multishot receive takes as many buffers as its peer has sent bytes for. So a few greedy peers
//! could take all buffers in every turn, and the others would never get one. Therefore the ring
//! counts as crowded for a while once a receive has found no buffer. In a crowded ring every
//! receive takes one buffer at a time, and then queues here behind all earlier receives. So a
//! receive that found no buffer comes before one that has just got one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::engine::op::OpId;

/// How long the ring stays crowded after the last receive that found no buffer: until all of its
/// buffers were used this many times. Between two crowded phases a few peers may get more than
/// their share; the length of the phases makes that negligible.
const CROWDED_ROUNDS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct BufferQueue {
    waiting: RefCell<VecDeque<OpId>>,
    /// How many buffers are still to be used before the ring is no longer crowded.
    crowded_for: Cell<usize>,
}

impl BufferQueue {
    /// Whether every receive must queue here, and take one buffer at a time.
    #[inline]
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded_for.get() > 0
    }

    /// Starts a crowded phase: in a ring of `capacity` buffers, a receive found none.
    pub(super) fn note_exhausted(&self, capacity: usize) {
        self.crowded_for.set(CROWDED_ROUNDS * capacity);
    }

    /// Counts a used buffer. This shortens the crowded phase only while no receive is queued.
    #[inline]
    pub(super) fn note_used(&self) {
        if self.is_crowded() && self.is_empty() {
            self.crowded_for.set(self.crowded_for.get() - 1);
        }
    }

    /// Queues a receive behind all others.
    pub(super) fn push(&self, id: OpId) {
        self.waiting.borrow_mut().push_back(id);
    }

    /// The receive whose turn it is. It may no longer exist.
    pub(super) fn pop(&self) -> Option<OpId> {
        self.waiting.borrow_mut().pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }
}
