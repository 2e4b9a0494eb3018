//! Waiting on the ring until a descriptor is ready.

use std::io;
use std::task::{Context, Poll};

use super::Uring;
use crate::engine::descriptor::Descriptor;
use crate::engine::op::{Events, Op, OpId, PollEvents};

impl Uring {
    pub(in crate::engine) fn start_polling(
        &self,
        descriptor: Descriptor,
        interest: Events,
    ) -> OpId {
        let polling = || Op::PollEvents(PollEvents::new(descriptor, interest));
        self.table.borrow_mut().insert(polling).0
    }

    /// The events since the last call that was ready.
    pub(in crate::engine) fn poll_events(
        &self,
        id: OpId,
        context: &Context<'_>,
    ) -> Poll<io::Result<Events>> {
        self.poll_result(id, context, |entry| match &mut entry.op {
            Op::PollEvents(polling) => polling.take(),
            _ => unreachable!("the id of a poll"),
        })
    }
}
