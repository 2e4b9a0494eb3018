//! The directory that is served. Its path may lead to another directory while the server runs, for
//! example if a build deletes and recreates it, or if a symlink to the current release is switched.
//! This module does not know what the directory contains.
//!
//! As with an entry of the cache, the open directory is trusted for [`TRUST_MS`]. After that, the
//! first request that opens a file resolves the path again; other requests meanwhile use the known
//! directory for another [`TRUST_MS`]. So no file is opened in a directory that the path left more
//! than a second ago, and requests that are answered from the cache do not resolve the path.
//!
//! A failure is not trusted: while the path leads to no directory, every request resolves it again.
//! So if there is a gap between two directories (some versions of `ln -sfn` delete the old link
//! before they make the new one), clients see it no longer than it lasts on disk.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::cache::TRUST_MS;
use crate::fs::{Entry, OpenError, Root};
use crate::messages::report;
use crate::rt::now_ms;

/// The served directory, as one worker knows it.
pub(super) struct ServedDirectory {
    root: RefCell<Root>,
    /// The errno of open(2), if the path last led to no directory.
    open_errno: Cell<Option<i32>>,
    /// When the path was last resolved, in ms.
    checked_ms: Cell<u64>,
    /// When a request must resolve it again, in ms.
    due_ms: Cell<u64>,
}

impl ServedDirectory {
    /// Starts with the directory that is open as `root`. The first request resolves its path.
    pub(super) fn new(root: Root) -> Self {
        Self {
            root: RefCell::new(root),
            open_errno: Cell::new(None),
            checked_ms: Cell::new(0),
            due_ms: Cell::new(0),
        }
    }

    /// When the path was last resolved, in ms. At that time, the files that are opened now were
    /// beneath it.
    pub(super) fn checked_ms(&self) -> u64 {
        self.checked_ms.get()
    }

    /// Resolves the path again if that is due, or if it last led to no directory. True if the path
    /// now leads elsewhere; the caller must then drop everything it has cached.
    pub(super) async fn refresh(&self) -> bool {
        let checked_ms = now_ms();
        if checked_ms < self.due_ms.get() && self.open_errno.get().is_none() {
            return false;
        }
        self.due_ms.set(self.checked_ms.get() + 2 * TRUST_MS);
        let known = self.root.borrow().clone();
        let found = known.replacement().await;
        self.record(found.map(|other| other.unwrap_or(known)), checked_ms)
    }

    /// Opens the file called `name`.
    ///
    /// # Errors
    /// Those of [`Root::open_file`]. If the path led to no directory, the error of resolving it.
    pub(super) async fn open_file(&self, name: &[u8]) -> io::Result<Entry> {
        self.root()?.open_file(OsStr::from_bytes(name)).await
    }

    /// The open directory, or the error of resolving its path.
    pub(super) fn root(&self) -> io::Result<Root> {
        match self.open_errno.get() {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(self.root.borrow().clone()),
        }
    }

    /// Records where the path led at `checked_ms`. True if that differs from what was known.
    fn record(&self, found: io::Result<Root>, checked_ms: u64) -> bool {
        if checked_ms < self.checked_ms.get() {
            // A lookup that began later has already finished.
            return false;
        }
        self.checked_ms.set(checked_ms);
        self.due_ms.set(checked_ms + TRUST_MS);
        match found {
            Ok(root) => {
                let was_gone = self.open_errno.take().is_some();
                let is_other = !root.is_same(&self.root.borrow());
                if is_other {
                    self.root.replace(root);
                }
                if was_gone || is_other {
                    self.report_change(match is_other {
                        true => "leads to another directory now, whose files are served",
                        false => "is back: its files are served again",
                    });
                }
                was_gone || is_other
            }
            Err(error) => match OpenError::of(&error) {
                OpenError::NotFound | OpenError::Forbidden => {
                    let errno = error.raw_os_error();
                    let is_new = self.open_errno.replace(errno) != errno;
                    if is_new {
                        self.report_change(&format!(
                            "cannot be opened: {error}; no file is served until it can be opened"
                        ));
                    }
                    is_new
                }
                // These errors do not tell where the path leads.
                OpenError::Exhausted | OpenError::Broken => false,
            },
        }
    }

    /// Reports a change of the directory to the operator, unless another worker already has.
    fn report_change(&self, what: &str) {
        let root = self.root.borrow();
        if root.record_target(self.open_errno.get()) {
            report(format_args!("{} {what}", root.path().display()));
        }
    }
}

impl fmt::Debug for ServedDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.borrow().fmt(f)
    }
}
