//! Operations in the kernel's hands, with what they may still read and write.

use std::os::fd::{OwnedFd, RawFd};

use super::kernel::count;
use super::network::borrow;

/// What is under way on one ring.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) user_data: u64,
    pub(super) action: Action,
    /// It does not complete before, in ms.
    pub(super) after_ms: u64,
    /// It is ended then, in ms.
    pub(super) cancel_ms: Option<u64>,
}

#[derive(Debug)]
pub(super) enum Action {
    Accept {
        fd: RawFd,
        listener: usize,
        /// It is a multishot.
        goes_on: bool,
    },
    Recv {
        socket: usize,
        /// It is a multishot.
        goes_on: bool,
    },
    Send {
        socket: usize,
        outgoing: Outgoing,
    },
    /// Of the client's end; reports each change once.
    Hangup {
        socket: usize,
        /// The events that were reported.
        reported: u32,
    },
    /// Of a real descriptor, such as an eventfd, which alone is in this epoll instance.
    Watch {
        epoll: OwnedFd,
    },
    /// Of a message, from a real socket.
    RecvMsg {
        fd: RawFd,
        header: *mut libc::msghdr,
    },
    /// Of a message, on a real socket.
    SendMsg {
        fd: RawFd,
        header: *const libc::msghdr,
        outgoing: Outgoing,
    },
    /// Of room to send.
    Room {
        socket: usize,
        /// It is a multishot, which reports each change once.
        edges: bool,
        /// The number of changes when it last reported.
        reported: Option<u64>,
    },
    /// Of an eventfd, which is a real one.
    Read {
        fd: RawFd,
        to: *mut u8,
    },
    /// To a peer that is not of this machine, and not to be had.
    Connect {
        errno: i32,
        address: Outgoing,
    },
    /// What is decided already and was not yet told.
    Answer(i32),
}

/// What a send was given.
#[derive(Debug)]
pub(super) struct Outgoing {
    parts: Vec<(*const u8, usize)>,
    /// The bytes as they were then.
    pub(super) copy: Vec<u8>,
}

impl Outgoing {
    pub(super) fn new(parts: Vec<(*const u8, usize)>) -> Self {
        let mut copy = Vec::new();
        for part in &parts {
            copy.extend_from_slice(memory(part));
        }
        Self { parts, copy }
    }

    /// Whether the bytes are what they were.
    fn is_intact(&self) -> bool {
        let mut rest = &self.copy[..];
        self.parts.iter().all(|part| {
            let (copy, behind) = rest.split_at(part.1);
            rest = behind;
            memory(part) == copy
        })
    }
}

/// The memory of a part of a send.
fn memory(&(start, len): &(*const u8, usize)) -> &[u8] {
    // SAFETY: the operation keeps its memory until its final completion.
    unsafe { std::slice::from_raw_parts(start, len) }
}

impl Flight {
    pub(super) fn is_decided(&self) -> bool {
        matches!(self.action, Action::Answer(_))
    }

    /// Whether the memory it was given is what it was.
    pub(super) fn is_intact(&self) -> bool {
        match &self.action {
            Action::Send { outgoing: all, .. }
            | Action::SendMsg { outgoing: all, .. }
            | Action::Connect { address: all, .. } => all.is_intact(),
            _ => true,
        }
    }

    /// The connection whose descriptor it uses.
    pub(super) fn socket(&self) -> Option<usize> {
        match self.action {
            Action::Recv { socket, .. }
            | Action::Send { socket, .. }
            | Action::Room { socket, .. }
            | Action::Hangup { socket, .. } => Some(socket),
            _ => None,
        }
    }

    /// The real descriptor that it uses.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        match self.action {
            Action::RecvMsg { fd, .. } | Action::SendMsg { fd, .. } => Some(fd),
            _ => None,
        }
    }

    pub(super) fn sends_on(&self, socket: usize) -> bool {
        let is_sender = matches!(self.action, Action::Send { .. } | Action::Room { .. });
        is_sender && self.socket() == Some(socket)
    }

    /// What it concerns, for the trace.
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
            | Action::Answer(_) => usize::MAX,
        }
    }
}

/// Reads a real eventfd, which is readable, to where the operation wants it.
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

/// The vectors of a gathering send.
pub(super) fn parts(header: *const libc::msghdr) -> Vec<(*const u8, usize)> {
    // SAFETY: the operation keeps the header until its final completion.
    let header = unsafe { &*header };
    // SAFETY: as above, for the vectors that the header names.
    let vectors = unsafe { std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen) };
    let part = |vector: &libc::iovec| (vector.iov_base.cast_const().cast(), vector.iov_len);
    vectors.iter().map(part).collect()
}
