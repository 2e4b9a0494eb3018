//! Accepting connections: one submission, and a completion per connection (accept(2),
//! `IORING_ACCEPT_MULTISHOT`, Linux 5.19).
//!
//! A multishot accept takes every connection in the backlog, whether the program asks for it or
//! not. So it is used only for a program that keeps up: one that asks for the next connection in
//! the turn in which it got the last one. For any other program each request submits an accept of
//! one connection; the other connections stay in the backlog and use no descriptor.

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
    /// Accepted connections that were not handed out; closed with the operation.
    ready: VecDeque<OwnedFd>,
    /// When a connection was last handed out, in ms (the time of the turn).
    handed_out_ms: u64,
    /// The error that ended the last submission, until it is handed out.
    pub(in crate::engine) error: Option<io::Error>,
    /// The owner has stopped accepting.
    pub(in crate::engine) stopped: bool,
}

impl Accept {
    /// The multishot is cancelled when this many connections wait to be handed out. Until the
    /// cancellation takes effect the kernel may accept a few more; they are kept.
    const ACCEPT_QUEUE_MAX: usize = 64;

    pub(in crate::engine) fn new(listener: Descriptor) -> Self {
        Self {
            listener,
            ready: VecDeque::new(),
            handed_out_ms: 0,
            error: None,
            stopped: false,
        }
    }

    /// A multishot if the program asks again in the turn in which it got a connection, else a
    /// single accept.
    pub(in crate::engine) fn sqe(&self) -> Sqe {
        let fd = self.listener.raw();
        if self.handed_out_ms == now_ms() {
            Sqe::AcceptMulti { fd }
        } else {
            Sqe::Accept { fd }
        }
    }

    /// Hands out the connection that was accepted first.
    pub(in crate::engine) fn pop(&mut self) -> Option<OwnedFd> {
        let fd = self.ready.pop_front()?;
        self.handed_out_ms = now_ms();
        Some(fd)
    }

    /// Handles a completion: an accepted connection, or an error that ends the submission.
    pub(in crate::engine) fn complete(&mut self, cqe: &Cqe) -> After {
        if let Ok(fd) = cqe.result() {
            let fd = i32::try_from(fd).expect("a descriptor fits an int");
            // SAFETY: the kernel has just created this descriptor, and no other code knows it.
            self.ready.push_back(unsafe { OwnedFd::from_raw_fd(fd) });
            mutate!(LoseLateAccept, self.leak_if_stopped());
        } else if let Err(error) = cqe.result()
            && !error.raw_os_error().is_some_and(is_transient)
        {
            self.error = Some(error);
        }
        if self.ready.len() >= Self::ACCEPT_QUEUE_MAX {
            After::WakeAndCancel
        } else {
            After::Wake
        }
    }
}

#[cfg(feature = "mutants")]
impl Accept {
    /// A planted fault: leaks connections that were accepted after the stop.
    fn leak_if_stopped(&mut self) {
        if self.stopped {
            self.ready.drain(..).for_each(std::mem::forget);
        }
    }
}

/// Accepts by a system call, without waiting; `None` if the backlog is empty. `listener` must be
/// non-blocking.
///
/// # Errors
/// Those of accept(2), except those that concern a single connection.
pub fn accept(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    loop {
        match accept_once(&listener) {
            Ok(fd) => return Ok(Some(fd)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) if mutate!(AbortedIsLast, false, is_transient(errno.raw_os_error())) => {}
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

/// Whether an error of accept(2) is transient: the attempt was interrupted, or one connection broke
/// before it was accepted. The next attempt may succeed.
fn is_transient(errno: i32) -> bool {
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
