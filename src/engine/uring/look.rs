//! Asking the kernel for all that has arrived by now, before a deadline is acted on.

use std::io;

use super::Uring;
use crate::engine::op::{Op, OpId};

/// Calls in a row that may bring nothing: a signal can interrupt one, for example.
const IDLE_CALLS_MAX: u64 = 16;

impl Uring {
    /// Takes in everything that has come by now, without waiting. False: there was nothing.
    ///
    /// # Errors
    /// When the ring can no longer be used.
    pub(in crate::engine) fn look(&self) -> io::Result<bool> {
        let before = self.metrics.completions.get();
        // One call of io_uring_enter(2) takes in a few completions only.
        for _ in 0..self.in_flight.get() + IDLE_CALLS_MAX {
            self.visit(None)?;
            let mut ring = self.ring.borrow_mut();
            if ring.unsubmitted() == 0 && !ring.needs_enter() && !ring.has_completions() {
                break;
            }
        }
        Ok(self.metrics.completions.get() != before)
    }

    /// Receives for a receive that waits for a buffer and that the kernel does not have.
    pub(in crate::engine) fn receive_queued(&self, id: OpId) {
        let mut table = self.table.borrow_mut();
        if let Some(Op::Recv(recv)) = table.get(id).map(|entry| &mut entry.op)
            && recv.is_queued
        {
            let received = recv.receive_in_turn(&self.pool);
            self.metrics.bytes_received.add(received as u64);
        }
    }
}
