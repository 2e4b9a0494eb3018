//! A connect on the ring.

use std::io;
use std::task::{Context, Poll};

use rustix::net::SocketAddrAny;

use super::Uring;
use crate::engine::descriptor::Descriptor;
use crate::engine::op::{Connect, Op, OpId};

impl Uring {
    pub(in crate::engine) fn start_connect(
        &self,
        socket: Descriptor,
        address: SocketAddrAny,
    ) -> OpId {
        let connect = Op::Connect(Connect::new(socket, address));
        let id = self.table.borrow_mut().insert(connect);
        self.submit(id);
        id
    }

    /// How a connect ended. To be polled until ready, and not after.
    pub(in crate::engine) fn poll_connect(
        &self,
        id: OpId,
        context: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut table = self.table.borrow_mut();
        let entry = table
            .get(id)
            .expect("a connect lives as long as its handle");
        let Op::Connect(connect) = &mut entry.op else {
            unreachable!("a connect's name")
        };
        if let Some(result) = connect.result.take() {
            return Poll::Ready(result);
        }
        entry.wait(context.waker());
        Poll::Pending
    }
}
