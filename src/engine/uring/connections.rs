//! Accepting and connecting on the ring.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use rustix::net::SocketAddrAny;

use super::Uring;
use crate::engine::descriptor::Descriptor;
use crate::engine::op::{Accept, Connect, OP_EXISTS, Op, OpId, OpState};
use crate::rt::ClonedWaker;

impl Uring {
    pub(in crate::engine) fn start_accept(&self, listener: Descriptor) -> OpId {
        let accept = || Op::Accept(Accept::new(listener));
        self.table.borrow_mut().insert(accept).0
    }

    /// The next connection; `None` once the accept was stopped and all connections are handed out.
    pub(in crate::engine) fn poll_accept(
        &self,
        id: OpId,
        context: &Context<'_>,
    ) -> Poll<Option<io::Result<OwnedFd>>> {
        let mut waker = ClonedWaker::of(context);
        let mut table = self.table.borrow_mut();
        let entry = table.get(id).expect(OP_EXISTS);
        let Op::Accept(accept) = &mut entry.op else {
            unreachable!("the id of an accept")
        };
        if let Some(fd) = accept.pop() {
            return Poll::Ready(Some(Ok(fd)));
        }
        if let Some(error) = accept.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let idle = entry.state == OpState::Idle;
        if idle && accept.stopped {
            return Poll::Ready(None);
        }
        waker.store(&mut entry.waker);
        drop(table);
        if idle {
            self.submit(id);
        }
        Poll::Pending
    }

    /// Stops an accept. Connections that were accepted before are still handed out.
    pub(in crate::engine) fn stop_accept(&self, id: OpId) {
        if let Some(entry) = self.table.borrow_mut().get(id)
            && let Op::Accept(accept) = &mut entry.op
        {
            accept.stopped = true;
        }
        self.cancel(id);
    }

    pub(in crate::engine) fn start_connect(
        &self,
        socket: Descriptor,
        address: SocketAddrAny,
    ) -> OpId {
        let connect = || Op::Connect(Connect::new(socket, address));
        let (id, _) = self.table.borrow_mut().insert(connect);
        self.submit(id);
        id
    }

    /// The result of a connect. Poll it until it is ready, and not after that.
    pub(in crate::engine) fn poll_connect(
        &self,
        id: OpId,
        context: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut waker = ClonedWaker::of(context);
        let mut table = self.table.borrow_mut();
        let entry = table.get(id).expect(OP_EXISTS);
        let Op::Connect(connect) = &mut entry.op else {
            unreachable!("the id of a connect")
        };
        if let Some(result) = connect.result.take() {
            return Poll::Ready(result);
        }
        waker.store(&mut entry.waker);
        Poll::Pending
    }
}
