//! Operations in flight, with the memory that they may still read and write.

use std::os::fd::{OwnedFd, RawFd};

use super::kernel::count;
use super::network::borrow;

/// One operation in flight on a ring.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) user_data: u64,
    pub(super) action: Action,
    /// The earliest time of its next completion, in ms.
    pub(super) after_ms: u64,
    /// When its cancellation takes effect, in ms.
    pub(super) cancel_ms: Option<u64>,
}

#[derive(Debug)]
pub(super) enum Action {
    Accept {
        fd: RawFd,
        listener: usize,
        is_multishot: bool,
    },
    Recv {
        socket: usize,
        is_multishot: bool,
    },
    Send {
        socket: usize,
        outgoing: SendMemory,
    },
    /// A poll for the client's hang-up. It reports each change once.
    Hangup {
        socket: usize,
        /// The events that were reported.
        reported: u32,
    },
    /// A poll of a real descriptor, such as an eventfd. This epoll instance watches nothing else.
    Watch {
        epoll: OwnedFd,
    },
    /// A receive of a message from a real socket.
    RecvMsg {
        fd: RawFd,
        header: *mut libc::msghdr,
    },
    /// A send of a message on a real socket.
    SendMsg {
        fd: RawFd,
        header: *const libc::msghdr,
        outgoing: SendMemory,
    },
    /// A poll for room to send.
    Room {
        socket: usize,
        /// It is a multishot, which reports each change once.
        edges: bool,
        /// The number of changes at its last report.
        reported: Option<u64>,
    },
    /// A read of a real eventfd.
    Read {
        fd: RawFd,
        to: *mut u8,
    },
    /// A connect to a peer outside the simulation. It fails with `errno`.
    Connect {
        errno: i32,
        address: SendMemory,
    },
    /// An operation with this result, which is decided but not yet posted.
    Decided(i32),
}

/// The memory that a send was given.
#[derive(Debug)]
pub(super) struct SendMemory {
    parts: Vec<(*const u8, usize)>,
    /// A copy of the bytes, made when the send was issued.
    pub(super) copy: Vec<u8>,
}

impl SendMemory {
    pub(super) fn new(parts: Vec<(*const u8, usize)>) -> Self {
        let mut copy = Vec::new();
        for part in &parts {
            copy.extend_from_slice(memory(part));
        }
        Self { parts, copy }
    }

    /// Whether the memory still contains the same bytes.
    fn is_intact(&self) -> bool {
        let mut rest = &self.copy[..];
        self.parts.iter().all(|part| {
            let (copy, behind) = rest.split_at(part.1);
            rest = behind;
            memory(part) == copy
        })
    }
}

/// The bytes of one part of a send.
fn memory(&(start, len): &(*const u8, usize)) -> &[u8] {
    // SAFETY: the operation keeps its memory until its final completion.
    unsafe { std::slice::from_raw_parts(start, len) }
}

impl Flight {
    pub(super) fn is_decided(&self) -> bool {
        matches!(self.action, Action::Decided(_))
    }

    /// Whether the memory that it was given is unchanged.
    pub(super) fn is_intact(&self) -> bool {
        match &self.action {
            Action::Send { outgoing: all, .. }
            | Action::SendMsg { outgoing: all, .. }
            | Action::Connect { address: all, .. } => all.is_intact(),
            _ => true,
        }
    }

    /// The simulated connection that it uses.
    pub(super) fn socket(&self) -> Option<usize> {
        match self.action {
            Action::Recv { socket, .. }
            | Action::Send { socket, .. }
            | Action::Room { socket, .. }
            | Action::Hangup { socket, .. } => Some(socket),
            _ => None,
        }
    }

    /// The real socket for messages that it uses.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        match self.action {
            Action::RecvMsg { fd, .. } | Action::SendMsg { fd, .. } => Some(fd),
            _ => None,
        }
    }

    /// Whether it sends on a connection, or waits there for room to send.
    pub(super) fn sends_on(&self, socket: usize) -> bool {
        let is_sender = matches!(self.action, Action::Send { .. } | Action::Room { .. });
        is_sender && self.socket() == Some(socket)
    }

    /// The number of its listener or connection, for the trace.
    pub(super) fn which(&self) -> usize {
        match self.action {
            Action::Accept { listener, .. } => listener,
            Action::Recv { socket, .. }
            | Action::Send { socket, .. }
            | Action::Room { socket, .. }
            | Action::Hangup { socket, .. } => socket,
            Action::Read { .. }
            | Action::Watch { .. }
            | Action::RecvMsg { .. }
            | Action::SendMsg { .. }
            | Action::Connect { .. }
            | Action::Decided(_) => usize::MAX,
        }
    }
}

/// Reads a readable, real eventfd into the operation's memory.
pub(super) fn read_counter(fd: RawFd, to: *mut u8) -> i32 {
    let mut counter = [0; 8];
    match rustix::io::read(borrow(fd), &mut counter) {
        Ok(len) => {
            // SAFETY: the operation keeps eight bytes until its final completion.
            unsafe { to.copy_from_nonoverlapping(counter.as_ptr(), len) };
            count(len)
        }
        Err(errno) => -errno.raw_os_error(),
    }
}

/// The parts of a gathering send (`msg_iov`).
pub(super) fn parts(header: *const libc::msghdr) -> Vec<(*const u8, usize)> {
    // SAFETY: the operation keeps the header until its final completion.
    let header = unsafe { &*header };
    // SAFETY: as above, for the vectors to which the header points.
    let vectors = unsafe { std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen) };
    let part = |vector: &libc::iovec| (vector.iov_base.cast_const().cast(), vector.iov_len);
    vectors.iter().map(part).collect()
}
