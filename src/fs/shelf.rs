//! Content that is kept in memory to be sent often, in a form that the kernel sends without copying
//! it: anonymous files of one large page each, if the kernel has such. It refuses to know what the
//! content is of.
//!
//! A file is filled once, content behind content. Its places are not used again: a socket may still
//! have the page long after its send has ended, and for the same reason nothing is given back as a
//! hole, which the kernel may fill with zeros. When all files are full, one of which nothing is
//! used any more makes room for another, once the kernel agrees that no socket has its page. So
//! there are never more pages than files may be, whatever clients leave unread. What is used for
//! long keeps the page of what lay beside it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use rustix::io::{Errno, pread, pwrite};

use crate::buf::FileSpan;
use crate::engine::{blocking, monotonic_ms};
use crate::sys::file::{LARGE_PAGE_BYTES, anonymous_file, fill_with_large_page, give_up_writing};
use crate::sys::limits::{is_short_of_descriptors, may_write};

/// Where content begins, for a pipe has its pages: those of one more would not go out with it.
const ALIGNMENT: usize = 4096;

/// How long to wait when the kernel does not give a page up, in ms.
const PAUSE_MS: u64 = 1000;

/// A worker keeps so many files open at most.
const KEPT_FILES_MAX: usize = 64;

/// Where so few descriptors are left it keeps none: connections need them.
const SPARE_DESCRIPTORS: u64 = 1024;

/// Anonymous files, and not too many.
pub(crate) struct Shelf(Rc<Files>);

struct Files {
    filled: RefCell<Vec<Filling>>,
    files_max: usize,
    /// One more is being made.
    is_growing: Cell<bool>,
    /// None is made before, in ms.
    rests_until_ms: Cell<u64>,
}

/// A file, and how much of it has been used.
struct Filling {
    file: Arc<OwnedFd>,
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
    /// A shelf whose files have up to `bytes_max` bytes; none where so large a file is forbidden,
    /// for then the kernel would end the process (getrlimit(2), `RLIMIT_FSIZE`).
    pub(crate) fn new(bytes_max: usize) -> Self {
        let files_max = match may_write(LARGE_PAGE_BYTES as u64) {
            true => KEPT_FILES_MAX.min(bytes_max / LARGE_PAGE_BYTES),
            false => 0,
        };
        Self(Rc::new(Files {
            filled: RefCell::default(),
            files_max,
            is_growing: Cell::new(false),
            rests_until_ms: Cell::new(0),
        }))
    }

    /// Keeps a copy of `bytes`.
    ///
    /// # Errors
    /// `EAGAIN` when there is no place for them: there may be one after [`Shelf::grow`]. Those of
    /// pwrite(2).
    ///
    /// # Panics
    /// When these are more than a file has room for.
    pub(crate) fn keep(&self, bytes: &[u8]) -> io::Result<Kept> {
        assert!(bytes.len() <= LARGE_PAGE_BYTES, "content is small");
        let (file, offset) = self.0.place(bytes.len()).ok_or(Errno::AGAIN)?;
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

    /// What has to run for one more file, if there may be one now. Nobody should wait for it:
    /// content can be sent from memory meanwhile, and the threads may be busy.
    pub(crate) fn grow(&self) -> Option<impl Future<Output = ()> + 'static> {
        let files = &self.0;
        let may_grow = files.files_max > 0 && monotonic_ms() >= files.rests_until_ms.get();
        if !may_grow || files.is_growing.replace(true) {
            return None;
        }
        let files = files.clone();
        Some(async move {
            if files.add().await.is_err() {
                files.rests_until_ms.set(monotonic_ms() + PAUSE_MS);
            }
            files.is_growing.set(false);
        })
    }
}

impl Files {
    /// Takes a place of `len` bytes in a file that has one.
    fn place(&self, len: usize) -> Option<(Arc<OwnedFd>, usize)> {
        let mut filled = self.filled.borrow_mut();
        let filling = filled
            .iter_mut()
            .find(|filling| len <= LARGE_PAGE_BYTES - filling.used)?;
        let offset = filling.used;
        filling.used = (offset + len).next_multiple_of(ALIGNMENT);
        Some((filling.file.clone(), offset))
    }

    /// Adds a file, if need be instead of another. It is made on a thread: that the kernel finds a
    /// large page may take a while.
    async fn add(&self) -> io::Result<()> {
        if self.filled.borrow().len() >= self.files_max {
            self.remove().await?;
        }
        let file = blocking(|| {
            let file = anonymous_file("coring-kept")?;
            if is_short_of_descriptors(&file, SPARE_DESCRIPTORS) {
                return Err(Errno::MFILE.into());
            }
            fill_with_large_page(&file)?;
            io::Result::Ok(Arc::new(file))
        });
        let file = file.await??;
        self.filled.borrow_mut().push(Filling { file, used: 0 });
        Ok(())
    }

    /// Removes a file of which nothing is used: neither by us nor, as the kernel knows, by a
    /// socket.
    async fn remove(&self) -> io::Result<()> {
        let filling = self.take_unused().ok_or(Errno::MFILE)?;
        let file = filling.file.clone();
        let given_up = blocking(move || give_up_writing(&file)).await;
        let given_up = given_up.unwrap_or_else(|error| Err(error.into()));
        if given_up.is_err() {
            // It still counts, and another one is tried before it.
            self.filled.borrow_mut().push(filling);
        }
        given_up
    }

    fn take_unused(&self) -> Option<Filling> {
        let mut filled = self.filled.borrow_mut();
        let is_unused = |filling: &Filling| Arc::strong_count(&filling.file) == 1;
        let unused = filled.iter().position(is_unused)?;
        Some(filled.remove(unused))
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
    use rustix::fs::sendfile;

    use std::time::Duration;

    use super::*;
    use crate::run;
    use crate::time::sleep;

    const LARGE: usize = 1 << 20;

    /// Keeps `bytes`, for which there will be a place.
    async fn keep(shelf: &Shelf, bytes: &[u8]) -> Kept {
        loop {
            match shelf.keep(bytes) {
                Ok(kept) => break kept,
                Err(_) => match shelf.grow() {
                    Some(growth) => growth.await,
                    None => sleep(Duration::from_millis(10)).await,
                },
            }
        }
    }

    #[test]
    fn what_is_kept_is_what_was_given_and_parts_of_it() {
        run(async {
            let shelf = Shelf::new(LARGE_PAGE_BYTES);
            let bytes: Vec<u8> = (0..=250).cycle().take(70_001).collect();
            let kept = keep(&shelf, &bytes).await;
            let more = keep(&shelf, &bytes[9..]).await;
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
                all.push(keep(&shelf, &[1; LARGE]).await);
            }
            assert!(shelf.0.remove().await.is_err());
            drop(all.pop());
            assert!(shelf.0.remove().await.is_err());
            // Whatever is on its way to a client still takes its place.
            let span = all.pop().map(|kept| kept.span());
            assert!(shelf.0.remove().await.is_err());
            drop(span);
            assert!(shelf.keep(b"b").is_err());
            keep(&shelf, b"b").await;
            assert_eq!(shelf.0.filled.borrow().len(), 2);
        });
    }

    /// One byte that a client does not read keeps a page, and so the page counts.
    #[test]
    fn what_a_socket_has_is_not_given_up() {
        run(async {
            let shelf = Shelf::new(LARGE_PAGE_BYTES);
            let kept = keep(&shelf, &[1; LARGE]).await;
            let rest = keep(&shelf, &[2; LARGE]).await;
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("sockets");
            let span = kept.part(7..8).span();
            let mut offset = span.offset();
            assert_eq!(sendfile(&ours, &span, Some(&mut offset), 1), Ok(1));
            drop((kept, rest, span));
            assert!(shelf.0.remove().await.is_err());
            assert_eq!(shelf.0.filled.borrow().len(), 1);
            assert_eq!(rustix::io::read(&theirs, &mut [0; 2]), Ok(1));
            keep(&shelf, b"b").await;
            assert_eq!(shelf.0.filled.borrow().len(), 1);
        });
    }

    #[test]
    fn a_shelf_without_room_keeps_nothing() {
        run(async {
            let shelf = Shelf::new(LARGE_PAGE_BYTES - 1);
            assert!(shelf.keep(b"a").is_err());
            assert!(shelf.grow().is_none());
        });
    }
}
