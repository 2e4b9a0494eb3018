//! Closing a descriptor with the next batch of submissions instead of by a system call (close(2)).

use std::os::fd::{AsRawFd, OwnedFd};

use crate::engine::uring::Sqe;

/// The submission that closes `fd`. Once it is queued, the kernel owns the descriptor. An error of
/// close(2) on a socket still means that the descriptor is free, so no task waits for the
/// completion.
pub(in crate::engine) fn close(fd: &OwnedFd) -> Sqe {
    Sqe::Close { fd: fd.as_raw_fd() }
}
