//! Limits of this process that the operator set, and that the program may stretch.

use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A worker keeps so many files open at most to send of them again and again.
pub const KEPT_FILES_MAX: usize = 64;

/// Where so few descriptors are left it keeps none: connections need them.
pub const SPARE_DESCRIPTORS: u64 = 1024;

/// Raises the soft limit of open files to the hard one, and returns what then holds.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let holds = if setrlimit(Resource::Nofile, raised).is_ok() {
        raised
    } else {
        limit
    };
    holds.current.unwrap_or(u64::MAX)
}

/// Whether a file may have so many bytes. Whoever writes beyond that is ended by a signal, also
/// where the file is in memory only (getrlimit(2), `RLIMIT_FSIZE`).
pub fn may_write(bytes: u64) -> bool {
    getrlimit(Resource::Fsize)
        .current
        .is_none_or(|max| bytes <= max)
}

/// Whether fewer than `spare` descriptors are free, of which `newest` is the one opened last: the
/// kernel gives out the lowest number that is free (open(2)).
pub fn is_short_of_descriptors(newest: impl AsFd, spare: u64) -> bool {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let newest = u64::from(newest.as_fd().as_raw_fd().unsigned_abs());
    newest.saturating_add(spare) >= limit
}
