//! The engine on io_uring, with one ring per worker.

mod buf_ring;
mod buffer_queue;
mod connections;
mod driver;
mod fetch;
mod messages;
mod peer;
mod polls;
mod receives;
mod ring;
mod setup;

pub(super) use driver::Uring;
#[cfg(feature = "sim")]
pub(crate) use ring::{KernelRing, ignore_transient};
pub(super) use setup::{Refusal, preflight};

#[cfg(feature = "sim")]
use crate::sim::Ring;
#[cfg(not(feature = "sim"))]
use ring::KernelRing as Ring;

use std::io;
use std::os::fd::RawFd;

use super::op::{Events, Then};

/// A request to the kernel, in plain values. Its pointers stay valid and their memory stays unmoved
/// until the final completion, because the operation that made the request owns them.
#[derive(Debug, Clone, Copy)]
pub enum Sqe {
    Accept {
        fd: RawFd,
    },
    AcceptMulti {
        fd: RawFd,
    },
    Recv {
        fd: RawFd,
    },
    RecvMulti {
        fd: RawFd,
    },
    Send {
        fd: RawFd,
        from: *const u8,
        len: u32,
        then: Then,
    },
    SendMsg {
        fd: RawFd,
        header: *const libc::msghdr,
        then: Then,
    },
    PollOut {
        fd: RawFd,
        /// True: completes at each change until it is cancelled. False: completes once.
        edges: bool,
    },
    /// Completes at each change until it is cancelled.
    Poll {
        fd: RawFd,
        events: Events,
    },
    RecvMsg {
        fd: RawFd,
        header: *mut libc::msghdr,
    },
    Read {
        fd: RawFd,
        to: *mut u8,
        len: u32,
    },
    Connect {
        fd: RawFd,
        address: *const libc::sockaddr,
        len: libc::socklen_t,
    },
    Close {
        fd: RawFd,
    },
    Cancel {
        target: u64,
    },
}

/// A completion: the kernel's response to a request.
#[derive(Debug, Clone, Copy)]
pub struct Cqe {
    pub user_data: u64,
    pub result: i32,
    pub flags: u32,
}

impl Cqe {
    /// A number of bytes, a descriptor or poll events, or the kernel's error.
    #[inline]
    pub fn result(&self) -> io::Result<u32> {
        u32::try_from(self.result).map_err(|_| io::Error::from_raw_os_error(-self.result))
    }

    /// Whether the same submission will complete again (`IORING_CQE_F_MORE`).
    #[inline]
    pub fn more(&self) -> bool {
        io_uring::cqueue::more(self.flags)
    }

    /// The provided buffer that the kernel used (`IORING_CQE_F_BUFFER`).
    #[inline]
    pub fn buffer(&self) -> Option<u16> {
        io_uring::cqueue::buffer_select(self.flags)
    }
}
