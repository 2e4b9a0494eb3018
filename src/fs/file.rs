//! An open regular file: what is known of it, and reading from it.

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
use crate::sys::file::{is_cached, read_cached};

/// What is known of a file or folder, at the moment it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    kind: FileType,
    len: u64,
    modified: (i64, u32),
    device: u64,
    inode: u64,
}

impl Metadata {
    pub(super) fn new(stat: &Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            len: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }

    /// Its size in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a measure, not a container")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// When its content was last changed.
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

    /// The same as seconds since 1970 and nanoseconds of the second.
    pub fn modified_unix(&self) -> (i64, u32) {
        self.modified
    }

    /// The file system that holds it.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Its number on that file system.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// What no other file or folder has, as long as this one is open.
    pub(super) fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == FileType::RegularFile
    }

    /// Whether it is a folder.
    pub fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }
}

/// An open regular file, to be read. Cloning makes another handle to it; it is closed with the
/// last one.
#[derive(Clone)]
pub struct File {
    fd: Arc<OwnedFd>,
    metadata: Metadata,
}

/// The most bytes that are read at once of a file which says that it has none.
const UNSIZED_BYTES_MAX: usize = 64 << 10;

/// A read on another thread: what was there, with what was read behind it.
pub(crate) type Reading = Blocking<io::Result<Vec<u8>>>;

/// Another thread has the kernel load content.
pub(crate) type Loading = Blocking<io::Result<()>>;

/// Bytes that are loaded at a time.
const LOAD_BYTES: usize = 64 << 10;

impl File {
    pub(super) fn new(fd: OwnedFd, metadata: Metadata) -> Self {
        Self {
            fd: Arc::new(fd),
            metadata,
        }
    }

    /// What was known of it when it was opened.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// What is known of it now. For a file that is open this does not wait for a disk, unless its
    /// file system is another machine's.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn metadata_now(&self) -> io::Result<Metadata> {
        Ok(Metadata::new(&fstat(&self.fd)?))
    }

    /// Reads `len` bytes from `offset` on; fewer only where the file ends, as it is when this is
    /// called. What is in memory is had at once, the rest is read on another thread.
    ///
    /// # Errors
    /// Those of fstat(2) and pread(2).
    ///
    /// # Panics
    /// Outside a worker, if something has to be read from the disk.
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.read_vec(offset, len).await.map(Bytes::from)
    }

    /// As [`File::read_at`].
    pub(crate) async fn read_vec(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let len = match self.metadata_now()?.len() {
            // Files of the kernel's own, which are made as they are read, say so.
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

    /// Fills `bytes` with what is in memory of the content from `offset` on. True: that is all
    /// there is room for, or the rest of the file. False: the next byte has to be read from the
    /// disk, or may have to.
    ///
    /// # Errors
    /// Those of preadv2(2).
    pub(crate) fn read_cached(&self, bytes: &mut Vec<u8>, offset: u64) -> io::Result<bool> {
        while bytes.len() < bytes.capacity() {
            let at = offset + bytes.len() as u64;
            match read_cached(&self.fd, bytes, at) {
                // Linux 5.9 and 5.10 say so, too, where the file goes on (preadv2(2), BUGS).
                Ok(0) => return Ok(at >= self.metadata.len()),
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

    /// The `len` bytes from `offset` on, to be sent without reading them: if they are in memory, as
    /// far as a look at both ends can tell. They may still leave it before they are sent, which
    /// then waits for the disk; but what is read and used together mostly leaves together.
    pub(crate) fn span(&self, offset: u64, len: usize) -> Option<FileSpan> {
        let last = offset + (len as u64).checked_sub(1)?;
        let can_send = is_cached(&self.fd, offset) && is_cached(&self.fd, last);
        can_send.then(|| FileSpan::new(self.fd.clone(), offset, len))
    }

    /// Fills what is left of `bytes`, whose first byte is the file's at `offset`, on another
    /// thread; or as far as the file goes.
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
    /// Has the kernel load the `len` bytes from `offset` on into its memory, on another thread; or
    /// as far as the file goes.
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
