//! Accepting connections: one submission, a completion per connection (accept(2), Linux 5.19).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::After;
use crate::engine::descriptor::Descriptor;
use crate::engine::uring::{Cqe, Sqe};

/// A multishot accept on one listener.
#[derive(Debug)]
pub(in crate::engine) struct Accept {
    listener: Descriptor,
    /// Accepted and not yet asked for; closed with the operation.
    pub(in crate::engine) ready: VecDeque<OwnedFd>,
    /// Why the last shot was the last, until it is asked for.
    pub(in crate::engine) error: Option<io::Error>,
    /// The owner wants no more.
    pub(in crate::engine) stopped: bool,
}

impl Accept {
    pub(in crate::engine) fn new(listener: Descriptor) -> Self {
        Self {
            listener,
            ready: VecDeque::new(),
            error: None,
            stopped: false,
        }
    }

    pub(in crate::engine) fn sqe(&self) -> Sqe {
        Sqe::AcceptMulti {
            fd: self.listener.raw(),
        }
    }

    /// A connection, or the reason why there will be no more of this submission. The errors of
    /// accept(2) that concern a single connection (it was gone before it could be accepted, or
    /// its network failed) only end the submission: the next one goes on.
    pub(in crate::engine) fn complete(&mut self, cqe: &Cqe) -> After {
        if let Ok(fd) = cqe.result() {
            let fd = i32::try_from(fd).expect("a descriptor is an int");
            // SAFETY: the kernel has just installed this descriptor for us alone.
            self.ready.push_back(unsafe { OwnedFd::from_raw_fd(fd) });
        } else if let Err(error) = cqe.result() {
            const TRANSIENT: [i32; 10] = [
                libc::ECANCELED,
                libc::EINTR,
                libc::EAGAIN,
                libc::ECONNABORTED,
                libc::EPROTO,
                libc::ENETDOWN,
                libc::ENETUNREACH,
                libc::EHOSTUNREACH,
                libc::EHOSTDOWN,
                libc::EOPNOTSUPP,
            ];
            if !error
                .raw_os_error()
                .is_some_and(|errno| TRANSIENT.contains(&errno))
            {
                self.error = Some(error);
            }
        }
        After::Wake
    }
}
