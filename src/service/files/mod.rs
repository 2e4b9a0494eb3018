//! Serves the files of a directory over HTTP. [`Root`] ensures that no path or symlink leads out of
//! the directory.
//!
//! A response does not mix old and new content if files are replaced by rename(2), because each is
//! read through one descriptor. A file that is changed in place is sent as it is at that moment,
//! without a pause. A small one is read whole; if it changed meanwhile, it is read once more. A
//! larger one is read while it is sent; if it is truncated meanwhile, the server closes the
//! connection. A file that has just changed is not cached, and its response has no validators,
//! because it may change again without another mtime.

mod cache;
mod listing;
mod media_type;
mod path;
mod refusals;
mod representation;
mod served_directory;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::http::header::{CONTENT_RANGE, ETAG, LAST_MODIFIED};
use ::http::{HeaderName, HeaderValue, Method, StatusCode};
use bytes::Bytes;

use super::response_memory::{self, ResponseMemory};
use super::{Body, Request, Response, Service};
use crate::fs::{CachedSpan, Entry, File, MemfdCache, OpenError, Root};
use crate::http::conditional::Outcome;
use crate::http::field::Fields;
use crate::http::range::{ContentRange, Requested};
use crate::rt::{now_ms, spawn_detached};
use cache::{Cache, Lookup};
use listing::Making;
#[cfg(not(feature = "sim"))]
use path::Relative;
#[cfg(feature = "sim")]
pub use path::{Relative, with_slash};
use refusals::{error_response, other_method, redirect, status_response};
use representation::{Representation, may_be_cached};
use served_directory::ServedDirectory;

/// The largest file that is read whole and may be cached, in bytes. It fits into one send.
const SMALL_BYTES_MAX: u64 = 256 << 10;

/// Content of these sizes in bytes is put into the memfd cache, because the kernel then sends it
/// without copying. Other content is copied into each send: copying little costs less, and so does
/// copying much under TCP pacing, where 256 KiB from the memfd cache cost twice as much
/// (bench/results/trials.md).
const MEMFD_CONTENT_BYTES: Range<usize> = (8 << 10) + 1..(96 << 10) + 1;

/// How often a small file is read at most while it changes.
const READS_MAX: u32 = 2;

/// A service that serves the files of a directory. It answers GET and HEAD, conditional requests
/// (RFC 9110 §13) and requests for one byte range (§14). For a directory it serves `index.html`, or
/// a listing if there is none and [`Files::with_listing`] allows it.
///
/// Each worker has its own `Files`; they share a [`Root`]:
///
/// ```no_run
/// use coring::{Files, Server, fs::Root};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let root = Root::open("site")?;
///     Server::builder().serve(move || Files::new(root.clone()))?;
///     Ok(())
/// }
/// ```
///
/// Names with a leading dot are hidden, except for `/.well-known/`. Symlinks are followed as long
/// as they stay in the directory. A file that does not exist or is not a regular file gets 404; one
/// that the process may not read gets 403. If the process runs out of descriptors, memory or
/// threads, the client gets 503. If the disk fails, it gets 500.
///
/// Files of up to 256 KiB are cached. A change of a file takes effect within a second. So does a
/// change of the directory itself, for which the path ([`Root::path`]) is resolved again: it must
/// remain accessible to the process. While the path leads to no directory, every request for a file
/// gets 404; while the process may not resolve it, 403.
pub struct Files {
    directory: ServedDirectory,
    cache: RefCell<Cache<SmallFile>>,
    /// The memfd cache, which holds the content of some cached files.
    memfd_cache: MemfdCache,
    cache_bytes_max: usize,
    response_bytes_max: usize,
    lists: bool,
    /// The page that was begun last, as long as it is used.
    listing: RefCell<Weak<Making>>,
    /// Counts the content of the cache and of responses together, because content that the cache
    /// has evicted may still be part of a response.
    memory: ResponseMemory,
}

/// The content of a small file and its header fields, from one consistent read.
struct SmallFile {
    representation: Representation,
    content: Content,
}

/// The content of a file.
#[derive(Clone)]
enum Content {
    /// In our memory.
    Memory(Bytes),
    /// In the memfd cache.
    CachedSpan(CachedSpan),
    /// Still to be read from the file; the memory for that is counted.
    File(File, ResponseMemory),
}

impl Files {
    /// The default size of each worker's cache of small files, in bytes.
    pub const CACHE_BYTES_MAX: usize = 32 << 20;

    /// The default limit, in bytes, of file content that each worker holds in memory for responses
    /// that are not yet sent, in addition to the cache.
    pub const RESPONSE_BYTES_MAX: usize = response_memory::RESPONSE_BYTES_MAX;

    /// Makes a service for the files beneath `root`.
    pub fn new(root: Root) -> Self {
        Self {
            directory: ServedDirectory::new(root),
            cache: RefCell::new(Cache::new(0)),
            memfd_cache: MemfdCache::new(0),
            cache_bytes_max: Self::CACHE_BYTES_MAX,
            response_bytes_max: Self::RESPONSE_BYTES_MAX,
            lists: false,
            listing: RefCell::default(),
            memory: ResponseMemory::new(0),
        }
        .with_empty_caches()
    }

    /// Sets the size of the cache of small files in bytes; 0 disables it.
    #[must_use]
    pub fn with_cache(mut self, bytes_max: usize) -> Self {
        self.cache_bytes_max = bytes_max;
        self.with_empty_caches()
    }

    /// Sets the limit, in bytes, of file content that is held in memory for responses, in addition
    /// to the cache. When it is reached, small files are sent like large ones. That costs more, and
    /// if a file is overwritten meanwhile, the response may mix old and new content.
    #[must_use]
    pub fn with_response_memory(mut self, bytes_max: usize) -> Self {
        self.response_bytes_max = bytes_max;
        self.with_empty_caches()
    }

    /// Sets whether a directory without `index.html` is answered with a page that lists its files
    /// and directories; default: no. At most 10,000 entries are read. Hidden names and those that
    /// no request can reach are left out. `?sort=name`, `size` or `time` sorts the page, with a
    /// minus in the opposite order. One page is made at a time, and requests for the same page
    /// share it. If it does not fit into the memory for responses, the client gets 503.
    #[must_use]
    pub fn with_listing(mut self, lists: bool) -> Self {
        self.lists = lists;
        self
    }

    /// Replaces the caches by empty ones with the current limits.
    fn with_empty_caches(mut self) -> Self {
        let (cache_bytes_max, response_bytes_max) = (self.cache_bytes_max, self.response_bytes_max);
        self.cache = RefCell::new(Cache::new(cache_bytes_max));
        self.memfd_cache = MemfdCache::new(cache_bytes_max);
        self.memory = ResponseMemory::new(cache_bytes_max.saturating_add(response_bytes_max));
        self
    }

    /// Answers a request from the file system. `known` is the cached file, if it is due to be
    /// checked.
    async fn respond_from_disk(
        &self,
        request: &Request,
        path: &Relative<'_>,
        known: Option<Rc<SmallFile>>,
    ) -> Response {
        if self.directory.refresh().await {
            self.cache.borrow_mut().clear();
        }
        // The time of the result is that of the last check of the directory, not now.
        let checked_ms = self.directory.checked_ms();
        let name = path.file();
        let opened = self.directory.open_file(&name).await;
        if let Some(known) = known
            && known.is_current(&opened)
        {
            let mut cache = self.cache.borrow_mut();
            let is_confirmed = opened.is_ok() && cache.confirm(path.as_bytes(), &known, checked_ms);
            drop(cache);
            return match is_confirmed {
                true => self.move_to_memfd(path, known, checked_ms).respond(request),
                false => known.respond(request),
            };
        }
        let file = match opened {
            Ok(Entry::File(file)) => file,
            other => {
                self.cache.borrow_mut().remove(path.as_bytes());
                return match other {
                    Ok(Entry::Directory) if !path.is_directory() => redirect(request),
                    Ok(_) => status_response(StatusCode::NOT_FOUND),
                    Err(error)
                        if self.lists
                            && path.is_directory()
                            && OpenError::of(&error) == OpenError::NotFound =>
                    {
                        self.list(request, path).await
                    }
                    Err(error) => error_response(&error),
                };
            }
        };
        let read = SmallFile::read(&name, &file, &self.memory).await;
        if let Ok(Some(small)) = read {
            let small = Rc::new(small);
            self.cache_small(path, &small, checked_ms);
            return small.respond(request);
        }
        self.cache.borrow_mut().remove(path.as_bytes());
        match read {
            Err(error) => error_response(&error),
            Ok(_) => {
                let representation = Representation::new(&name, *file.metadata(), since_epoch());
                respond(
                    request,
                    &representation,
                    Content::File(file, self.memory.clone()),
                )
            }
        }
    }

    /// Caches a small file, unless it changed too recently or is too large for the cache.
    fn cache_small(&self, path: &Relative<'_>, small: &Rc<SmallFile>, checked_ms: u64) {
        let (mut cache, len) = (self.cache.borrow_mut(), small.content.len());
        let is_settled = may_be_cached(&small.representation.metadata, since_epoch());
        if cache.accepts(len) && is_settled {
            let len = usize::try_from(len).expect("the file is small");
            cache.insert(path.as_bytes(), small.clone(), len, checked_ms);
        } else {
            cache.remove(path.as_bytes());
        }
    }

    /// Moves the content of a cached file into the memfd cache, if that makes it cheaper to send
    /// and there is room. Called only after a check found the file unchanged: so it was requested
    /// at least twice.
    fn move_to_memfd(
        &self,
        path: &Relative<'_>,
        small: Rc<SmallFile>,
        checked_ms: u64,
    ) -> Rc<SmallFile> {
        let Content::Memory(bytes) = &small.content else {
            return small;
        };
        if !MEMFD_CONTENT_BYTES.contains(&bytes.len()) {
            return small;
        }
        let Ok(span) = self.memfd_cache.insert(bytes) else {
            if let Some(growth) = self.memfd_cache.grow() {
                spawn_detached(growth);
            }
            return small;
        };
        let (representation, content) = (small.representation.clone(), Content::CachedSpan(span));
        let small = Rc::new(SmallFile {
            representation,
            content,
        });
        self.cache_small(path, &small, checked_ms);
        small
    }
}

impl Service for Files {
    async fn call(&self, request: Request) -> Response {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return other_method(&request);
        }
        let Some(path) = Relative::read(request.path_bytes()) else {
            return status_response(StatusCode::NOT_FOUND);
        };
        if path.is_directory() && !request.full_path().ends_with('/') {
            // A router has removed the whole path. The links of a page would lead to the directory
            // above the prefix.
            return redirect(&request);
        }
        let found = self.cache.borrow_mut().find(path.as_bytes(), now_ms());
        let known = match found {
            Lookup::Fresh(small) => return small.respond(&request),
            Lookup::Due(small) => Some(small),
            Lookup::Missing => None,
        };
        // Boxed, so that a cache hit does not pay for the size of this future.
        Box::pin(self.respond_from_disk(&request, &path, known)).await
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl SmallFile {
    /// Reads the whole file called `name`. `None` if it is too large, if it changes during every
    /// read, or if the memory limit is reached.
    async fn read(name: &[u8], file: &File, memory: &ResponseMemory) -> io::Result<Option<Self>> {
        let mut metadata = *file.metadata();
        for _ in 0..READS_MAX {
            if metadata.len() > SMALL_BYTES_MAX || memory.is_full() {
                break;
            }
            let len = usize::try_from(metadata.len()).expect("the file is small");
            let counted = memory.count(len);
            let content = file.read_vec(0, len).await?;
            let before = std::mem::replace(&mut metadata, file.metadata_now()?);
            if before == metadata {
                let representation = Representation::new(name, metadata, since_epoch());
                let content = Content::Memory(counted.wrap(content));
                return Ok(Some(Self {
                    representation,
                    content,
                }));
            }
        }
        Ok(None)
    }

    /// Whether this cached file may still be served, after its path was `opened` again: the file
    /// and its header values are unchanged, or it could not be opened for lack of resources. Old
    /// content is then better than an error.
    fn is_current(&self, opened: &io::Result<Entry>) -> bool {
        match opened {
            Ok(Entry::File(file)) => self.representation.is_of(file.metadata(), since_epoch()),
            Ok(_) => false,
            Err(error) => OpenError::of(error) == OpenError::Exhausted,
        }
    }

    #[inline]
    fn respond(&self, request: &Request) -> Response {
        respond(request, &self.representation, self.content.clone())
    }
}

impl Content {
    /// The length of the content in bytes.
    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::CachedSpan(span) => span.len(),
            Self::File(file, _) => file.metadata().len(),
        }
    }

    /// A body of the bytes in `part`, which must lie within the content.
    fn part(self, part: Range<u64>) -> Body {
        match self {
            Self::Memory(bytes) => {
                let at = |offset| usize::try_from(offset).expect("the offset is in memory");
                bytes.slice(at(part.start)..at(part.end)).into()
            }
            Self::CachedSpan(span) => Body::cached_span(span.part(part)),
            Self::File(file, memory) => Body::file_through(memory, file, part),
        }
    }
}

/// The response to a request for an existing file: evaluates preconditions and the range.
fn respond(request: &Request, representation: &Representation, content: Content) -> Response {
    let length = content.len();
    let requested = if has_conditions(request.headers()) {
        match representation
            .validators()
            .evaluate(request.method(), request.headers())
        {
            Outcome::Proceed => requested(request, representation, length),
            Outcome::NotModified => return not_modified(representation),
            Outcome::Failed => return status_response(StatusCode::PRECONDITION_FAILED),
        }
    } else {
        Requested::Whole
    };
    let response = |status, part| {
        Response::of_parts(status, representation.fields.clone(), content.part(part))
    };
    match requested {
        Requested::Whole => response(StatusCode::OK, 0..length),
        Requested::Part(part) => {
            let (name, value) = content_range(Some(part.clone()), length);
            response(StatusCode::PARTIAL_CONTENT, part).with_header(name, value)
        }
        Requested::Unsatisfiable => {
            let (name, value) = content_range(None, length);
            status_response(StatusCode::RANGE_NOT_SATISFIABLE).with_header(name, value)
        }
    }
}

/// Whether the request may have preconditions or a range. The names of all such fields begin with
/// `If-` or `Range`.
fn has_conditions(mut fields: Fields<'_>) -> bool {
    fields.any(|(name, _)| {
        let begins = |with: &[u8]| {
            name.get(..with.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(with))
        };
        begins(b"if-") || begins(b"range")
    })
}

/// The range to send of a content of `length` bytes. Only a GET can have one (RFC 9110 §14.2).
fn requested(request: &Request, representation: &Representation, length: u64) -> Requested {
    let fields = request.headers();
    let mut ranges = fields.get_all("range");
    match (ranges.next(), ranges.next()) {
        (Some(range), None)
            if *request.method() == Method::GET && representation.validators().if_range(fields) =>
        {
            Requested::of(range, length)
        }
        _ => Requested::Whole,
    }
}

/// A 304 response with the file's validators.
fn not_modified(representation: &Representation) -> Response {
    let (etag, date) = (&representation.etag, &representation.last_modified);
    let fields = [(ETAG, etag), (LAST_MODIFIED, date)].into_iter();
    let fields = fields.filter_map(|(name, value)| Some((name, value.clone()?)));
    fields.fold(
        Response::new(StatusCode::NOT_MODIFIED),
        |response, (name, value)| response.with_header(name, value),
    )
}

fn content_range(part: Option<Range<u64>>, length: u64) -> (HeaderName, HeaderValue) {
    let text = ContentRange { part, length }.to_string();
    (
        CONTENT_RANGE,
        HeaderValue::try_from(text).expect("digits are valid in a field"),
    )
}

/// The time since the epoch.
fn since_epoch() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

#[cfg(test)]
mod tests;
