//! Content that is kept in memory to be sent often, in a form that the kernel sends without copying
//! it: anonymous files of one large page each, if the kernel has such. It refuses to know what the
//! content is of.
//!
//! A file is filled once, content behind content, and goes when nothing of it is used any more. Its
//! places are not used again: a socket may still have the page long after its send has ended. For
//! the same reason nothing is given back earlier, as a hole, which the kernel may fill with zeros.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use rustix::io::{Errno, pread, pwrite};

use crate::buf::FileSpan;
use crate::engine::{blocking, is_simulated};
use crate::sys::file::{LARGE_PAGE_BYTES, anonymous_file, fill_with_large_page};
use crate::sys::limits::{KEPT_FILES_MAX, SPARE_DESCRIPTORS, is_short_of_descriptors};

/// Where content begins, for a pipe has its pages: those of one more would not go out with it.
const ALIGNMENT: usize = 4096;

/// Anonymous files, and not too many.
pub(crate) struct Shelf {
    files: RefCell<Vec<Filling>>,
    files_max: usize,
}

/// A file, as long as somebody uses it, and how much of it has been.
struct Filling {
    file: Weak<OwnedFd>,
    used: usize,
}

/// Some of the bytes that a shelf keeps. They stay as they are until the last handle to the content
/// and the last span of it are gone.
#[derive(Clone)]
pub(crate) struct Kept {
    file: Arc<OwnedFd>,
    range: Range<u64>,
}

impl Shelf {
    /// A shelf whose files have up to `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            files: RefCell::default(),
            files_max: KEPT_FILES_MAX.min(bytes_max / LARGE_PAGE_BYTES),
        }
    }

    /// Keeps a copy of `bytes`.
    ///
    /// # Errors
    /// `EMFILE` when the shelf is full or descriptors are scarce; those of memfd_create(2),
    /// ftruncate(2) and pwrite(2). In a simulation, whose kernel sends memory only, nothing can be
    /// kept.
    ///
    /// # Panics
    /// When these are more than a file has room for.
    pub(crate) async fn keep(&self, bytes: &[u8]) -> io::Result<Kept> {
        assert!(bytes.len() <= LARGE_PAGE_BYTES, "content is small");
        if is_simulated() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (file, offset) = match self.place(bytes.len()) {
            Some(place) => place,
            None => (self.add_file(bytes.len()).await?, 0),
        };
        let mut written = 0;
        while written < bytes.len() {
            match pwrite(&file, &bytes[written..], (offset + written) as u64)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => written += n,
            }
        }
        let range = offset as u64..(offset + bytes.len()) as u64;
        Ok(Kept { file, range })
    }

    /// Takes a place of `len` bytes in a file that has one.
    fn place(&self, len: usize) -> Option<(Arc<OwnedFd>, usize)> {
        let mut files = self.files.borrow_mut();
        files.retain(|filling| filling.file.strong_count() > 0);
        let filling = files
            .iter_mut()
            .find(|filling| len <= LARGE_PAGE_BYTES - filling.used)?;
        let offset = filling.used;
        filling.used = (offset + len).next_multiple_of(ALIGNMENT);
        Some((filling.file.upgrade()?, offset))
    }

    /// Adds a file, and takes the place of its first `len` bytes. It is made on a thread: that the
    /// kernel finds a large page may take a while.
    async fn add_file(&self, len: usize) -> io::Result<Arc<OwnedFd>> {
        self.check_room()?;
        let file = blocking(|| {
            let file = anonymous_file("coring-kept")?;
            if is_short_of_descriptors(&file, SPARE_DESCRIPTORS) {
                return Err(Errno::MFILE.into());
            }
            fill_with_large_page(&file)?;
            Ok(Arc::new(file))
        });
        let file = file.await?;
        // Others may have added theirs meanwhile.
        self.check_room()?;
        self.files.borrow_mut().push(Filling {
            file: Arc::downgrade(&file),
            used: len.next_multiple_of(ALIGNMENT),
        });
        Ok(file)
    }

    fn check_room(&self) -> io::Result<()> {
        match self.files.borrow().len() < self.files_max {
            true => Ok(()),
            false => Err(Errno::MFILE.into()),
        }
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
    use crate::run;

    const LARGE: usize = 1 << 20;

    #[test]
    fn what_is_kept_is_what_was_given_and_parts_of_it() {
        run(async {
            let shelf = Shelf::new(LARGE_PAGE_BYTES);
            let bytes: Vec<u8> = (0..=250).cycle().take(70_001).collect();
            let kept = shelf.keep(&bytes).await.expect("a place");
            let more = shelf.keep(&bytes[9..]).await.expect("a place behind it");
            assert_eq!(kept.read().expect("bytes"), bytes);
            assert_eq!(more.read().expect("bytes"), bytes[9..]);
            let part = more.part(5..60_000).part(10..20);
            drop((kept, more));
            assert_eq!(part.read().expect("bytes"), bytes[24..34]);
            let span = part.span();
            drop(part);
            let mut sent = [0; 10];
            assert_eq!(pread(&span, &mut sent, span.offset()), Ok(10));
            assert_eq!(sent, bytes[24..34]);
        });
    }

    #[test]
    fn a_place_is_not_used_again_before_its_file_is_gone() {
        run(async {
            let shelf = Shelf::new(2 * LARGE_PAGE_BYTES + 1);
            let mut all = Vec::new();
            for _ in 0..4 {
                all.push(shelf.keep(&[1; LARGE]).await.expect("room"));
            }
            assert!(shelf.keep(b"b").await.is_err());
            drop(all.pop());
            assert!(shelf.keep(b"b").await.is_err());
            // Whatever is on its way to a client still takes its place.
            let span = all.pop().map(|kept| kept.span());
            assert!(shelf.keep(b"b").await.is_err());
            drop(span);
            assert!(shelf.keep(b"b").await.is_ok());
        });
    }

    #[test]
    fn a_shelf_without_room_keeps_nothing() {
        run(async {
            let shelf = Shelf::new(LARGE_PAGE_BYTES - 1);
            assert!(shelf.keep(b"a").await.is_err());
        });
    }
}
