//! A folder that nothing leads out of: whatever a name says, what is opened lies beneath it.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{self, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(not(feature = "sim"))]
use rustix::fs::openat2;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat, stat};
use rustix::io::Errno;

use super::file::{File, Metadata};
use crate::engine::blocking;
#[cfg(feature = "sim")]
use crate::sim::openat2;
use crate::sys::limits::is_spare_descriptor;

/// How often a name is looked up again while others rename what it leads through, which the kernel
/// cannot tell from a way out (openat2(2) on `EAGAIN`).
const TRIES_MAX: u32 = 64;

/// An open folder. Every file that is opened through it lies beneath it, however the name is
/// written and wherever links lead. It stays the same folder when its path leads to another one;
/// [`Root::replacement`] finds that other one. Cloning makes another handle to it, for another
/// worker say.
#[derive(Clone)]
pub struct Root(Arc<Inner>);

struct Inner {
    fd: OwnedFd,
    path: PathBuf,
    /// The folder's identity: no other folder has it as long as this one is open.
    metadata: Metadata,
    /// What the path was last found to lead to. It is shared with the folders that it led to
    /// before.
    found: Arc<Mutex<Found>>,
}

/// A folder's identity, or the error of open(2).
type Found = Result<(u64, u64), i32>;

/// What a name leads to.
#[derive(Debug)]
#[non_exhaustive]
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
    /// A relative `path` is made absolute, so that the folder can be found again if the working
    /// directory is replaced. Where the absolute path does not lead to the folder (a parent of the
    /// working directory may forbid it), `path` stays relative.
    ///
    /// # Errors
    /// Those of open(2), `ENOTDIR` among them; `ENOSYS` where the kernel or a filter on system
    /// calls has no openat2(2).
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let mut path = path.into();
        let fd = openat(CWD, &path, FOLDER, Mode::empty())?;
        openat2(&fd, ".", FOLDER, Mode::empty(), BENEATH)?;
        let metadata = Metadata::new(&fstat(&fd)?);
        if let Ok(absolute) = path::absolute(&path)
            && stat(&absolute)
                .is_ok_and(|found| Metadata::new(&found).identity() == metadata.identity())
        {
            path = absolute;
        }
        let found = Arc::new(Mutex::new(Ok(metadata.identity())));
        Ok(Self(Arc::new(Inner {
            fd,
            path,
            metadata,
            found,
        })))
    }

    /// The path by which it was opened, in its absolute form, and by which
    /// [`Root::replacement`] looks for it.
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
                    found => return found,
                }
            }
        })
        .await?
        .map_err(io::Error::from)
    }

    /// Follows the path again: the folder that it leads to now, open, if that is another one.
    /// This is so when the folder was removed and made again, moved, mounted over or unmounted, or
    /// when the path leads through a link that was switched. A path that the kernel remembers is
    /// followed at once; otherwise it is looked up on another thread.
    ///
    /// # Errors
    /// Those of open(2): `ENOENT` or `ENOTDIR` where no folder is at the path any more, `EACCES`
    /// where it may not be followed.
    ///
    /// # Panics
    /// Outside a worker, if the path has to be looked up on the disk.
    pub async fn replacement(&self) -> io::Result<Option<Self>> {
        match self.0.follow_path(ResolveFlags::CACHED) {
            // Not in memory, or the kernel cannot say (before Linux 5.12).
            Err(Errno::AGAIN | Errno::INVAL | Errno::OPNOTSUPP) => {}
            found => return Ok(found?),
        }
        let root = self.clone();
        Ok(blocking(move || root.0.follow_path(ResolveFlags::empty())).await??)
    }

    /// Whether both are the same folder.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.metadata.identity() == other.0.metadata.identity()
    }

    /// Notes that the path was found to lead to this folder, or to the error `obstacle`. True to
    /// the first of those who share the root that finds this.
    pub(crate) fn is_news(&self, obstacle: Option<i32>) -> bool {
        let now = match obstacle {
            Some(errno) => Err(errno),
            None => Ok(self.0.metadata.identity()),
        };
        let mut found = self.0.found.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *found, now) != now
    }
}

/// How a folder is opened that is only to be known, and to be the start of other paths.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

impl Inner {
    /// The folder at the path, if that is another one. The path is the operator's own: it may lead
    /// anywhere.
    fn follow_path(&self, resolve: ResolveFlags) -> Result<Option<Root>, Errno> {
        let fd = openat2(CWD, &self.path, FOLDER, Mode::empty(), resolve)?;
        let metadata = Metadata::new(&fstat(&fd)?);
        if metadata.identity() == self.metadata.identity() {
            return Ok(None);
        }
        Ok(Some(Root(Arc::new(Self {
            fd,
            path: self.path.clone(),
            metadata,
            found: self.found.clone(),
        }))))
    }

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
        // A client that comes while files have all other descriptors must still be told so.
        if is_spare_descriptor(&fd) {
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
        openat2(&self.fd, relative, FOLDER, Mode::empty(), BENEATH | resolve).is_ok()
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Root").field(&self.0.path).finish()
    }
}
