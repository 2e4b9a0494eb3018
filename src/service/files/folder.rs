//! The folder that is served: the one that its path leads to, which may become another one while
//! the server runs (a build removes it and makes it again, a link to the current release is
//! switched). It refuses to know what is in it.
//!
//! As with an entry of the cache, what is known is trusted for [`TRUST_MS`]. The first request that
//! opens a file after that follows the path again, the others go on for as long again with the
//! folder that is known. So no file is opened in a folder that the path left more than a second
//! ago, and a request that opens no file looks at no path. That no folder is at the path is not
//! trusted: every request follows the path then, so a gap between two folders (`ln -sfn` of some
//! systems removes the link before it makes the new one) is as short for clients as it was on disk.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::cache::TRUST_MS;
use crate::fs::{Entry, Obstacle, Root};
use crate::messages::report;
use crate::rt::now_ms;

/// The folder as a worker knows it.
pub(super) struct Folder {
    root: RefCell<Root>,
    /// The error of open(2) where the path leads to no folder.
    obstacle: Cell<Option<i32>>,
    /// When the path was followed, in ms.
    looked_ms: Cell<u64>,
    /// When a request is to follow it again, in ms.
    due_ms: Cell<u64>,
}

impl Folder {
    /// The folder that was opened as `root`.
    pub(super) fn new(root: Root) -> Self {
        Self {
            root: RefCell::new(root),
            obstacle: Cell::new(None),
            looked_ms: Cell::new(0),
            due_ms: Cell::new(0),
        }
    }

    /// When the path was followed, in ms: what is opened now was beneath it then.
    pub(super) fn looked_ms(&self) -> u64 {
        self.looked_ms.get()
    }

    /// Follows the path again if that is due, or if it led to no folder. True if it leads elsewhere
    /// now: what is known of the files in the folder is then known of others.
    pub(super) async fn look(&self) -> bool {
        let looked_ms = now_ms();
        if looked_ms < self.due_ms.get() && self.obstacle.get().is_none() {
            return false;
        }
        self.due_ms.set(self.looked_ms.get() + 2 * TRUST_MS);
        let known = self.root.borrow().clone();
        let found = known.replacement().await;
        self.note(found.map(|other| other.unwrap_or(known)), looked_ms)
    }

    /// Opens the file called `name`.
    ///
    /// # Errors
    /// Those of [`Root::open_file`]; where the path leads to no folder, that of its lookup.
    pub(super) async fn open_file(&self, name: &[u8]) -> io::Result<Entry> {
        if let Some(errno) = self.obstacle.get() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let root = self.root.borrow().clone();
        root.open_file(OsStr::from_bytes(name)).await
    }

    /// Notes where the path led at `looked_ms`. True if that is elsewhere.
    fn note(&self, found: io::Result<Root>, looked_ms: u64) -> bool {
        if looked_ms < self.looked_ms.get() {
            // A later look took less time.
            return false;
        }
        self.looked_ms.set(looked_ms);
        self.due_ms.set(looked_ms + TRUST_MS);
        match found {
            Ok(root) => {
                let was_gone = self.obstacle.take().is_some();
                let is_other = !root.is_same(&self.root.borrow());
                if is_other {
                    self.root.replace(root);
                }
                if was_gone || is_other {
                    self.say(match is_other {
                        true => "leads to another folder now, whose files are served",
                        false => "is back in its place",
                    });
                }
                was_gone || is_other
            }
            Err(error) => match Obstacle::of(&error) {
                Obstacle::NotFound | Obstacle::Forbidden => {
                    let errno = error.raw_os_error();
                    let is_new = self.obstacle.replace(errno) != errno;
                    if is_new {
                        self.say(&format!(
                            "cannot be opened: {error}; until it can, none of its files is served"
                        ));
                    }
                    is_new
                }
                // That says nothing of where the path leads.
                Obstacle::Exhausted | Obstacle::Broken => false,
            },
        }
    }

    /// Reports it of the folder, unless another worker has done so.
    fn say(&self, what: &str) {
        let root = self.root.borrow();
        if root.is_news(self.obstacle.get()) {
            report(format_args!("{} {what}", root.path().display()));
        }
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.borrow().fmt(f)
    }
}
