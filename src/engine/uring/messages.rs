//! Messages with descriptors on the ring.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use super::Uring;
use crate::buf::Part;
use crate::engine::descriptor::Descriptor;
use crate::engine::op::{Message, OP_EXISTS, Op, OpEntry, OpId, OpState, RecvMessage, SendMessage};
use crate::rt::ClonedWaker;

impl Uring {
    pub(in crate::engine) fn start_recv_message(
        &self,
        socket: Descriptor,
        buffer: Vec<u8>,
    ) -> OpId {
        let op = || Op::RecvMessage(Box::new(RecvMessage::new(socket, buffer)));
        self.table.borrow_mut().insert(op).0
    }

    /// The message; `None` at the end of the stream. The error is `WouldBlock` if the socket
    /// reports that. Poll it until it is ready, and again only after `WouldBlock`.
    pub(in crate::engine) fn poll_recv_message(
        &self,
        id: OpId,
        context: &Context<'_>,
    ) -> Poll<io::Result<Option<Message>>> {
        self.poll_result(id, context, |entry| match &mut entry.op {
            Op::RecvMessage(message) => message.result.take(),
            _ => unreachable!("the id of a receive"),
        })
    }

    pub(in crate::engine) fn start_send_message(
        &self,
        socket: Descriptor,
        bytes: Part,
        descriptors: Vec<OwnedFd>,
    ) -> OpId {
        let op = || Op::SendMessage(Box::new(SendMessage::new(socket, bytes, descriptors)));
        self.table.borrow_mut().insert(op).0
    }

    /// The result of the send; `WouldBlock` if the socket has no room. Poll it as you poll a
    /// receive.
    pub(in crate::engine) fn poll_send_message(
        &self,
        id: OpId,
        context: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_result(id, context, |entry| match &mut entry.op {
            Op::SendMessage(message) => message.result.take(),
            _ => unreachable!("the id of a send"),
        })
    }

    /// The result that `take` finds. If there is none, waits for it, and submits the operation
    /// unless the kernel already has it.
    pub(super) fn poll_result<R>(
        &self,
        id: OpId,
        context: &Context<'_>,
        take: impl FnOnce(&mut OpEntry) -> Option<R>,
    ) -> Poll<R> {
        let mut waker = ClonedWaker::of(context);
        let mut table = self.table.borrow_mut();
        let entry = table.get(id).expect(OP_EXISTS);
        if let Some(result) = take(entry) {
            return Poll::Ready(result);
        }
        let is_idle = entry.state == OpState::Idle;
        waker.store(&mut entry.waker);
        drop(table);
        if is_idle {
            self.submit(id);
        }
        Poll::Pending
    }
}
