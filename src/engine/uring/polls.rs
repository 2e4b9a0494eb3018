//! Waiting on the ring until a descriptor is ready.

use std::io;
use std::task::{Context, Poll};

use super::Uring;
use crate::engine::descriptor::Descriptor;
use crate::engine::op::{Events, GONE, Op, OpId, Polling, State};

impl Uring {
    pub(in crate::engine) fn start_polling(
        &self,
        descriptor: Descriptor,
        interest: Events,
    ) -> OpId {
        let polling = || Op::Polling(Polling::new(descriptor, interest));
        self.table.borrow_mut().insert(polling).0
    }

    /// Events since the last call that was ready.
    pub(in crate::engine) fn poll_events(
        &self,
        id: OpId,
        context: &Context<'_>,
    ) -> Poll<io::Result<Events>> {
        let mut table = self.table.borrow_mut();
        let entry = table.get(id).expect(GONE);
        let Op::Polling(polling) = &mut entry.op else {
            unreachable!("a poll's name")
        };
        if let Some(reported) = polling.take() {
            return Poll::Ready(reported);
        }
        let is_idle = entry.state == State::Idle;
        let replaced = entry.wait(context.waker());
        drop(table);
        drop(replaced);
        if is_idle {
            self.submit(id);
        }
        Poll::Pending
    }
}
