//! An open regular file: its metadata, and reading from it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Stat, fstat};
use rustix::io::Errno;

use crate::buf::FileSpan;
use crate::engine::{Blocking, blocking};
use crate::sys::file::{is_range_cached, read_cached};

/// The metadata of a file or directory, at the time of the call that returned it (stat(2)). Two of
/// one file are equal if the file was not changed in between: its ctime, which no program can set,
/// counts too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    kind: FileType,
    len: u64,
    modified: (i64, u32),
    changed: (i64, u32),
    device: u64,
    inode: u64,
}

impl Metadata {
    pub(super) fn new(stat: &Stat) -> Self {
        let nanoseconds = |nanoseconds| u32::try_from(nanoseconds).unwrap_or(0);
        Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            len: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }

    /// The size in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a measure, not a container")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// When the content was last modified (mtime).
    pub fn modified(&self) -> SystemTime {
        let (seconds, nanoseconds) = self.modified;
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let time = if seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(whole)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(whole)
        };
        let time = time.and_then(|time| time.checked_add(Duration::from_nanos(nanoseconds.into())));
        time.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// The mtime as seconds since the epoch, and the nanoseconds of that second.
    pub fn modified_unix(&self) -> (i64, u32) {
        self.modified
    }

    /// When it was last changed in any way (ctime), as [`Metadata::modified_unix`].
    pub(crate) fn changed_unix(&self) -> (i64, u32) {
        self.changed
    }

    /// The number of the device that holds it.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// The inode number on that device.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Device and inode number. No other file or directory has both as long as this one is open.
    pub(super) fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == FileType::RegularFile
    }

    /// Whether it is a symlink that was not followed.
    pub(super) fn is_symlink(&self) -> bool {
        self.kind == FileType::Symlink
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }
}

/// An open regular file. A clone shares the descriptor, which is closed when the last clone is
/// dropped.
///
/// It has no position: each read and write names its offset, or appends. So several coroutines can
/// use one file at the same time.
///
/// ```
/// use coring::fs::{self, File};
///
/// # let path = std::env::temp_dir().join(format!("coring-file-{}", std::process::id()));
/// coring::run(async move {
///     let file = File::create(&path).await?;
///     file.write_at(0, "hello, disk").await?;
///     file.write_at(7, "world").await?;
///     file.sync_all().await?;
///
///     let file = File::open(&path).await?;
///     assert_eq!(file.metadata().len(), 12);
///     assert_eq!(file.read_to_end(7).await?, b"world");
///     fs::remove_file(&path).await
/// })?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone)]
pub struct File {
    fd: Arc<OwnedFd>,
    metadata: Metadata,
}

/// The most bytes that one call reads from a file whose size is reported as 0.
const UNSIZED_BYTES_MAX: usize = 64 << 10;

/// A blocking task that reads. It returns the given buffer with the bytes appended.
pub(crate) type Reading = Blocking<io::Result<Vec<u8>>>;

/// A blocking task that makes the kernel load content into the page cache.
pub(crate) type Loading = Blocking<io::Result<()>>;

/// Bytes per read in [`File::load`].
const LOAD_BYTES: usize = 64 << 10;

impl File {
    pub(super) fn new(fd: OwnedFd, metadata: Metadata) -> Self {
        Self {
            fd: Arc::new(fd),
            metadata,
        }
    }

    /// The descriptor, which stays open until the last share of it is dropped.
    pub(super) fn shared_fd(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }

    /// The metadata when the file was opened.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The current metadata. This does not wait for a disk, because the file is open; on a network
    /// file system it may wait for the server.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn metadata_now(&self) -> io::Result<Metadata> {
        Ok(Metadata::new(&fstat(&self.fd)?))
    }

    /// Reads `len` bytes from `offset` on, or fewer if the file ends before. Bytes in the page
    /// cache are read at once; the rest is read on a blocking thread.
    ///
    /// From a file whose size is reported as 0, such as those in /proc, at most 64 KiB are read.
    ///
    /// # Errors
    /// Those of fstat(2) and pread(2).
    ///
    /// # Panics
    /// If called outside a worker and the bytes are not all in the page cache.
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.read_vec(offset, len).await.map(Bytes::from)
    }

    /// As [`File::read_at`], but returns a `Vec`.
    pub(crate) async fn read_vec(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let len = match self.metadata_now()?.len() {
            // Files that the kernel generates on reading, as in /proc, have a size of 0.
            0 => len.min(UNSIZED_BYTES_MAX),
            all => usize::try_from(all.saturating_sub(offset)).map_or(len, |left| len.min(left)),
        };
        let mut bytes = Vec::with_capacity(len);
        if !self.read_cached(&mut bytes, offset)? {
            bytes = self.read_rest(bytes, offset).await??;
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Appends to `bytes` from the page cache, up to its capacity; its first byte is the file's at
    /// `offset`. True: `bytes` is full or has the rest of the file. False: the next byte may have
    /// to come from the disk.
    ///
    /// # Errors
    /// Those of preadv2(2).
    pub(crate) fn read_cached(&self, bytes: &mut Vec<u8>, offset: u64) -> io::Result<bool> {
        self.fill(bytes, offset, |bytes, at| read_cached(&self.fd, bytes, at))
    }

    /// As [`File::read_cached`], with the call that reads.
    pub(super) fn fill(
        &self,
        bytes: &mut Vec<u8>,
        offset: u64,
        read: impl Fn(&mut Vec<u8>, u64) -> io::Result<usize>,
    ) -> io::Result<bool> {
        while bytes.len() < bytes.capacity() {
            let at = offset + bytes.len() as u64;
            match read(bytes, at) {
                // Linux 5.9 and 5.10 may return 0 before the end of the file (preadv2(2), BUGS).
                // The file may have grown since it was opened.
                Ok(0) => return Ok(at >= self.metadata_now()?.len()),
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EOPNOTSUPP) => return Ok(false),
                    Some(libc::EINTR) => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(true)
    }

    /// The `len` bytes from `offset` on, to be sent without reading them; `None` unless they are in
    /// the page cache. The kernel may evict them before they are sent. The send then waits for the
    /// disk.
    pub(crate) fn span(&self, offset: u64, len: usize) -> Option<FileSpan> {
        let can_send = len > 0 && is_range_cached(&self.fd, offset, len);
        can_send.then(|| FileSpan::new(self.fd.clone(), offset, len))
    }

    /// Appends to `bytes` on a blocking thread, until it is full or the file ends. The first byte
    /// of `bytes` is the file's at `offset`.
    pub(crate) fn read_rest(&self, mut bytes: Vec<u8>, offset: u64) -> Reading {
        let fd = self.fd.clone();
        blocking(move || {
            while bytes.len() < bytes.capacity() {
                let at = offset + bytes.len() as u64;
                match rustix::io::pread(&fd, spare_capacity(&mut bytes), at) {
                    Ok(0) => break,
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Ok(bytes)
        })
    }
}

impl File {
    /// Makes the kernel load the `len` bytes from `offset` on into the page cache, by reading them
    /// on a blocking thread. Stops where the file ends.
    pub(crate) fn load(&self, offset: u64, len: u64) -> Loading {
        let fd = self.fd.clone();
        blocking(move || {
            let mut scratch = Vec::with_capacity(LOAD_BYTES);
            let (mut at, end) = (offset, offset + len);
            while at < end {
                scratch.clear();
                match rustix::io::pread(&fd, spare_capacity(&mut scratch), at) {
                    Ok(0) => break,
                    Ok(read) => at += read as u64,
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Ok(())
        })
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}
