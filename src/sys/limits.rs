//! Resource limits of this process.

use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard limit. Returns the soft limit that then applies.
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

/// Whether a file may have `bytes` bytes. A write beyond the limit raises SIGXFSZ, even if the file
/// is only in memory (getrlimit(2), `RLIMIT_FSIZE`).
pub fn is_file_size_allowed(bytes: u64) -> bool {
    getrlimit(Resource::Fsize)
        .current
        .is_none_or(|max| bytes <= max)
}

/// How many of `files_max` descriptors are reserved, so that the server can still accept a client
/// and tell it that no descriptors are left. Descriptors for sent files and for served connections
/// must not have one of the highest numbers.
pub fn reserved_descriptors(files_max: u64) -> u64 {
    (files_max / 4).min(64)
}

/// A descriptor's number. The kernel assigns the lowest free number (open(2)), so when a descriptor
/// is new, all lower numbers are in use.
pub fn number(descriptor: impl AsFd) -> u64 {
    u64::from(descriptor.as_fd().as_raw_fd().unsigned_abs())
}

/// Whether `newest`, which was opened just now, is one of the reserved descriptors.
pub fn is_reserved_descriptor(newest: impl AsFd) -> bool {
    let limit = open_files_max();
    number(newest) >= limit - reserved_descriptors(limit)
}

/// Whether fewer than `spare` descriptors are free. `newest` is the one that was opened last.
pub fn is_short_of_descriptors(newest: impl AsFd, spare: u64) -> bool {
    number(newest).saturating_add(spare) >= open_files_max()
}

fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
