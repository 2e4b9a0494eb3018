//! Files and directories, without blocking the worker.
//!
//! Calls that may wait for a disk run on the worker's blocking threads. A [`File`] reads content
//! that is in the page cache without them. All of this needs a worker: call it from a service or
//! from another coroutine.
//!
//! The bytes of a write are given away, and a read returns its bytes, so a future that is dropped
//! leaves nothing behind that a thread still uses. A call that has begun on a blocking thread runs
//! to its end there; one that has not begun never runs.
//!
//! ```no_run
//! use coring::{Request, Response};
//!
//! async fn motd(_: Request) -> Response {
//!     match coring::fs::read("/etc/motd").await {
//!         Ok(text) => Response::text(text),
//!         Err(_) => Response::not_found("no message today"),
//!     }
//! }
//! ```

mod directory;
mod file;
mod memfd_cache;
mod open_error;
mod open_options;
mod root;
mod write;

use std::io;
use std::path::PathBuf;

use crate::engine::blocking;
pub use directory::{
    DirEntry, ReadDir, create_dir, create_dir_all, read_dir, remove_dir, remove_dir_all,
    remove_file, rename,
};
pub use file::{File, Metadata};
pub(crate) use file::{Loading, Reading};
pub(crate) use memfd_cache::{CachedSpan, MemfdCache};
pub(crate) use open_error::OpenError;
pub use open_options::OpenOptions;
pub use root::{Entry, Root};
pub(crate) use root::{Listed, Listing};

/// Reads a whole file.
///
/// # Errors
/// As [`std::fs::read`].
///
/// # Panics
/// If called outside a worker.
pub async fn read(path: impl Into<PathBuf>) -> io::Result<Vec<u8>> {
    let path = path.into();
    blocking(move || std::fs::read(path)).await?
}

/// Reads a whole file of text.
///
/// # Errors
/// As [`std::fs::read_to_string`].
///
/// # Panics
/// If called outside a worker.
pub async fn read_to_string(path: impl Into<PathBuf>) -> io::Result<String> {
    let path = path.into();
    blocking(move || std::fs::read_to_string(path)).await?
}

/// Writes a whole file. Creates the file if it does not exist, and replaces its content if it does.
/// If the future is dropped before it is ready, a write that has begun still runs to its end, and
/// one that has not begun never runs.
///
/// # Errors
/// As [`std::fs::write`].
///
/// # Panics
/// If called outside a worker.
pub async fn write(
    path: impl Into<PathBuf>,
    bytes: impl AsRef<[u8]> + Send + 'static,
) -> io::Result<()> {
    let path = path.into();
    blocking(move || std::fs::write(path, bytes)).await?
}

/// The metadata of the file or directory at `path`. Symlinks are followed.
///
/// # Errors
/// Those of stat(2).
///
/// # Panics
/// If called outside a worker.
pub async fn metadata(path: impl Into<PathBuf>) -> io::Result<Metadata> {
    let path = path.into();
    let stat = blocking(move || rustix::fs::stat(path)).await??;
    Ok(Metadata::new(&stat))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod write_tests;
