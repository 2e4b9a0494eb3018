//! A descriptor that glommio reads from.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use ::glommio::io::BufferedFile;

/// An eventfd as a file of glommio's. Call it on a thread that runs an executor of glommio's.
pub fn counter(eventfd: OwnedFd) -> BufferedFile {
    // SAFETY: the descriptor is open, and the file owns it from now on.
    unsafe { BufferedFile::from_raw_fd(eventfd.into_raw_fd()) }
}
