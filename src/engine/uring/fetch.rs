//! Fetching all completions that are available now, before a deadline is acted on.

use std::io;

use super::Uring;
use crate::engine::op::{Op, OpId};

/// How many calls may fetch nothing, for example because a signal interrupted them.
const IDLE_CALLS_MAX: u64 = 16;

impl Uring {
    /// Fetches and applies all completions that are available now, without waiting. Returns false
    /// if there were none.
    ///
    /// # Errors
    /// If the ring can no longer be used.
    pub(in crate::engine) fn fetch_completions(&self) -> io::Result<bool> {
        let before = self.metrics.completions.get();
        // One call of io_uring_enter(2) fetches a limited number of completions.
        for _ in 0..self.in_flight.get() + IDLE_CALLS_MAX {
            self.visit(None)?;
            let mut ring = self.ring.borrow_mut();
            if ring.unsubmitted() == 0 && !ring.needs_enter() && !ring.has_completions() {
                break;
            }
        }
        Ok(self.metrics.completions.get() != before)
    }

    /// If the receive is queued for a buffer, receives for it by a system call.
    pub(in crate::engine) fn receive_queued(&self, id: OpId) {
        let mut table = self.table.borrow_mut();
        if let Some(Op::Recv(recv)) = table.get(id).map(|entry| &mut entry.op)
            && recv.is_queued
        {
            let received = recv.receive_directly(&self.pool);
            self.metrics.bytes_received.add(received as u64);
        }
    }
}
