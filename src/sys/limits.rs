//! Limits of this process that the operator set, and that the program may stretch.

use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

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

/// How many of `files_max` descriptors are kept back, so that a client can be told that the server
/// has none left: no file that is sent, and no connection that is served, gets one of the highest
/// numbers.
pub fn spare_descriptors(files_max: u64) -> u64 {
    (files_max / 4).min(64)
}

/// A descriptor's number. The kernel gives out the lowest number that is free (open(2)), so those
/// below are all in use when it is new.
pub fn number(descriptor: impl AsFd) -> u64 {
    u64::from(descriptor.as_fd().as_raw_fd().unsigned_abs())
}

/// Whether `newest`, which was opened just now, is one of the descriptors that are kept back.
pub fn is_spare_descriptor(newest: impl AsFd) -> bool {
    let limit = open_files_max();
    number(newest) >= limit - spare_descriptors(limit)
}

/// Whether fewer than `spare` descriptors are free, of which `newest` is the one opened last.
pub fn is_short_of_descriptors(newest: impl AsFd, spare: u64) -> bool {
    number(newest).saturating_add(spare) >= open_files_max()
}

fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
