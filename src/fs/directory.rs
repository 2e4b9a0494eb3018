//! Directories: listing, creating and removing them, and the names in them. Every call runs on a
//! blocking thread.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use crate::engine::{Blocking, blocking};
use crate::sys::lock::lock;

/// The entries that one job of a blocking thread reads.
const BATCH: usize = 64;

/// Creates a directory. Its parent must exist. If the future is dropped, a call that has begun runs
/// to its end, as for all functions of this module.
///
/// # Errors
/// As [`std::fs::create_dir`].
///
/// # Panics
/// If called outside a worker.
pub async fn create_dir(path: impl Into<PathBuf>) -> io::Result<()> {
    let path = path.into();
    blocking(move || fs::create_dir(path)).await?
}

/// Creates a directory, and those above it that do not exist.
///
/// # Errors
/// As [`std::fs::create_dir_all`].
///
/// # Panics
/// If called outside a worker.
pub async fn create_dir_all(path: impl Into<PathBuf>) -> io::Result<()> {
    let path = path.into();
    blocking(move || fs::create_dir_all(path)).await?
}

/// Removes an empty directory.
///
/// # Errors
/// As [`std::fs::remove_dir`].
///
/// # Panics
/// If called outside a worker.
pub async fn remove_dir(path: impl Into<PathBuf>) -> io::Result<()> {
    let path = path.into();
    blocking(move || fs::remove_dir(path)).await?
}

/// Removes a directory with everything in it. Does not follow symlinks.
///
/// # Errors
/// As [`std::fs::remove_dir_all`].
///
/// # Panics
/// If called outside a worker.
pub async fn remove_dir_all(path: impl Into<PathBuf>) -> io::Result<()> {
    let path = path.into();
    blocking(move || fs::remove_dir_all(path)).await?
}

/// Removes a file, or a symlink but not its target.
///
/// # Errors
/// As [`std::fs::remove_file`].
///
/// # Panics
/// If called outside a worker.
pub async fn remove_file(path: impl Into<PathBuf>) -> io::Result<()> {
    let path = path.into();
    blocking(move || fs::remove_file(path)).await?
}

/// Gives a file or directory another name on the same file system. Replaces a file that has the new
/// name, in one step.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// # let directory = std::env::temp_dir().join(format!("coring-rename-{}", std::process::id()));
/// coring::run(async move {
///     coring::fs::create_dir_all(&directory).await?;
///     let (new, name) = (directory.join("new"), directory.join("settings"));
///     // A reader of `settings` sees the old content or the new one, and no mixture.
///     let file = coring::fs::File::create(&new).await?;
///     file.write_at(0, "value = 1\n").await?;
///     file.sync_all().await?;
///     coring::fs::rename(&new, &name).await?;
///     assert_eq!(coring::fs::read(&name).await?, b"value = 1\n");
///     coring::fs::remove_dir_all(&directory).await
/// })
/// # }
/// ```
///
/// # Errors
/// As [`std::fs::rename`].
///
/// # Panics
/// If called outside a worker.
pub async fn rename(from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> io::Result<()> {
    let (from, to) = (from.into(), to.into());
    blocking(move || fs::rename(from, to)).await?
}

/// Lists a directory. The order of the entries is that of the file system.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// coring::run(async {
///     let mut entries = coring::fs::read_dir("/proc/self").await?;
///     let mut names = Vec::new();
///     while let Some(entry) = entries.next_entry().await? {
///         names.push(entry.file_name().to_owned());
///     }
///     assert!(names.contains(&"status".into()));
///     Ok(())
/// })
/// # }
/// ```
///
/// # Errors
/// As [`std::fs::read_dir`].
///
/// # Panics
/// If called outside a worker.
pub async fn read_dir(path: impl Into<PathBuf>) -> io::Result<ReadDir> {
    let path = path.into();
    let opened = blocking(move || {
        let mut unread = fs::read_dir(path)?;
        io::Result::Ok((batch(&mut unread), unread))
    });
    let ((entries, has_more), unread) = opened.await??;
    Ok(ReadDir {
        entries,
        unread: has_more.then(|| Arc::new(Mutex::new(unread))),
        reading: None,
    })
}

/// The entries of a directory, read some at a time. Made by [`read_dir`].
pub struct ReadDir {
    entries: VecDeque<io::Result<DirEntry>>,
    /// The entries after these; `None` if there are none. Shared with the job of `reading`, so that
    /// they are not lost if it fails.
    unread: Option<Arc<Mutex<fs::ReadDir>>>,
    /// A blocking thread reads some.
    reading: Option<Blocking<Batch>>,
}

/// Some entries, and whether there may be others after them.
type Batch = (VecDeque<io::Result<DirEntry>>, bool);

/// A name in a directory.
#[derive(Debug, Clone)]
pub struct DirEntry {
    path: PathBuf,
    kind: fs::FileType,
}

impl ReadDir {
    /// The next entry; `None` after the last. If the future is dropped, no entry is lost.
    ///
    /// # Errors
    /// Those of reading this entry; the next call goes on behind it. Also fails if no thread can be
    /// started; the next call tries again.
    ///
    /// # Panics
    /// If called outside a worker.
    pub async fn next_entry(&mut self) -> io::Result<Option<DirEntry>> {
        poll_fn(|context| self.poll_next_entry(context)).await
    }

    fn poll_next_entry(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<DirEntry>>> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                return Poll::Ready(entry.map(Some));
            }
            let Some(unread) = &self.unread else {
                return Poll::Ready(Ok(None));
            };
            let reading = self.reading.get_or_insert_with(|| {
                let unread = unread.clone();
                blocking(move || batch(&mut lock(&unread)))
            });
            let read = ready!(Pin::new(reading).poll(context));
            self.reading = None;
            let (entries, has_more) = read?;
            self.entries = entries;
            if !has_more {
                self.unread = None;
            }
        }
    }
}

/// Reads some entries.
fn batch(unread: &mut fs::ReadDir) -> Batch {
    let read = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok(DirEntry {
            path: entry.path(),
            kind: entry.file_type()?,
        })
    };
    let entries: VecDeque<_> = unread.take(BATCH).map(read).collect();
    let has_more = entries.len() == BATCH;
    (entries, has_more)
}

impl DirEntry {
    /// The path of the directory, as it was given, with this name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name in the directory.
    pub fn file_name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Whether it is a regular file, and not a symlink to one.
    pub fn is_file(&self) -> bool {
        self.kind.is_file()
    }

    /// Whether it is a directory, and not a symlink to one.
    pub fn is_directory(&self) -> bool {
        self.kind.is_dir()
    }

    /// Whether it is a symlink.
    pub fn is_symlink(&self) -> bool {
        self.kind.is_symlink()
    }
}

impl fmt::Debug for ReadDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadDir").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::{TestDir, on_each_engine};

    #[test]
    fn a_failed_batch_is_not_the_end_of_a_directory() {
        on_each_engine(|| async {
            let test_dir = TestDir::new();
            for n in 0..=BATCH {
                test_dir.file(&format!("folder/{n}"), b"");
            }
            let mut entries = read_dir(test_dir.site("folder")).await.unwrap();
            let mut names = Vec::new();
            while names.len() < BATCH {
                names.push(entries.next_entry().await.unwrap().unwrap().path);
            }
            entries.reading = Some(blocking(|| panic!("as planned")));
            entries.next_entry().await.expect_err("no batch");
            while let Some(entry) = entries.next_entry().await.unwrap() {
                names.push(entry.path);
            }
            names.sort();
            names.dedup();
            assert_eq!(names.len(), BATCH + 1);
        });
    }
}
