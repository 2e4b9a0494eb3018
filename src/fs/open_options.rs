//! How a file is opened.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::fstat;

use super::file::{File, Metadata};
use crate::engine::blocking;

/// How a file is opened, as [`std::fs::OpenOptions`].
///
/// ```
/// use coring::fs::OpenOptions;
///
/// # fn main() -> std::io::Result<()> {
/// # let path = std::env::temp_dir().join(format!("coring-doc-{}", std::process::id()));
/// # let _removed = std::fs::remove_file(&path);
/// coring::run(async move {
///     let log = OpenOptions::new().append(true).create(true).open(&path).await?;
///     log.append("one line\n").await?;
///     log.sync_data().await?;
///     assert_eq!(coring::fs::read(&path).await?, b"one line\n");
/// #   coring::fs::remove_file(&path).await?;
///     Ok(())
/// })
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct OpenOptions(std::fs::OpenOptions);

impl OpenOptions {
    /// Nothing is set: at least one of `read`, `write` and `append` must be.
    pub fn new() -> Self {
        Self(std::fs::OpenOptions::new())
    }

    /// Whether the file can be read.
    pub fn read(&mut self, read: bool) -> &mut Self {
        self.0.read(read);
        self
    }

    /// Whether the file can be written to. An existing file keeps its content.
    pub fn write(&mut self, write: bool) -> &mut Self {
        self.0.write(write);
        self
    }

    /// Whether every write goes to the end of the file, [`File::write_at`] too.
    pub fn append(&mut self, append: bool) -> &mut Self {
        self.0.append(append);
        self
    }

    /// Whether the content of an existing file is removed.
    pub fn truncate(&mut self, truncate: bool) -> &mut Self {
        self.0.truncate(truncate);
        self
    }

    /// Whether the file is created if it does not exist.
    pub fn create(&mut self, create: bool) -> &mut Self {
        self.0.create(create);
        self
    }

    /// Whether the file is created, and must not exist yet.
    pub fn create_new(&mut self, create_new: bool) -> &mut Self {
        self.0.create_new(create_new);
        self
    }

    /// The permissions of a new file, from which the process's umask takes some. Default: `0o666`.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.0.mode(mode);
        self
    }

    /// Opens the file, on a blocking thread. If the future is dropped, the file may still be
    /// created or truncated, and is closed again.
    ///
    /// # Errors
    /// As [`std::fs::OpenOptions::open`]. `InvalidInput` if it is no regular file.
    ///
    /// # Panics
    /// If called outside a worker.
    pub async fn open(&self, path: impl Into<PathBuf>) -> io::Result<File> {
        let (mut options, path) = (self.0.clone(), path.into());
        blocking(move || {
            // A pipe without a peer must not block the thread, and a terminal must not become the
            // process's controlling terminal.
            options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
            let fd = OwnedFd::from(options.open(path)?);
            let metadata = Metadata::new(&fstat(&fd)?);
            if !metadata.is_file() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "not a regular file",
                ));
            }
            Ok(File::new(fd, metadata))
        })
        .await?
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}
