//! Opening, reading and writing any file. Every call runs on a blocking thread.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::buffer::spare_capacity;
use rustix::fs::{fdatasync, fsync, ftruncate};
use rustix::io::{Errno, ReadWriteFlags, pread, pwrite, pwritev2};

use super::file::File;
use super::open_options::OpenOptions;
use crate::engine::blocking;

/// Bytes by which the buffer of [`File::read_to_end`] grows.
const READ_BYTES: usize = 64 << 10;

impl File {
    /// Opens a file to read from it. [`OpenOptions`] has all ways to open one.
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    ///
    /// # Panics
    /// If called outside a worker.
    pub async fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        OpenOptions::new().read(true).open(path).await
    }

    /// Opens a file to write to it. Creates it if it does not exist, and removes its content if it
    /// does.
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    ///
    /// # Panics
    /// If called outside a worker.
    pub async fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        options.open(path).await
    }

    /// Reads from `offset` to the end of the file, also from a file whose size is reported as 0. If
    /// the future is dropped, a read that has begun ends on its thread.
    ///
    /// # Errors
    /// Those of pread(2).
    ///
    /// # Panics
    /// If called outside a worker.
    pub async fn read_to_end(&self, offset: u64) -> io::Result<Vec<u8>> {
        let left = self.metadata_now()?.len().saturating_sub(offset);
        let len = usize::try_from(left).map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.with_fd(move |fd| {
            let mut bytes = Vec::new();
            // One more, so that a read finds the end without room for more.
            bytes.try_reserve_exact(len + 1)?;
            loop {
                if bytes.len() == bytes.capacity() {
                    bytes.try_reserve(READ_BYTES)?;
                }
                let at = offset + bytes.len() as u64;
                match pread(fd, spare_capacity(&mut bytes), at) {
                    Ok(0) => return Ok(bytes),
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        })
        .await
    }

    /// Writes all of `bytes` from `offset` on. If the file was opened to append, they are written
    /// at its end. If the future is dropped, a write that has begun runs to its end; one that has
    /// not begun never runs.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let path = std::env::temp_dir().join(format!("coring-write-{}", std::process::id()));
    /// coring::run(async move {
    ///     let file = coring::fs::File::create(&path).await?;
    ///     file.write_at(6, "world").await?;
    ///     file.write_at(0, "hello ").await?;
    ///     assert_eq!(coring::fs::read_to_string(&path).await?, "hello world");
    ///     coring::fs::remove_file(&path).await
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of pwrite(2). A part may have been written then.
    ///
    /// # Panics
    /// If called outside a worker.
    pub async fn write_at(
        &self,
        offset: u64,
        bytes: impl AsRef<[u8]> + Send + 'static,
    ) -> io::Result<()> {
        self.with_fd(move |fd| {
            let mut at = offset;
            write_all(bytes.as_ref(), |left| {
                let written = pwrite(fd, left, at)?;
                at += written as u64;
                Ok(written)
            })
        })
        .await
    }

    /// Writes all of `bytes` at the end of the file. Bytes that are appended at the same time, by
    /// this program or another one, come before or after them, unless the disk is full. If the
    /// future is dropped, a write that has begun runs to its end; one that has not begun never
    /// runs.
    ///
    /// # Errors
    /// Those of pwritev2(2). A part may have been written then.
    ///
    /// # Panics
    /// If called outside a worker.
    pub async fn append(&self, bytes: impl AsRef<[u8]> + Send + 'static) -> io::Result<()> {
        self.with_fd(move |fd| {
            write_all(bytes.as_ref(), |left| {
                let parts = [io::IoSlice::new(left)];
                pwritev2(fd, &parts, 0, ReadWriteFlags::APPEND)
            })
        })
        .await
    }

    /// Waits until content and metadata are on the disk (fsync(2)). A dropped future stops nothing
    /// that has begun.
    ///
    /// # Errors
    /// Those of fsync(2): content that was written before may be lost.
    ///
    /// # Panics
    /// If called outside a worker.
    pub async fn sync_all(&self) -> io::Result<()> {
        self.with_fd(|fd| Ok(fsync(fd)?)).await
    }

    /// As [`File::sync_all`], without metadata that reading the content does not need, such as the
    /// time of modification (fdatasync(2)).
    ///
    /// # Errors
    /// Those of fdatasync(2).
    ///
    /// # Panics
    /// If called outside a worker.
    pub async fn sync_data(&self) -> io::Result<()> {
        self.with_fd(|fd| Ok(fdatasync(fd)?)).await
    }

    /// Cuts the file, or extends it with zeros, to `len` bytes (ftruncate(2)).
    ///
    /// # Errors
    /// Those of ftruncate(2).
    ///
    /// # Panics
    /// If called outside a worker.
    pub async fn set_len(&self, len: u64) -> io::Result<()> {
        self.with_fd(move |fd| Ok(ftruncate(fd, len)?)).await
    }

    /// Calls `body` on a blocking thread, which keeps the descriptor open meanwhile.
    async fn with_fd<T: Send + 'static>(
        &self,
        body: impl FnOnce(&OwnedFd) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let fd = self.shared_fd();
        blocking(move || body(&fd)).await?
    }
}

/// Calls `write` with what is left of `bytes` until all are written.
fn write_all(
    mut bytes: &[u8],
    mut write: impl FnMut(&[u8]) -> Result<usize, Errno>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
