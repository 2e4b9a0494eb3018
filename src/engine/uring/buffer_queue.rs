//! The receives that wait for a provided buffer, and the order in which they get one.
//!
//! A multishot receive takes as many buffers as its peer has sent bytes for. A few greedy peers
//! could so take all buffers in every turn, and the others would never get one. So once a receive
//! finds no buffer, the ring is crowded for a while: every receive then takes one buffer at a time
//! and waits here for its turn, behind all that asked before. Nobody overtakes, and a receive that
//! got nothing comes before one that has just got something.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::engine::op::OpId;

/// How many times the ring's buffers are handed out one by one after the last receive that had to
/// wait for one. Between two crowds a few peers may get more than their share; this makes it small
/// beside what all get in the crowd.
const CROWDED_ROUNDS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct BufferQueue {
    waiting: RefCell<VecDeque<OpId>>,
    /// Buffers that are still handed out one at a time.
    crowded_for: Cell<usize>,
}

impl BufferQueue {
    /// Whether every receive takes its turn here, and one buffer at a time.
    #[inline]
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded_for.get() > 0
    }

    /// A receive found no buffer, in a ring of `capacity`.
    pub(super) fn ran_dry(&self, capacity: usize) {
        self.crowded_for.set(CROWDED_ROUNDS * capacity);
    }

    /// The kernel has used a buffer.
    #[inline]
    pub(super) fn note_used(&self) {
        if self.is_crowded() && self.is_empty() {
            self.crowded_for.set(self.crowded_for.get() - 1);
        }
    }

    /// Adds a receive behind those that wait.
    pub(super) fn push(&self, id: OpId) {
        self.waiting.borrow_mut().push_back(id);
    }

    /// The receive whose turn it is. It may be gone by now.
    pub(super) fn pop(&self) -> Option<OpId> {
        self.waiting.borrow_mut().pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }
}
