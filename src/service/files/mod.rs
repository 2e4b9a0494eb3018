//! The files of a folder, over HTTP: what a path leads to, and the answer to a request for it. It
//! refuses to know links and what else may lead out of the folder (the [`Root`]'s concern), and
//! lists no folders.
//!
//! A file that is small enough for one send is read whole, and looked at again once it is. Where
//! it has changed meanwhile, or so shortly before that its writer may not be done, it is read again
//! a little later: an answer shall not mix what it was with what it has become. (For certain that
//! is so where files are replaced by renaming, as they should be.) A larger one is read as it is
//! sent; if it becomes shorter meanwhile, its connection ends.

mod cache;
mod facts;
mod folder;
mod path;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::http::header::{ALLOW, CONTENT_RANGE, ETAG, LAST_MODIFIED, LOCATION, RETRY_AFTER};
use ::http::{HeaderName, HeaderValue, Method, StatusCode};
use bytes::Bytes;

use super::answer_memory::{self, AnswerMemory};
use super::{Body, Request, Response, Service};
use crate::fs::{Entry, File, Kept, Metadata, Obstacle, Root, Shelf};
use crate::http::conditional::Outcome;
use crate::http::field::Fields;
use crate::http::range::{ContentRange, Requested};
use crate::rt::{now_ms, sleep_ms, spawn_detached};
use cache::{Cache, Found};
use facts::Facts;
use folder::Folder;
#[cfg(not(feature = "sim"))]
use path::{Relative, with_slash};
#[cfg(feature = "sim")]
pub use path::{Relative, with_slash};

/// A larger file is read as it is sent, and not kept, in bytes: what goes out in one send.
const SMALL_BYTES_MAX: u64 = 256 << 10;

/// Content of so many bytes is put on the shelf, for it costs less to let the kernel send what it
/// has. Less is copied into each send, and so is more: where TCP paces, 256 KiB from the shelf cost
/// twice as much (bench/results/trials.md).
const SHELF_BYTES: Range<usize> = (8 << 10) + 1..(96 << 10) + 1;

/// How long a small file must not have changed to be taken as it is, in ms: the time of a change is
/// noted as it begins, and by older kernels in ticks of up to 10 ms, in which two look like one.
const QUIET_MS: u64 = 20;

/// How often a small file is read, to find it quiet.
const READS_MAX: u32 = 4;

/// Serves the files of a folder: GET and HEAD, `index.html` for a folder, conditional requests,
/// one byte range at a time.
///
/// Each worker has its own:
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
/// Names that begin with a dot are hidden, but for `/.well-known/`. Links are followed as long as
/// they stay in the folder. What cannot be found, or is no regular file, is 404; what may not be
/// read 403; when descriptors, memory or threads run out, the answer is 503.
///
/// Small files that are asked for often are kept in memory. A change is noticed within a second,
/// also one of the folder itself: [`Root::path`] is followed again, so it must stay one that the
/// process may follow. As long as it leads to no folder, every file is 404; where it may not be
/// followed, 403.
pub struct Files {
    folder: Folder,
    cache: RefCell<Cache<Small>>,
    /// Where some of these have their content, as long as there is room.
    shelf: Shelf,
    cache_bytes_max: usize,
    answer_bytes_max: usize,
    /// For the content of both the cache and answers: content that has left the cache may be in
    /// answers still.
    memory: AnswerMemory,
}

/// A small file as it was at one moment.
struct Small {
    facts: Facts,
    content: Content,
}

/// What there is to be sent of a file.
#[derive(Clone)]
enum Content {
    Memory(Bytes),
    Kept(Kept),
    /// Not read as yet; where it is to be read, there.
    File(File, AnswerMemory),
}

impl Files {
    /// How many bytes each worker keeps of small files, unless told otherwise.
    pub const CACHE_BYTES_MAX: usize = 32 << 20;

    /// How many bytes of files each worker holds for answers that their clients have not taken
    /// yet, beside the cache and unless told otherwise.
    pub const ANSWER_BYTES_MAX: usize = answer_memory::ANSWER_BYTES_MAX;

    /// Serves what lies beneath `root`.
    pub fn new(root: Root) -> Self {
        Self {
            folder: Folder::new(root),
            cache: RefCell::new(Cache::new(0)),
            shelf: Shelf::new(0),
            cache_bytes_max: Self::CACHE_BYTES_MAX,
            answer_bytes_max: Self::ANSWER_BYTES_MAX,
            memory: AnswerMemory::new(0),
        }
        .bounded()
    }

    /// The same with up to `bytes_max` bytes of memory for small files; 0: none are kept.
    #[must_use]
    pub fn with_cache(mut self, bytes_max: usize) -> Self {
        self.cache_bytes_max = bytes_max;
        self.bounded()
    }

    /// The same with up to `bytes_max` bytes of memory for content that is in answers, beside the
    /// cache. When all of it is in use, small files, too, are sent from the file itself: that costs
    /// more, and one that is written to meanwhile may be sent half old and half new.
    #[must_use]
    pub fn with_answer_memory(mut self, bytes_max: usize) -> Self {
        self.answer_bytes_max = bytes_max;
        self.bounded()
    }

    /// With nothing in memory, and the bounds as they are.
    fn bounded(mut self) -> Self {
        let (cache_bytes_max, answer_bytes_max) = (self.cache_bytes_max, self.answer_bytes_max);
        self.cache = RefCell::new(Cache::new(cache_bytes_max));
        self.shelf = Shelf::new(cache_bytes_max);
        self.memory = AnswerMemory::new(cache_bytes_max.saturating_add(answer_bytes_max));
        self
    }

    /// Looks at what `path` names. `known` is what the cache has of it and is to be compared.
    async fn look(
        &self,
        request: &Request,
        path: &Relative<'_>,
        known: Option<Rc<Small>>,
    ) -> Response {
        if self.folder.look().await {
            self.cache.borrow_mut().clear();
        }
        // Knowledge of a file is as old as that of the folder.
        let looked_ms = self.folder.looked_ms();
        let name = path.file();
        let opened = self.folder.open_file(&name).await;
        if let Some(known) = known
            && known.holds(&opened)
        {
            let mut cache = self.cache.borrow_mut();
            let is_kept = opened.is_ok() && cache.confirm(path.as_bytes(), &known, looked_ms);
            drop(cache);
            return match is_kept {
                true => self.shelve(path, known, looked_ms).answer(request),
                false => known.answer(request),
            };
        }
        let file = match opened {
            Ok(Entry::File(file)) => file,
            other => {
                self.cache.borrow_mut().remove(path.as_bytes());
                return match other {
                    Ok(Entry::Directory) if !path.is_directory() => redirect(request),
                    Ok(_) => refusal(StatusCode::NOT_FOUND),
                    Err(error) => refusal_of(&error),
                };
            }
        };
        let read = Small::read(&name, &file, &self.memory).await;
        if let Ok(Some(small)) = read {
            let small = Rc::new(small);
            self.keep(path, &small, looked_ms);
            return small.answer(request);
        }
        self.cache.borrow_mut().remove(path.as_bytes());
        match read {
            Err(error) => refusal_of(&error),
            Ok(_) => {
                let facts = Facts::new(&name, *file.metadata(), now_seconds());
                answer(request, &facts, Content::File(file, self.memory.clone()))
            }
        }
    }

    /// Keeps a small file, if it is quiet.
    fn keep(&self, path: &Relative<'_>, small: &Rc<Small>, looked_ms: u64) {
        let (mut cache, len) = (self.cache.borrow_mut(), small.content.len());
        if cache.takes(len) && is_quiet(&small.facts.metadata) {
            let len = usize::try_from(len).expect("a small file");
            cache.insert(path.as_bytes(), small.clone(), len, looked_ms);
        } else {
            cache.remove(path.as_bytes());
        }
    }

    /// Puts content of a kept file on the shelf, if that makes it cheaper to send and there is
    /// room. Not before it is looked at again: by then it was asked for twice, and did not change.
    fn shelve(&self, path: &Relative<'_>, small: Rc<Small>, looked_ms: u64) -> Rc<Small> {
        let Content::Memory(bytes) = &small.content else {
            return small;
        };
        if !SHELF_BYTES.contains(&bytes.len()) {
            return small;
        }
        let Ok(kept) = self.shelf.keep(bytes) else {
            if let Some(growth) = self.shelf.grow() {
                spawn_detached(growth);
            }
            return small;
        };
        let (facts, content) = (small.facts.clone(), Content::Kept(kept));
        let small = Rc::new(Small { facts, content });
        self.keep(path, &small, looked_ms);
        small
    }
}

impl Service for Files {
    async fn call(&self, request: Request) -> Response {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return refusal(StatusCode::METHOD_NOT_ALLOWED)
                .with_header(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        let Some(path) = Relative::read(request.path_bytes()) else {
            return refusal(StatusCode::NOT_FOUND);
        };
        let found = self.cache.borrow_mut().find(path.as_bytes(), now_ms());
        let known = match found {
            Found::Fresh(small) => return small.answer(&request),
            Found::Due(small) => Some(small),
            Found::Missing => None,
        };
        // In a box: who is answered from memory needs no room for it.
        Box::pin(self.look(&request, &path, known)).await
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Small {
    /// Reads the file called `name` whole; none if it is large, or changes all the time, or all
    /// memory is in use.
    async fn read(name: &[u8], file: &File, memory: &AnswerMemory) -> io::Result<Option<Self>> {
        let mut metadata = *file.metadata();
        for reads_left in (0..READS_MAX).rev() {
            if metadata.len() > SMALL_BYTES_MAX || memory.is_full() {
                break;
            }
            let len = usize::try_from(metadata.len()).expect("a small file");
            let share = memory.share(len);
            let content = file.read_vec(0, len).await?;
            let before = std::mem::replace(&mut metadata, file.metadata_now()?);
            if before == metadata && (is_quiet(&metadata) || reads_left == 0) {
                let facts = Facts::new(name, metadata, now_seconds());
                let content = Content::Memory(share.hold(content));
                return Ok(Some(Self { facts, content }));
            }
            sleep_ms(QUIET_MS).await;
            metadata = file.metadata_now()?;
        }
        Ok(None)
    }

    /// Whether it is to be served still: its file is as it was, or cannot be looked at, for then
    /// what was there half a second ago is better than nothing.
    fn holds(&self, opened: &io::Result<Entry>) -> bool {
        match opened {
            Ok(Entry::File(file)) => *file.metadata() == self.facts.metadata,
            Ok(_) => false,
            Err(error) => Obstacle::of(error) == Obstacle::Exhausted,
        }
    }

    #[inline]
    fn answer(&self, request: &Request) -> Response {
        answer(request, &self.facts, self.content.clone())
    }
}

impl Content {
    /// Its length in bytes.
    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Kept(kept) => kept.len(),
            Self::File(file, _) => file.metadata().len(),
        }
    }

    /// A part of it, which it has.
    fn part(self, part: Range<u64>) -> Body {
        match self {
            Self::Memory(bytes) => {
                let at = |offset| usize::try_from(offset).expect("an offset in memory");
                bytes.slice(at(part.start)..at(part.end)).into()
            }
            Self::Kept(kept) => Body::kept(kept.part(part)),
            Self::File(file, memory) => Body::file_through(memory, file, part),
        }
    }
}

/// The answer to a request for a file that is there.
fn answer(request: &Request, facts: &Facts, content: Content) -> Response {
    let length = content.len();
    let requested = if has_conditions(request.headers()) {
        match facts
            .validators()
            .judge(request.method(), request.headers())
        {
            Outcome::Proceed => requested(request, facts, length),
            Outcome::NotModified => return not_modified(facts),
            Outcome::Failed => return refusal(StatusCode::PRECONDITION_FAILED),
        }
    } else {
        Requested::Whole
    };
    let response = |status| Response::new(status).with_field_lines(facts.fields.clone());
    match requested {
        Requested::Whole => response(StatusCode::OK).with_body(content.part(0..length)),
        Requested::Part(part) => {
            let (name, value) = content_range(Some(part.clone()), length);
            response(StatusCode::PARTIAL_CONTENT)
                .with_header(name, value)
                .with_body(content.part(part))
        }
        Requested::Unsatisfiable => {
            let (name, value) = content_range(None, length);
            refusal(StatusCode::RANGE_NOT_SATISFIABLE).with_header(name, value)
        }
    }
}

/// Whether an answer depends on more than the path: all such fields begin alike.
fn has_conditions(mut fields: Fields<'_>) -> bool {
    fields.any(|(name, _)| {
        let begins = |with: &[u8]| {
            name.get(..with.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(with))
        };
        begins(b"if-") || begins(b"range")
    })
}

/// What is to be sent of `length` bytes. Ranges are GET's alone (RFC 9110 §14.2).
fn requested(request: &Request, facts: &Facts, length: u64) -> Requested {
    let fields = request.headers();
    let mut ranges = fields.get_all("range");
    match (ranges.next(), ranges.next()) {
        (Some(range), None)
            if *request.method() == Method::GET
                && facts.validators().if_range(fields, now_seconds()) =>
        {
            Requested::of(range, length)
        }
        _ => Requested::Whole,
    }
}

/// A response with nothing but the validators of what it is about.
fn not_modified(facts: &Facts) -> Response {
    Response::new(StatusCode::NOT_MODIFIED)
        .with_header(ETAG, facts.etag.clone())
        .with_header(LAST_MODIFIED, facts.last_modified.clone())
}

fn content_range(part: Option<Range<u64>>, length: u64) -> (HeaderName, HeaderValue) {
    let text = ContentRange { part, length }.to_string();
    (CONTENT_RANGE, HeaderValue::try_from(text).expect("digits"))
}

/// To the same place with a slash at its end.
fn redirect(request: &Request) -> Response {
    match HeaderValue::try_from(with_slash(request.path(), request.query())) {
        Ok(location) => refusal(StatusCode::MOVED_PERMANENTLY).with_header(LOCATION, location),
        Err(_) => refusal(StatusCode::NOT_FOUND),
    }
}

/// The answer where a file cannot be had.
fn refusal_of(error: &io::Error) -> Response {
    match Obstacle::of(error) {
        Obstacle::NotFound => refusal(StatusCode::NOT_FOUND),
        Obstacle::Exhausted => refusal(StatusCode::SERVICE_UNAVAILABLE)
            .with_header(RETRY_AFTER, HeaderValue::from_static("1")),
        Obstacle::Forbidden => refusal(StatusCode::FORBIDDEN),
        Obstacle::Broken => refusal(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// An answer that has nothing to show but its status.
fn refusal(status: StatusCode) -> Response {
    let reason = status.canonical_reason().unwrap_or_default();
    Response::html(format!("<h1>{reason}</h1>")).with_status(status)
}

/// Whether it has not been changed just now. A time that is yet to come is none at which it was.
fn is_quiet(metadata: &Metadata) -> bool {
    let age = SystemTime::now().duration_since(metadata.modified());
    age.map_or(true, |age| age >= Duration::from_millis(QUIET_MS))
}

fn now_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}
