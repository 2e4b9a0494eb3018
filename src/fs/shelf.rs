//! Content that is kept in memory to be sent often, in a form that the kernel sends without copying
//! it: anonymous files (memfd_create(2)). It refuses to know what the content is of.
//!
//! Each content has a file of its own. Places in a common one would cost no descriptors; but what
//! is let go of would be given back as a hole, which the kernel may fill with zeros while a socket
//! still has the page.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Errno, pread, pwrite};

use crate::buf::FileSpan;
use crate::engine::is_simulated;
use crate::sys::limits::is_short_of_descriptors;

/// So many contents are on a shelf at most: each takes a descriptor.
const KEPT_MAX: usize = 64;
/// Where so few descriptors are left, connections need them.
const SPARE_DESCRIPTORS: u64 = 1024;

/// Makes anonymous files, and not too many.
#[derive(Default)]
pub(crate) struct Shelf {
    files: RefCell<Vec<Weak<OwnedFd>>>,
}

/// Some of the bytes that a shelf keeps. They stay as they are until the last handle to the content
/// and the last span of it are gone.
#[derive(Clone)]
pub(crate) struct Kept {
    file: Arc<OwnedFd>,
    range: Range<u64>,
}

impl Shelf {
    /// Keeps a copy of `bytes`.
    ///
    /// # Errors
    /// `EMFILE` when the shelf is full or descriptors are scarce; those of memfd_create(2) and
    /// pwrite(2). In a simulation, whose kernel sends memory only, nothing can be kept.
    pub(crate) fn keep(&self, bytes: &[u8]) -> io::Result<Kept> {
        if is_simulated() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut files = self.files.borrow_mut();
        files.retain(|file| file.strong_count() > 0);
        if files.len() == KEPT_MAX {
            return Err(Errno::MFILE.into());
        }
        let file = memfd_create("coring-kept", MemfdFlags::CLOEXEC)?;
        if is_short_of_descriptors(&file, SPARE_DESCRIPTORS) {
            return Err(Errno::MFILE.into());
        }
        let mut written = 0;
        while written < bytes.len() {
            match pwrite(&file, &bytes[written..], written as u64)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => written += n,
            }
        }
        let file = Arc::new(file);
        files.push(Arc::downgrade(&file));
        Ok(Kept {
            file,
            range: 0..bytes.len() as u64,
        })
    }
}

impl Kept {
    /// How many bytes it has.
    pub(crate) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// A part of it, which it has.
    pub(crate) fn part(&self, part: Range<u64>) -> Self {
        debug_assert!(part.start <= part.end && part.end <= self.len());
        Self {
            file: self.file.clone(),
            range: self.range.start + part.start..self.range.start + part.end,
        }
    }

    /// The same bytes, to be sent.
    pub(crate) fn span(&self) -> FileSpan {
        let len = usize::try_from(self.len()).expect("it was in memory");
        FileSpan::new(self.file.clone(), self.range.start, len)
    }

    /// The same bytes, for whoever does not send them.
    ///
    /// # Errors
    /// Those of pread(2).
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len()).expect("it was in memory")];
        let mut read = 0;
        while read < bytes.len() {
            let offset = self.range.start + read as u64;
            match pread(&self.file, &mut bytes[read..], offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => read += n,
            }
        }
        Ok(bytes)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_given_and_parts_of_it() {
        let shelf = Shelf::default();
        let bytes: Vec<u8> = (0..=250).cycle().take(70_001).collect();
        let kept = shelf.keep(&bytes).expect("an anonymous file");
        assert_eq!(kept.read().expect("bytes"), bytes);
        let part = kept.part(5..60_000).part(10..20);
        drop(kept);
        assert_eq!(part.read().expect("bytes"), bytes[15..25]);
        let span = part.span();
        drop(part);
        let mut sent = [0; 10];
        assert_eq!(pread(&span, &mut sent, span.offset()), Ok(10));
        assert_eq!(sent, bytes[15..25]);
    }

    #[test]
    fn a_shelf_is_full_until_something_is_let_go_of() {
        let shelf = Shelf::default();
        let mut all: Vec<Kept> = (0..KEPT_MAX)
            .map(|_| shelf.keep(b"a").expect("room"))
            .collect();
        // Whatever is on its way to a client still takes its place.
        let span = all.pop().map(|kept| kept.span());
        assert!(shelf.keep(b"b").is_err());
        drop(span);
        assert!(shelf.keep(b"b").is_ok());
    }
}
