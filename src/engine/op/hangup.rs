//! Noticing that a peer goes away while nothing is received from it (poll(2), a multishot of
//! `IORING_OP_POLL_ADD`, Linux 5.13).
//!
//! A receive that is armed reports a FIN and a RST by itself. None is armed after the FIN, while
//! received data waits to be asked for, or while buffers are contended for. A plain poll would
//! complete at once, again and again, from the FIN on; so this one reports changes only.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::net::sockopt;

use super::{After, Events};
use crate::engine::descriptor::Descriptor;
use crate::engine::uring::{Cqe, Sqe};

/// The state of a stream's peer, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// It may send, and receive.
    #[default]
    Present,
    /// It sends no more (FIN). Whether it still receives cannot be known: a process that is gone
    /// looks the same, until something is sent to it.
    HalfClosed,
    /// The connection is broken (RST), or closed at the other end of a Unix socket.
    Gone,
}

impl Peer {
    /// What the events of poll(2) or epoll_wait(2) tell; the numbers are the same.
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

/// One socket's poll.
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

    /// A change, or the end of the poll. A task that still waits then asks for it again.
    pub(in crate::engine) fn complete(&mut self, cqe: &Cqe) -> After {
        match cqe.result() {
            Ok(events) => {
                self.peer = self.peer.max(Peer::of_events(events));
                After::Wake
            }
            // It was cancelled, or cannot be had; then whatever else happens is to wake.
            Err(_) => After::Forget,
        }
    }
}

/// The error that the kernel keeps for a socket, which asking for takes away.
pub(in crate::engine) fn pending_error(socket: BorrowedFd<'_>) -> Option<io::Error> {
    match sockopt::socket_error(socket) {
        Ok(Err(errno)) | Err(errno) => Some(errno.into()),
        Ok(Ok(())) => None,
    }
}
