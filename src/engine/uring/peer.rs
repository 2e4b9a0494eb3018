//! Whether the peer of a stream is still there, while nothing is received from it.

use std::task::Context;

use super::Uring;
use crate::engine::op::{End, Entry, GONE, Hangup, Op, OpId, Peer, State};
use crate::sys::mutants::mutate;

impl Uring {
    /// Tells whether the peer of the stream that `id` receives from is still there; the caller is
    /// woken when that may have changed. No received byte is taken.
    pub(in crate::engine) fn poll_peer(&self, id: OpId, context: &Context<'_>) -> Peer {
        let mut table = self.table.borrow_mut();
        let entry = table.get(id).expect(GONE);
        let Op::Recv(recv) = &mut entry.op else {
            unreachable!("a receive's name")
        };
        let has_ended = match &recv.end {
            Some(End::Error(_)) => return Peer::Gone,
            Some(End::Eof) => true,
            None => false,
        };
        let ask = entry.state == State::Idle && !recv.is_queued && !has_ended && recv.is_empty();
        let has_hangup = recv.hangup.is_some();
        let replaced = entry.wait(context.waker());
        drop(table);
        drop(replaced);
        if ask {
            self.ask_to_receive(id);
        }
        let armed = |entry: &mut Entry| entry.state != State::Idle;
        let is_armed = self.table.borrow_mut().get(id).is_some_and(armed);
        let known = if has_ended {
            Peer::HalfClosed
        } else {
            Peer::Present
        };
        if mutate!(DeafAfterEnd, true, is_armed && !has_hangup) {
            return known;
        }
        known.max(self.poll_hangup(id, context))
    }

    /// The same by a poll of its own.
    fn poll_hangup(&self, id: OpId, context: &Context<'_>) -> Peer {
        let hangup = self.hangup_of(id);
        let mut table = self.table.borrow_mut();
        let entry = table.get(hangup).expect(GONE);
        let Op::Hangup(Hangup { peer, .. }) = entry.op else {
            unreachable!("a poll's name")
        };
        if peer == Peer::Gone {
            return peer;
        }
        let submit = entry.state == State::Idle;
        let replaced = entry.wait(context.waker());
        drop(table);
        drop(replaced);
        if submit {
            self.submit(hangup);
        }
        peer
    }

    /// The poll that belongs to a receive. It is forgotten when it fails, and made again.
    fn hangup_of(&self, id: OpId) -> OpId {
        let mut table = self.table.borrow_mut();
        let Some(Op::Recv(recv)) = table.get(id).map(|entry| &entry.op) else {
            unreachable!("a receive's name")
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
