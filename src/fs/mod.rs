//! Files for coroutines: opened, read and written without keeping the worker waiting.
//!
//! What is in memory is had at once; whatever may have to wait for a disk goes to the worker's few
//! threads. All of this needs a worker: call it from a service or another coroutine. Nothing here
//! knows HTTP.
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

mod file;
mod obstacle;
mod root;
mod shelf;

use std::io;
use std::path::PathBuf;

use crate::engine::blocking;
pub use file::{File, Metadata};
pub(crate) use file::{Loading, Reading};
pub(crate) use obstacle::Obstacle;
pub use root::{Entry, Root};
pub(crate) use shelf::{Kept, Shelf};

/// Reads a whole file.
///
/// # Errors
/// As [`std::fs::read`].
///
/// # Panics
/// Outside a worker.
pub async fn read(path: impl Into<PathBuf>) -> io::Result<Vec<u8>> {
    let path = path.into();
    blocking(move || std::fs::read(path)).await?
}

/// Writes a whole file: makes it if it is not there, and replaces what it held. If the future is
/// dropped meanwhile, the file may hold nothing, a part, or all of it.
///
/// # Errors
/// As [`std::fs::write`].
///
/// # Panics
/// Outside a worker.
pub async fn write(
    path: impl Into<PathBuf>,
    bytes: impl AsRef<[u8]> + Send + 'static,
) -> io::Result<()> {
    let path = path.into();
    blocking(move || std::fs::write(path, bytes)).await?
}

/// What is known of the file or folder at `path`; of a link, where it leads to.
///
/// # Errors
/// Those of stat(2).
///
/// # Panics
/// Outside a worker.
pub async fn metadata(path: impl Into<PathBuf>) -> io::Result<Metadata> {
    let path = path.into();
    let stat = blocking(move || rustix::fs::stat(path)).await??;
    Ok(Metadata::new(&stat))
}

#[cfg(test)]
mod tests;
