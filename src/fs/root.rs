//! A folder that nothing leads out of: whatever a name says, what is opened lies beneath it.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(not(feature = "sim"))]
use rustix::fs::openat2;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat, stat};
use rustix::io::Errno;

use super::file::{File, Metadata};
use crate::engine::blocking;
#[cfg(feature = "sim")]
use crate::engine::sim::openat2;
use crate::sys::limits::is_short_of_descriptors;

/// How often a name is looked up again while others rename what it leads through, which the kernel
/// cannot tell from a way out (openat2(2) on `EAGAIN`).
const TRIES_MAX: u32 = 64;

/// Descriptors that files leave to others: whoever comes while files have taken all they may must
/// still be accepted, to be told so.
const SPARE_DESCRIPTORS: u64 = 8;

/// A folder opened once. What is opened through it lies beneath it, however the name is written
/// and wherever links lead. Cloning makes another handle to it, for another worker say.
#[derive(Clone)]
pub struct Root(Arc<Inner>);

struct Inner {
    fd: OwnedFd,
    path: PathBuf,
    metadata: Metadata,
    /// Whether it was still in its place when somebody last looked.
    current: AtomicBool,
}

/// What a name leads to.
#[derive(Debug)]
pub enum Entry {
    /// A regular file, open.
    File(File),
    /// A folder.
    Directory,
    /// A device, a pipe or a socket, of which nothing is read.
    Other,
}

impl Root {
    /// Opens the folder at `path`. This may block: it is for a program's start.
    ///
    /// # Errors
    /// Those of open(2), `ENOTDIR` among them; `ENOSYS` where the kernel or a filter on system
    /// calls has no openat2(2).
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, &path, flags, Mode::empty())?;
        openat2(&fd, ".", flags, Mode::empty(), BENEATH)?;
        let metadata = Metadata::new(&fstat(&fd)?);
        let current = AtomicBool::new(true);
        Ok(Self(Arc::new(Inner {
            fd,
            path,
            metadata,
            current,
        })))
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Opens what `relative` names, to be read; an empty name is the root's own. Links are
    /// followed as long as they stay beneath the root: relative ones, that is. What the kernel
    /// remembers is found at once, the rest is looked up on another thread.
    ///
    /// # Errors
    /// `EXDEV` for a way out of the root, and those of openat2(2): `ENOENT`, `ENOTDIR`, `ELOOP` and
    /// `ENAMETOOLONG` where nothing is found, `EACCES` where it may not be read, `EMFILE` and
    /// `ENFILE` where descriptors are exhausted. `EINVAL` for a name with a zero byte.
    ///
    /// # Panics
    /// Outside a worker, if something has to be looked up on the disk.
    pub async fn open_file(&self, relative: impl AsRef<Path>) -> io::Result<Entry> {
        let mut relative = relative.as_ref();
        if relative.as_os_str().is_empty() {
            relative = Path::new(".");
        }
        match self.0.open_again(relative, ResolveFlags::CACHED) {
            // Not in memory, or the kernel cannot say (before Linux 5.12).
            Err(Errno::AGAIN | Errno::INVAL | Errno::OPNOTSUPP) => {}
            found => return Ok(found?),
        }
        let (root, relative) = (self.clone(), relative.to_owned());
        blocking(move || {
            let mut tries = 1;
            loop {
                match root.0.open_again(&relative, ResolveFlags::empty()) {
                    Err(Errno::AGAIN | Errno::INTR) if tries < TRIES_MAX => tries += 1,
                    found => return Ok(found?),
                }
            }
        })
        .await
    }

    /// Whether its path still leads to this very folder. Not so when it was replaced, moved or
    /// unmounted: what is served then is no longer what an operator sees.
    ///
    /// # Errors
    /// Those of stat(2), but for `ENOENT`.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn is_current(&self) -> io::Result<bool> {
        let root = self.clone();
        blocking(move || {
            let now = match stat(&root.0.path) {
                Err(Errno::NOENT) => return Ok(false),
                found => Metadata::new(&found?),
            };
            let then = &root.0.metadata;
            Ok((now.device(), now.inode()) == (then.device(), then.inode()))
        })
        .await
    }

    /// Notes what [`Root::is_current`] has found. True to one of those who share the root: the one
    /// who finds that it has changed.
    pub(crate) fn is_news(&self, is_current: bool) -> bool {
        self.0.current.swap(is_current, Ordering::Relaxed) != is_current
    }
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

impl Inner {
    /// As [`Inner::open_beneath`], up to three times where nothing is found: what a link led to may
    /// have been removed while it was followed, and the link lead elsewhere by now. So is a tree
    /// replaced whole, and nobody shall see a gap.
    fn open_again(&self, relative: &Path, resolve: ResolveFlags) -> Result<Entry, Errno> {
        let mut found = Err(Errno::NOENT);
        for _ in 0..3 {
            found = self.open_beneath(relative, resolve);
            if !matches!(found, Err(Errno::NOENT)) {
                break;
            }
        }
        found
    }

    /// Opens what `relative` names and looks at what that is. `EMFILE` before the last descriptors
    /// are taken. A pipe or a device that is not ready does not block this (`O_NONBLOCK`), nor
    /// become our terminal (`O_NOCTTY`).
    fn open_beneath(&self, relative: &Path, resolve: ResolveFlags) -> Result<Entry, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = openat2(&self.fd, relative, flags, Mode::empty(), BENEATH | resolve);
        let fd = match opened {
            // A socket, or a device without a driver.
            Err(Errno::NXIO | Errno::NODEV) => return Ok(Entry::Other),
            // What cannot be listed can be entered all the same.
            Err(Errno::ACCESS) if self.is_directory(relative, resolve) => {
                return Ok(Entry::Directory);
            }
            opened => opened?,
        };
        if is_short_of_descriptors(&fd, SPARE_DESCRIPTORS) {
            return Err(Errno::MFILE);
        }
        let metadata = Metadata::new(&fstat(&fd)?);
        Ok(if metadata.is_file() {
            Entry::File(File::new(fd, metadata))
        } else if metadata.is_directory() {
            Entry::Directory
        } else {
            Entry::Other
        })
    }

    /// Whether `relative` names a folder, whatever may be done with it.
    fn is_directory(&self, relative: &Path, resolve: ResolveFlags) -> bool {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(&self.fd, relative, flags, Mode::empty(), BENEATH | resolve).is_ok()
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Root").field(&self.0.path).finish()
    }
}
