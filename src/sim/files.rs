//! Files of a simulated machine, which are those of the real one.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use super::now_ms;

/// openat2(2). In a simulation it falls back to openat(2), because valgrind does not support
/// openat2(2). That is safe there: a simulation opens only files that its test has made.
pub(crate) fn openat2(
    directory: impl AsFd,
    path: impl Arg,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let (directory, path) = (directory.as_fd(), path.as_cow_c_str()?);
    match rustix::fs::openat2(directory, &*path, flags, mode, resolve) {
        Err(Errno::NOSYS) if now_ms().is_some() => {
            rustix::fs::openat(directory, &*path, flags, mode)
        }
        opened => opened,
    }
}
