//! Closing a descriptor with the next batch instead of by a system call of its own (close(2)).

use std::os::fd::{AsRawFd, OwnedFd};

use crate::engine::uring::Sqe;

/// Lets the kernel close the descriptor, which is not ours any more once it has this. Errors of
/// close(2) on a socket mean that the descriptor is gone all the same, so nobody waits for the
/// completion.
pub(in crate::engine) fn close(fd: &OwnedFd) -> Sqe {
    Sqe::Close { fd: fd.as_raw_fd() }
}
