//! Accepting connections: one submission, a completion per connection (accept(2), Linux 5.19).
//!
//! The kernel's multishot takes whatever is in the backlog, whether the program asks for it or not,
//! so it is for a program that keeps up. A program that takes its time between two connections is
//! given one for each time it asks; the others stay in the backlog and cost no descriptor.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::After;
use crate::engine::descriptor::Descriptor;
use crate::engine::uring::{Cqe, Sqe};
use crate::rt::now_ms;
use crate::sys::mutants::mutate;

/// The accepts on one listener.
#[derive(Debug)]
pub(in crate::engine) struct Accept {
    listener: Descriptor,
    /// Accepted and not yet asked for; closed with the operation.
    ready: VecDeque<OwnedFd>,
    /// When a connection was last handed out, in ms.
    handed_out_ms: u64,
    /// Why the last shot was the last, until it is asked for.
    pub(in crate::engine) error: Option<io::Error>,
    /// The owner wants no more.
    pub(in crate::engine) stopped: bool,
}

impl Accept {
    /// Connections that may wait to be asked for before the multishot is cancelled. While the
    /// cancel is under way the kernel may accept a few more, which are kept.
    const QUEUE_MAX: usize = 64;

    pub(in crate::engine) fn new(listener: Descriptor) -> Self {
        Self {
            listener,
            ready: VecDeque::new(),
            handed_out_ms: 0,
            error: None,
            stopped: false,
        }
    }

    /// A multishot for a program that asks again in the turn in which it got a connection, else a
    /// single accept.
    pub(in crate::engine) fn sqe(&self) -> Sqe {
        let fd = self.listener.raw();
        if self.handed_out_ms == now_ms() {
            Sqe::AcceptMulti { fd }
        } else {
            Sqe::Accept { fd }
        }
    }

    /// The connection that was accepted first.
    pub(in crate::engine) fn pop(&mut self) -> Option<OwnedFd> {
        let fd = self.ready.pop_front()?;
        self.handed_out_ms = now_ms();
        Some(fd)
    }

    /// A connection, or the reason why there will be no more of this submission.
    pub(in crate::engine) fn complete(&mut self, cqe: &Cqe) -> After {
        if let Ok(fd) = cqe.result() {
            let fd = i32::try_from(fd).expect("a descriptor is an int");
            // SAFETY: the kernel has just installed this descriptor for us alone.
            self.ready.push_back(unsafe { OwnedFd::from_raw_fd(fd) });
            mutate!(LoseLateAccept, self.forget_if_stopped());
        } else if let Err(error) = cqe.result()
            && !error.raw_os_error().is_some_and(is_passing)
        {
            self.error = Some(error);
        }
        if self.ready.len() >= Self::QUEUE_MAX {
            After::WakeAndCancel
        } else {
            After::Wake
        }
    }
}

#[cfg(feature = "mutants")]
impl Accept {
    /// What must not happen to a connection that came late.
    fn forget_if_stopped(&mut self) {
        if self.stopped {
            self.ready.drain(..).for_each(std::mem::forget);
        }
    }
}

/// Accepts by readiness: a connection; none when none waits. The listener must not block.
///
/// # Errors
/// Those of accept(2) that are not about a single connection.
pub fn accept(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    loop {
        match accept_once(&listener) {
            Ok(fd) => return Ok(Some(fd)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) if mutate!(AbortedIsLast, false, is_passing(errno.raw_os_error())) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn accept_once(listener: impl AsFd) -> Result<OwnedFd, Errno> {
    #[cfg(feature = "sim")]
    if let Some(errno) = crate::sim::accept_error() {
        return Err(Errno::from_raw_os_error(errno));
    }
    rustix::net::accept_with(listener, SocketFlags::CLOEXEC)
}

/// Whether an error of accept(2) only ends the attempt, or concerns a single connection that was
/// gone before it could be accepted: the next attempt is not worse off.
fn is_passing(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECANCELED
            | libc::EINTR
            | libc::EAGAIN
            | libc::ECONNABORTED
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::EHOSTDOWN
            | libc::EOPNOTSUPP
    )
}
