//! Detecting that a peer disconnects while nothing is received from it (poll(2), a multishot
//! `IORING_OP_POLL_ADD`, Linux 5.13).
//!
//! An armed receive reports a FIN or RST itself. But no receive is armed after the FIN, while
//! received chunks wait to be taken, or while the receive is queued for a buffer. Then this poll is
//! armed. A single-shot poll would complete at once, over and over, after the FIN; a multishot
//! reports only changes.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::net::sockopt;

use super::{After, Events};
use crate::engine::descriptor::Descriptor;
use crate::engine::uring::{Cqe, Sqe};

/// The state of a stream's peer, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// It may send and receive.
    #[default]
    Present,
    /// It sends no more (FIN). Whether it still receives is unknown: if its process has exited,
    /// this looks the same until something is sent to it.
    HalfClosed,
    /// The connection was reset (RST), or the other end of a Unix socket was closed.
    Gone,
}

impl Peer {
    /// The state that events of poll(2) or epoll_wait(2) mean; both use the same bits.
    pub(in crate::engine) fn of_events(events: u32) -> Self {
        let has = |event: libc::c_short| events & u32::from(event.unsigned_abs()) != 0;
        if has(libc::POLLERR | libc::POLLHUP) {
            Self::Gone
        } else if has(libc::POLLRDHUP) {
            Self::HalfClosed
        } else {
            Self::Present
        }
    }
}

/// The poll of one socket.
#[derive(Debug)]
pub(in crate::engine) struct Hangup {
    socket: Descriptor,
    pub(in crate::engine) peer: Peer,
}

impl Hangup {
    pub(in crate::engine) fn new(socket: Descriptor) -> Self {
        Self {
            socket,
            peer: Peer::Present,
        }
    }

    pub(in crate::engine) fn sqe(&self) -> Sqe {
        Sqe::Poll {
            fd: self.socket.raw(),
            events: Events::NONE,
        }
    }

    /// Handles a completion: a change, or the end of the poll. A task that still waits then polls
    /// again.
    pub(in crate::engine) fn complete(&mut self, cqe: &Cqe) -> After {
        match cqe.result() {
            Ok(events) => {
                self.peer = self.peer.max(Peer::of_events(events));
                After::Wake
            }
            // It was cancelled or failed. No task is woken: the stream's other operations do that.
            Err(_) => After::Forget,
        }
    }
}

/// The pending error of a socket (`SO_ERROR`). Reading it clears it.
pub(in crate::engine) fn pending_error(socket: BorrowedFd<'_>) -> Option<io::Error> {
    match sockopt::socket_error(socket) {
        Ok(Err(errno)) | Err(errno) => Some(errno.into()),
        Ok(Ok(())) => None,
    }
}
