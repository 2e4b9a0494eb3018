//! A directory beneath which files are opened. No name and no symlink leads out of it.

use std::ffi::{CStr, OsStr};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{self, Path, PathBuf};
use std::sync::{Arc, Mutex};

#[cfg(not(feature = "sim"))]
use rustix::fs::openat2;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, fstat, openat, stat, statat};
use rustix::io::Errno;

use super::file::{File, Metadata};
use crate::engine::blocking;
#[cfg(feature = "sim")]
use crate::sim::openat2;
use crate::sys::limits::is_reserved_descriptor;
use crate::sys::lock::lock;

/// How often a name is resolved at most, if openat2(2) fails with `EAGAIN`: another process renamed
/// a directory meanwhile, so the kernel cannot be sure that a `..` stayed beneath the root.
const TRIES_MAX: u32 = 64;

/// An open directory. Every file that is opened through it lies beneath it, whatever `..` and
/// symlinks a name contains (openat2(2), `RESOLVE_BENEATH`).
///
/// A `Root` keeps referring to the same directory if its path later leads to another one;
/// [`Root::replacement`] opens that one. A clone shares the open directory, for example with
/// another worker.
///
/// ```no_run
/// use coring::fs::{Entry, Root};
///
/// # async fn read_page() -> std::io::Result<()> {
/// let root = Root::open("site")?;
/// if let Entry::File(file) = root.open_file("page.html").await? {
///     let start = file.read_at(0, 1024).await?;
///     println!("{} of {} bytes", start.len(), file.metadata().len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Root(Arc<RootDir>);

struct RootDir {
    fd: OwnedFd,
    path: PathBuf,
    /// The directory's metadata. Device and inode number identify it as long as it is open.
    metadata: Metadata,
    /// Where the path was last found to lead. Clones and replacements share this, on all workers.
    path_target: Arc<Mutex<PathTarget>>,
}

/// A directory's device and inode number, or the errno of opening it.
type PathTarget = Result<(u64, u64), i32>;

/// A file or directory that a name in a listed directory leads to.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: Vec<u8>,
    pub(crate) metadata: Metadata,
}

/// The content of a directory, in no particular order.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) entries: Vec<Listed>,
    /// The directory has more entries, which were not looked at.
    pub(crate) is_cut: bool,
}

/// The kind of file that a name leads to.
#[derive(Debug)]
#[non_exhaustive]
pub enum Entry {
    /// A regular file, open.
    File(File),
    /// A directory.
    Directory,
    /// A device, a pipe or a socket. It is not read.
    Other,
}

impl Root {
    /// Opens the directory at `path`. This may block, so call it when the program starts.
    ///
    /// A relative `path` is made absolute, so that the directory can be found again if the working
    /// directory is replaced. If the absolute path does not lead to the same directory (a parent of
    /// the working directory may be inaccessible), `path` stays relative.
    ///
    /// # Errors
    /// Those of open(2), such as `ENOTDIR`. `ENOSYS` if the kernel or a seccomp filter does not
    /// allow openat2(2).
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let mut path = path.into();
        let fd = openat(CWD, &path, DIRECTORY_FLAGS, Mode::empty())?;
        // Without openat2(2) this fails now, and not with the first request.
        openat2(&fd, ".", DIRECTORY_FLAGS, Mode::empty(), BENEATH_FLAGS)?;
        let metadata = Metadata::new(&fstat(&fd)?);
        if let Ok(absolute) = path::absolute(&path)
            && stat(&absolute)
                .is_ok_and(|found| Metadata::new(&found).identity() == metadata.identity())
        {
            path = absolute;
        }
        let path_target = Arc::new(Mutex::new(Ok(metadata.identity())));
        Ok(Self(Arc::new(RootDir {
            fd,
            path,
            metadata,
            path_target,
        })))
    }

    /// The path at which the directory was opened, in its absolute form. [`Root::replacement`]
    /// resolves this path again.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Opens the file called `relative` for reading. An empty name is the root itself. Symlinks are
    /// followed if they are relative and stay beneath the root. If the kernel has the name in its
    /// cache, it is opened at once, otherwise on a blocking thread.
    ///
    /// # Errors
    /// `EXDEV` if the name leads out of the root. Those of openat2(2): `ENOENT`, `ENOTDIR`, `ELOOP`
    /// and `ENAMETOOLONG` if there is no such file, `EACCES` if the process may not read it,
    /// `EMFILE` and `ENFILE` if descriptors are exhausted. `EINVAL` if the name has a zero byte.
    ///
    /// # Panics
    /// If called outside a worker and the name is not in the kernel's cache.
    pub async fn open_file(&self, relative: impl AsRef<Path>) -> io::Result<Entry> {
        let mut relative = relative.as_ref();
        if relative.as_os_str().is_empty() {
            relative = Path::new(".");
        }
        match self.0.open_with_retry(relative, ResolveFlags::CACHED) {
            // Not in the kernel's cache, or it lacks `RESOLVE_CACHED` (before Linux 5.12).
            Err(Errno::AGAIN | Errno::INVAL | Errno::OPNOTSUPP) => {}
            found => return Ok(found?),
        }
        let (root, relative) = (self.clone(), relative.to_owned());
        blocking(move || {
            let mut tries = 1;
            loop {
                match root.0.open_with_retry(&relative, ResolveFlags::empty()) {
                    Err(Errno::AGAIN | Errno::INTR) if tries < TRIES_MAX => tries += 1,
                    found => return found,
                }
            }
        })
        .await?
        .map_err(io::Error::from)
    }

    /// Lists the directory called `relative`: regular files and directories, also those that
    /// symlinks lead to, whose names do not begin with a dot. At most `entries_max` entries of any
    /// kind are looked at. An empty name is the root itself. Returns what `read` makes of the
    /// listing, on the same thread: a worker would be busy with a long one for milliseconds.
    ///
    /// # Errors
    /// As [`Root::open_file`].
    ///
    /// # Panics
    /// If called outside a worker.
    pub(crate) async fn list<T: Send + 'static>(
        &self,
        relative: impl AsRef<Path>,
        entries_max: usize,
        read: impl FnOnce(Listing) -> T + Send + 'static,
    ) -> io::Result<T> {
        let (root, relative) = (self.clone(), relative.as_ref().join("."));
        Ok(blocking(move || root.0.list(&relative, entries_max).map(read)).await??)
    }

    /// Resolves the path again. Returns the directory that it leads to, if that is another one than
    /// this: if the directory was deleted and recreated, moved, mounted over or unmounted, or if a
    /// symlink in the path was switched. If the kernel has the path in its cache, it is resolved at
    /// once, otherwise on a blocking thread.
    ///
    /// # Errors
    /// Those of open(2): `ENOENT` or `ENOTDIR` if there is no directory at the path any more,
    /// `EACCES` if the process may not resolve it.
    ///
    /// # Panics
    /// If called outside a worker and the path is not in the kernel's cache.
    pub async fn replacement(&self) -> io::Result<Option<Self>> {
        match self.0.resolve_path(ResolveFlags::CACHED) {
            // Not in the kernel's cache, or it lacks `RESOLVE_CACHED` (before Linux 5.12).
            Err(Errno::AGAIN | Errno::INVAL | Errno::OPNOTSUPP) => {}
            found => return Ok(found?),
        }
        let root = self.clone();
        Ok(blocking(move || root.0.resolve_path(ResolveFlags::empty())).await??)
    }

    /// Whether both are the same directory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.metadata.identity() == other.0.metadata.identity()
    }

    /// Records that the path was found to lead to this directory, or to the error `errno`. True
    /// if that differs from the previous record, which clones and replacements share. So only one
    /// worker reports a change.
    pub(crate) fn record_target(&self, errno: Option<i32>) -> bool {
        let now = match errno {
            Some(errno) => Err(errno),
            None => Ok(self.0.metadata.identity()),
        };
        let mut path_target = lock(&self.0.path_target);
        std::mem::replace(&mut *path_target, now) != now
    }
}

/// Flags to open a directory that is not read, only used to resolve names in it.
const DIRECTORY_FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Flags that make openat2(2) refuse names that lead out of the root, or through a magic link of
/// /proc.
const BENEATH_FLAGS: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

impl RootDir {
    /// Opens the directory at the path, if it is another one than this. The path may lead anywhere,
    /// because the operator chose it.
    fn resolve_path(&self, resolve: ResolveFlags) -> Result<Option<Root>, Errno> {
        let fd = openat2(CWD, &self.path, DIRECTORY_FLAGS, Mode::empty(), resolve)?;
        let metadata = Metadata::new(&fstat(&fd)?);
        if metadata.identity() == self.metadata.identity() {
            return Ok(None);
        }
        Ok(Some(Root(Arc::new(Self {
            fd,
            path: self.path.clone(),
            metadata,
            path_target: self.path_target.clone(),
        }))))
    }

    /// As [`RootDir::open_beneath`], but tries up to three times on `ENOENT`. A tree is often
    /// replaced by switching a symlink to a new one and deleting the old one. If that happens while
    /// the kernel follows the link, the next attempt finds the new tree.
    fn open_with_retry(&self, relative: &Path, resolve: ResolveFlags) -> Result<Entry, Errno> {
        let mut found = Err(Errno::NOENT);
        for _ in 0..3 {
            found = self.open_beneath(relative, resolve);
            if !matches!(found, Err(Errno::NOENT)) {
                break;
            }
        }
        found
    }

    /// Opens the file called `relative` and determines its kind. Fails with `EMFILE` while some
    /// descriptors are still free. Only a regular file is opened for reading: a pipe would lose its
    /// writer, and a device could do anything. `O_NONBLOCK` and `O_NOCTTY` are for a name that
    /// leads to one of these when it is resolved again.
    fn open_beneath(&self, relative: &Path, resolve: ResolveFlags) -> Result<Entry, Errno> {
        let open = |flags| {
            let resolve = BENEATH_FLAGS | resolve;
            openat2(
                &self.fd,
                relative,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            )
        };
        let seen = Metadata::new(&fstat(open(OFlags::PATH)?)?);
        if seen.is_directory() {
            return Ok(Entry::Directory);
        }
        if !seen.is_file() {
            return Ok(Entry::Other);
        }
        let fd = match open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            // A socket, or a device without a driver.
            Err(Errno::NXIO | Errno::NODEV) => return Ok(Entry::Other),
            opened => opened?,
        };
        // The last descriptors are reserved for connections, so that their clients can get 503.
        if is_reserved_descriptor(&fd) {
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

    /// Lists the directory called `relative`. Entries that cannot be reached are left out. Most
    /// need one system call; only a symlink must be resolved beneath the root.
    fn list(&self, relative: &Path, entries_max: usize) -> Result<Listing, Errno> {
        let open = |name: &Path, flags| {
            openat2(
                &self.fd,
                name,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                BENEATH_FLAGS,
            )
        };
        let directory = open(relative, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let look = |name: &CStr| {
            let seen = Metadata::new(&statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?);
            if !seen.is_symlink() {
                return Ok(seen);
            }
            let name = relative.join(OsStr::from_bytes(name.to_bytes()));
            Ok(Metadata::new(&fstat(open(&name, OFlags::PATH)?)?))
        };
        let mut entries = Vec::new();
        let mut looked_at = 0;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if looked_at == entries_max {
                return Ok(Listing {
                    entries,
                    is_cut: true,
                });
            }
            looked_at += 1;
            if name.to_bytes().starts_with(b".") {
                continue;
            }
            match look(name) {
                Ok(metadata) if metadata.is_file() || metadata.is_directory() => {
                    let name = name.to_bytes().to_vec();
                    entries.push(Listed { name, metadata });
                }
                Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => return Err(errno),
                _ => {}
            }
        }
        Ok(Listing {
            entries,
            is_cut: false,
        })
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Root").field(&self.0.path).finish()
    }
}
