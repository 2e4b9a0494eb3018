//! Classifies the errors of opening and reading a file. The caller decides what to do with each
//! class, for example which HTTP status it becomes.

use std::io;

use rustix::io::Errno;

/// Why a file cannot be opened or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// The name leads to no file, or out of the root.
    NotFound,
    /// The process lacks the permission.
    Forbidden,
    /// The process or the system has run out of descriptors, memory or threads. A later attempt may
    /// succeed.
    Exhausted,
    /// Any other error, such as a failure of the disk.
    Broken,
}

impl OpenError {
    /// The class of an error of [`Root::open_file`] or [`File::read_at`].
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
