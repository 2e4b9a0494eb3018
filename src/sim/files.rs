//! Files as a simulated machine has them: those of the real one.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use super::now_ms;

/// openat2(2), or in a simulation without it openat(2): below valgrind there is none, and what is
/// opened there is a test's own.
pub(crate) fn openat2(
    folder: impl AsFd,
    path: impl Arg,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let (folder, path) = (folder.as_fd(), path.as_cow_c_str()?);
    match rustix::fs::openat2(folder, &*path, flags, mode, resolve) {
        Err(Errno::NOSYS) if now_ms().is_some() => rustix::fs::openat(folder, &*path, flags, mode),
        opened => opened,
    }
}
