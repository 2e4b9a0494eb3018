//! Files as a simulated machine has them: as on the real one, but sent from memory only, because
//! its kernel takes no spans of files.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use super::now_ms;
use crate::sys::file;

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

/// As [`file::is_cached`]; in a simulation nothing is.
pub(crate) fn is_cached(file: impl AsFd, offset: u64) -> bool {
    now_ms().is_none() && file::is_cached(file, offset)
}

/// As [`file::anonymous_file`]; in a simulation there is none.
pub(crate) fn anonymous_file(name: &str) -> io::Result<OwnedFd> {
    match now_ms() {
        Some(_) => Err(io::ErrorKind::Unsupported.into()),
        None => file::anonymous_file(name),
    }
}
