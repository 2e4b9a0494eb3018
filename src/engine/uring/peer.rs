//! The state of a stream's peer while nothing is received from it.

use std::task::Context;

use super::Uring;
use crate::engine::op::{Hangup, OP_EXISTS, Op, OpEntry, OpId, OpState, Peer, StreamEnd};
use crate::rt::ClonedWaker;
use crate::sys::mutants::mutate;

impl Uring {
    /// The state of the peer of the stream that `id` receives from. No received byte is taken. The
    /// caller is woken when the state may have changed.
    pub(in crate::engine) fn poll_peer(&self, id: OpId, context: &Context<'_>) -> Peer {
        let mut waker = ClonedWaker::of(context);
        let mut table = self.table.borrow_mut();
        let entry = table.get(id).expect(OP_EXISTS);
        let Op::Recv(recv) = &mut entry.op else {
            unreachable!("the id of a receive")
        };
        let has_ended = match &recv.end {
            Some(StreamEnd::Error(_)) => return Peer::Gone,
            Some(StreamEnd::Eof) => true,
            None => false,
        };
        let ask = entry.state == OpState::Idle && !recv.is_queued && !has_ended && recv.is_empty();
        let has_hangup = recv.hangup.is_some();
        waker.store(&mut entry.waker);
        drop(table);
        if ask {
            self.ask_to_receive(id);
        }
        // An armed receive reports a FIN or RST itself. But a hang-up poll that exists is always
        // consulted, because it may have reported a reset while no receive was armed.
        let armed = |entry: &mut OpEntry| entry.state != OpState::Idle;
        let is_armed = self.table.borrow_mut().get(id).is_some_and(armed);
        let known = if has_ended {
            Peer::HalfClosed
        } else {
            Peer::Present
        };
        if mutate!(MissReset, true, is_armed && !has_hangup) {
            return known;
        }
        known.max(self.poll_hangup(id, context))
    }

    /// The state of the peer according to the hang-up poll, which is submitted if it is not armed.
    fn poll_hangup(&self, id: OpId, context: &Context<'_>) -> Peer {
        let hangup = self.hangup_of(id);
        let mut waker = ClonedWaker::of(context);
        let mut table = self.table.borrow_mut();
        let entry = table.get(hangup).expect(OP_EXISTS);
        let Op::Hangup(Hangup { peer, .. }) = entry.op else {
            unreachable!("the id of a poll")
        };
        if peer == Peer::Gone {
            return peer;
        }
        let submit = entry.state == OpState::Idle;
        waker.store(&mut entry.waker);
        drop(table);
        if submit {
            self.submit(hangup);
        }
        peer
    }

    /// The hang-up poll of a receive. A poll that failed was removed, and is replaced here.
    fn hangup_of(&self, id: OpId) -> OpId {
        let mut table = self.table.borrow_mut();
        let Some(Op::Recv(recv)) = table.get(id).map(|entry| &entry.op) else {
            unreachable!("the id of a receive")
        };
        let (hangup, socket) = (recv.hangup, recv.socket());
        if let Some(hangup) = hangup
            && table.get(hangup).is_some()
        {
            return hangup;
        }
        let hangup = table.insert(|| Op::Hangup(Hangup::new(socket))).0;
        if let Some(Op::Recv(recv)) = table.get(id).map(|entry| &mut entry.op) {
            recv.hangup = Some(hangup);
        }
        hangup
    }
}
