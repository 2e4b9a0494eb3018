//! The memfd cache: content in anonymous files (memfd_create(2)), which the kernel sends without
//! copying. Each file has 2 MiB, in one huge page if the kernel can provide it. This module does
//! not know where the content comes from.
//!
//! A file is filled once, each content behind the previous one. Its space is never reused: a socket
//! may still refer to the page long after the send has completed. For the same reason no holes are
//! punched, because the kernel may overwrite the page with zeros while the socket refers to it.
//!
//! When all files are full, one without references is replaced by a new one, but only after the
//! kernel has confirmed that no socket refers to its page. So the number of pages is bounded, even
//! if clients stop reading. The cost: one long-lived content keeps the whole 2 MiB page allocated.

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
use crate::sys::file::{HUGE_PAGE_BYTES, anonymous_file, fill_with_huge_page, seal_writes};
use crate::sys::limits::{is_file_size_allowed, is_short_of_descriptors};

/// Content begins at a page boundary. The kernel moves it to the socket through a pipe, which holds
/// a limited number of pages; unaligned content would touch one more and need another step.
const ALIGNMENT: usize = 4096;

/// How long not to try again after a file could not be added, in ms.
const RETRY_PAUSE_MS: u64 = 1000;

/// The most files that a worker has open here.
const MEMFDS_MAX: usize = 64;

/// No file is added unless this many descriptors stay free, because connections need them.
const SPARE_DESCRIPTORS: u64 = 1024;

/// A cache of content in anonymous files. The number of files is limited.
pub(crate) struct MemfdCache(Rc<Memfds>);

/// The files of a cache.
struct Memfds {
    memfds: RefCell<Vec<Memfd>>,
    files_max: usize,
    /// [`Memfds::add`] is running.
    is_growing: Cell<bool>,
    /// No file is added before this time, in ms.
    retry_at_ms: Cell<u64>,
}

/// An anonymous file.
struct Memfd {
    file: Arc<OwnedFd>,
    /// The offset of the next content in bytes.
    used: usize,
}

/// A range of bytes in the cache. They do not change while a clone or a span of them exists.
#[derive(Clone)]
pub(crate) struct CachedSpan {
    file: Arc<OwnedFd>,
    range: Range<u64>,
}

impl MemfdCache {
    /// A cache whose files together have up to `bytes_max` bytes. It has no files if `RLIMIT_FSIZE`
    /// is too low: writing would then fail, and kill the process by SIGXFSZ unless that signal is
    /// blocked (getrlimit(2)).
    pub(crate) fn new(bytes_max: usize) -> Self {
        let files_max = match is_file_size_allowed(HUGE_PAGE_BYTES as u64) {
            true => MEMFDS_MAX.min(bytes_max / HUGE_PAGE_BYTES),
            false => 0,
        };
        Self(Rc::new(Memfds {
            memfds: RefCell::default(),
            files_max,
            is_growing: Cell::new(false),
            retry_at_ms: Cell::new(0),
        }))
    }

    /// Copies `bytes` into the cache.
    ///
    /// # Errors
    /// `EAGAIN` if no file has room: [`MemfdCache::grow`] may add one. Those of pwrite(2).
    ///
    /// # Panics
    /// If `bytes` are more than 2 MiB, the size of a file.
    pub(crate) fn insert(&self, bytes: &[u8]) -> io::Result<CachedSpan> {
        assert!(
            bytes.len() <= HUGE_PAGE_BYTES,
            "content must fit into a file"
        );
        let (file, offset) = self.0.allocate(bytes.len()).ok_or(Errno::AGAIN)?;
        let mut written = 0;
        while written < bytes.len() {
            match pwrite(&file, &bytes[written..], (offset + written) as u64)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => written += n,
            }
        }
        let range = offset as u64..(offset + bytes.len()) as u64;
        Ok(CachedSpan { file, range })
    }

    /// A future that adds a file, if that is possible now. The caller should spawn it and not await
    /// it, because the blocking threads may be busy; content can be sent from memory meanwhile.
    pub(crate) fn grow(&self) -> Option<impl Future<Output = ()> + 'static> {
        let files = &self.0;
        let may_grow = files.files_max > 0 && monotonic_ms() >= files.retry_at_ms.get();
        if !may_grow || files.is_growing.replace(true) {
            return None;
        }
        let files = files.clone();
        Some(async move {
            if files.add().await.is_err() {
                files.retry_at_ms.set(monotonic_ms() + RETRY_PAUSE_MS);
            }
            files.is_growing.set(false);
        })
    }
}

impl Memfds {
    /// Allocates `len` bytes: returns a file with enough room, and the offset in it.
    fn allocate(&self, len: usize) -> Option<(Arc<OwnedFd>, usize)> {
        let mut memfds = self.memfds.borrow_mut();
        let memfd = memfds
            .iter_mut()
            .find(|memfd| len <= HUGE_PAGE_BYTES - memfd.used)?;
        let offset = memfd.used;
        memfd.used = (offset + len).next_multiple_of(ALIGNMENT);
        Some((memfd.file.clone(), offset))
    }

    /// Adds a file. If there are too many, first removes an unused one. The file is made on a
    /// blocking thread, because the kernel may take a while to find a huge page.
    async fn add(&self) -> io::Result<()> {
        if self.memfds.borrow().len() >= self.files_max {
            self.remove().await?;
        }
        let file = blocking(|| {
            let file = anonymous_file("coring-file-cache")?;
            if is_short_of_descriptors(&file, SPARE_DESCRIPTORS) {
                return Err(Errno::MFILE.into());
            }
            fill_with_huge_page(&file)?;
            io::Result::Ok(Arc::new(file))
        });
        let file = file.await??;
        self.memfds.borrow_mut().push(Memfd { file, used: 0 });
        Ok(())
    }

    /// Removes a file that neither we nor any socket refers to.
    async fn remove(&self) -> io::Result<()> {
        let memfd = self.take_unused().ok_or(Errno::MFILE)?;
        let file = memfd.file.clone();
        let sealed = blocking(move || seal_writes(&file)).await;
        let sealed = sealed.unwrap_or_else(|error| Err(error.into()));
        if sealed.is_err() {
            // A socket refers to it, so it still counts. At the end others are tried before it.
            self.memfds.borrow_mut().push(memfd);
        }
        sealed
    }

    /// Takes a file out that has no [`CachedSpan`] and no span.
    fn take_unused(&self) -> Option<Memfd> {
        let mut memfds = self.memfds.borrow_mut();
        let is_unused = |memfd: &Memfd| Arc::strong_count(&memfd.file) == 1;
        let unused = memfds.iter().position(is_unused)?;
        Some(memfds.remove(unused))
    }
}

impl CachedSpan {
    /// The length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The bytes in `part`, which must lie within this range.
    pub(crate) fn part(&self, part: Range<u64>) -> Self {
        debug_assert!(part.start <= part.end && part.end <= self.len());
        Self {
            file: self.file.clone(),
            range: self.range.start + part.start..self.range.start + part.end,
        }
    }

    /// The bytes as a span, to be sent.
    pub(crate) fn span(&self) -> FileSpan {
        let len = usize::try_from(self.len()).expect("the content was in memory");
        FileSpan::new(self.file.clone(), self.range.start, len)
    }

    /// Copies the bytes out, for a caller that does not send them.
    ///
    /// # Errors
    /// Those of pread(2).
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len()).expect("the content was in memory")];
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

impl fmt::Debug for CachedSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CachedSpan({} bytes)", self.len())
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

    /// Puts `bytes` into the cache; waits until there is room.
    async fn insert(cache: &MemfdCache, bytes: &[u8]) -> CachedSpan {
        loop {
            match cache.insert(bytes) {
                Ok(cached) => break cached,
                Err(_) => match cache.grow() {
                    Some(growth) => growth.await,
                    None => sleep(Duration::from_millis(10)).await,
                },
            }
        }
    }

    #[test]
    fn content_and_ranges_of_it_are_read_back() {
        run(async {
            let cache = MemfdCache::new(HUGE_PAGE_BYTES);
            let bytes: Vec<u8> = (0..=250).cycle().take(70_001).collect();
            let cached = insert(&cache, &bytes).await;
            let more = insert(&cache, &bytes[9..]).await;
            assert_eq!(cached.read().expect("reading a memfd succeeds"), bytes);
            assert_eq!(more.read().expect("reading a memfd succeeds"), bytes[9..]);
            let part = more.part(5..60_000).part(10..20);
            drop((cached, more));
            assert_eq!(
                part.read().expect("reading a memfd succeeds"),
                bytes[24..34]
            );
            let span = part.span();
            drop(part);
            let mut sent = [0; 10];
            assert_eq!(pread(&span, &mut sent, span.offset()), Ok(10));
            assert_eq!(sent, bytes[24..34]);
        });
    }

    #[test]
    fn space_is_not_reused_before_its_file_is_removed() {
        run(async {
            let cache = MemfdCache::new(2 * HUGE_PAGE_BYTES + 1);
            let mut all = Vec::new();
            for _ in 0..4 {
                all.push(insert(&cache, &[1; LARGE]).await);
            }
            assert!(cache.0.remove().await.is_err());
            drop(all.pop());
            assert!(cache.0.remove().await.is_err());
            // A span that is still to be sent keeps its file.
            let span = all.pop().map(|cached| cached.span());
            assert!(cache.0.remove().await.is_err());
            drop(span);
            assert!(cache.insert(b"b").is_err());
            insert(&cache, b"b").await;
            assert_eq!(cache.0.memfds.borrow().len(), 2);
        });
    }

    /// One byte that a client does not read keeps its page allocated, so the page must still count.
    #[test]
    fn a_file_in_a_socket_buffer_is_not_removed() {
        run(async {
            let cache = MemfdCache::new(HUGE_PAGE_BYTES);
            let cached = insert(&cache, &[1; LARGE]).await;
            let rest = insert(&cache, &[2; LARGE]).await;
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
            let span = cached.part(7..8).span();
            let mut offset = span.offset();
            assert_eq!(sendfile(&ours, &span, Some(&mut offset), 1), Ok(1));
            drop((cached, rest, span));
            assert!(cache.0.remove().await.is_err());
            assert_eq!(cache.0.memfds.borrow().len(), 1);
            assert_eq!(rustix::io::read(&theirs, &mut [0; 2]), Ok(1));
            insert(&cache, b"b").await;
            assert_eq!(cache.0.memfds.borrow().len(), 1);
        });
    }

    #[test]
    fn a_cache_without_room_for_a_file_stays_empty() {
        run(async {
            let cache = MemfdCache::new(HUGE_PAGE_BYTES - 1);
            assert!(cache.insert(b"a").is_err());
            assert!(cache.grow().is_none());
        });
    }
}
