//! Why a file cannot be had, as far as it matters to who asks for it. It refuses to know what they
//! are told.

use std::io;

use rustix::io::Errno;

/// What stands between a name and its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The name leads nowhere, or out of the root.
    NotFound,
    /// It may not be read.
    Forbidden,
    /// Descriptors, memory or threads have run out; it may be had later.
    Exhausted,
    /// The disk, or the file system on it, fails.
    Broken,
}

impl Obstacle {
    /// What `error` of [`Root::open_file`] or [`File::read_at`] means.
    ///
    /// [`Root::open_file`]: super::Root::open_file
    /// [`File::read_at`]: super::File::read_at
    pub(crate) fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::LOOP
                | Errno::NAMETOOLONG
                | Errno::XDEV
                | Errno::INVAL,
            ) => Self::NotFound,
            Some(Errno::ACCESS | Errno::PERM) => Self::Forbidden,
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN) => Self::Exhausted,
            _ => Self::Broken,
        }
    }
}
