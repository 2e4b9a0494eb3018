//! A body that is read from a file while it is sent. Its length is fixed when it is made; if the
//! file turns out to be shorter, reading fails.
//!
//! Content in the page cache is sent as a span of the file, without reading it. A blocking task
//! reads the rest into our memory. When the limit of that memory is reached, the task only makes
//! the kernel load the content into the page cache, and it is then sent as a span, too. Some file
//! systems do not keep loaded content there, or cannot report it. From these, small parts are read,
//! each after the one before it is sent.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::body::BodyError;
use super::response_memory::{CountedBytes, ResponseMemory};
use crate::buf::{FileSpan, Part};
use crate::fs::{File, Loading, Reading};

/// Bytes in one part: many enough to make the cost of the system call small, few enough that the
/// part is still in the processor's cache when it is sent.
const PART_BYTES: u64 = 64 << 10;

/// Bytes in one part when the memory limit is reached. Every client may still use that much.
const SMALL_PART_BYTES: u64 = 16 << 10;

/// The largest span, in bytes.
const SPAN_BYTES_MAX: u64 = 256 << 10;
/// The smallest span, in bytes. Reading and copying fewer costs less than sending from the file.
const SPAN_BYTES_MIN: u64 = 32 << 10;

/// The next part of a body, in the form that is cheapest to send.
#[derive(Debug)]
pub(crate) enum BodyPart {
    /// Bytes in our memory.
    Part(Part),
    /// Bytes that the kernel sends from a file.
    Span(FileSpan),
}

/// The range of the file that is not yet read, and the blocking task that works on its start.
#[derive(Debug)]
pub(super) struct FileBody {
    file: File,
    left: Range<u64>,
    memory: ResponseMemory,
    reading: Option<(Reading, CountedBytes)>,
    /// A blocking task that loads the next span into the page cache.
    loading: Option<Loading>,
    /// A loaded span was not in the page cache afterwards. Loading is not tried again.
    is_loading_useless: bool,
}

impl FileBody {
    /// The bytes of `file` in `range`. `memory` counts those that are read into our memory.
    pub(super) fn new(file: File, range: Range<u64>, memory: ResponseMemory) -> Self {
        Self {
            file,
            left: range,
            memory,
            reading: None,
            loading: None,
            is_loading_useless: false,
        }
    }

    /// The number of bytes that are not yet read.
    pub(super) fn left(&self) -> u64 {
        self.left.end.saturating_sub(self.left.start)
    }

    /// Whether the memory limit is reached. The caller must then send each part before it asks for
    /// the next one.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.memory.is_full()
    }

    /// Takes the next bytes as a span of the file, if at least `len_min` bytes are left and they
    /// are in the page cache.
    fn take_span(&mut self, len_min: u64) -> Option<FileSpan> {
        let len = self.left().min(SPAN_BYTES_MAX);
        if len < len_min {
            return None;
        }
        let len = usize::try_from(len).expect("a span is small");
        let span = self.file.span(self.left.start, len)?;
        self.left.start += len as u64;
        Some(span)
    }

    /// The next part or span; `None` at the end.
    pub(super) fn poll_body_part(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<BodyPart>, BodyError>> {
        if self.reading.is_none() && self.loading.is_none() {
            let is_short = self.is_short_of_memory();
            if let Some(span) = self.take_span(if is_short { 1 } else { SPAN_BYTES_MIN }) {
                return Poll::Ready(Ok(Some(BodyPart::Span(span))));
            }
            let left = self.left();
            if is_short && !self.is_loading_useless && left > 0 {
                self.loading = Some(self.file.load(self.left.start, left.min(SPAN_BYTES_MAX)));
            }
        }
        if let Some(loading) = &mut self.loading {
            let loaded = ready!(Pin::new(loading).poll(context));
            self.loading = None;
            if !matches!(loaded, Ok(Ok(()))) {
                return Poll::Ready(Err(BodyError::Unreadable));
            }
            match self.take_span(1) {
                Some(span) => return Poll::Ready(Ok(Some(BodyPart::Span(span)))),
                None => self.is_loading_useless = true,
            }
        }
        self.poll_part(context)
            .map_ok(|part| part.map(BodyPart::Part))
    }

    /// The next part, read into our memory; `None` at the end.
    pub(super) fn poll_part(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Part>, BodyError>> {
        let part_bytes = match self.is_short_of_memory() {
            true => SMALL_PART_BYTES,
            false => PART_BYTES,
        };
        let want = self.left().min(part_bytes);
        if want == 0 {
            return Poll::Ready(Ok(None));
        }
        if self.reading.is_none() {
            let want = usize::try_from(want).expect("a part is small");
            let counted = self.memory.count(want);
            let mut bytes = Vec::with_capacity(want);
            match self.file.read_cached(&mut bytes, self.left.start) {
                Ok(true) => return Poll::Ready(self.read(bytes, counted)),
                Ok(false) => {
                    let reading = self.file.read_rest(bytes, self.left.start);
                    self.reading = Some((reading, counted));
                }
                Err(_) => return Poll::Ready(Err(BodyError::Unreadable)),
            }
        }
        let (reading, _) = self.reading.as_mut().expect("a read was started above");
        let read = ready!(Pin::new(reading).poll(context));
        let (_, counted) = self.reading.take().expect("the read was polled above");
        Poll::Ready(match read {
            Ok(Ok(bytes)) => self.read(bytes, counted),
            _ => Err(BodyError::Unreadable),
        })
    }

    /// Makes a part of bytes that were read. No bytes mean that the file was truncated.
    fn read(
        &mut self,
        mut bytes: Vec<u8>,
        counted: CountedBytes,
    ) -> Result<Option<Part>, BodyError> {
        bytes.truncate(usize::try_from(self.left()).unwrap_or(usize::MAX));
        if bytes.is_empty() {
            return Err(BodyError::Unreadable);
        }
        self.left.start += bytes.len() as u64;
        Ok(Some(Part::Bytes(counted.wrap(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::fs::{Entry, Root};
    use crate::{EngineChoice, run_with};

    const LEN: usize = 700_001;

    /// Reads a file's body: its content, and for each part its length and whether it was a span.
    async fn body_parts(memory: &ResponseMemory, root: &Root) -> (Vec<u8>, Vec<(bool, usize)>) {
        let Ok(Entry::File(file)) = root.open_file("file").await else {
            panic!("not a regular file");
        };
        let mut body = FileBody::new(file.clone(), 1..LEN as u64, memory.clone());
        let (mut content, mut body_parts) = (Vec::new(), Vec::new());
        while let Some(body_part) = poll_fn(|context| body.poll_body_part(context))
            .await
            .unwrap()
        {
            let (is_span, bytes) = match body_part {
                BodyPart::Part(part) => (false, part.to_vec()),
                BodyPart::Span(span) => {
                    let bytes = file.read_at(span.offset(), span.len()).await.unwrap();
                    (true, bytes.to_vec())
                }
            };
            body_parts.push((is_span, bytes.len()));
            content.extend(bytes);
        }
        (content, body_parts)
    }

    /// At the memory limit the whole file is sent as spans, whether it is in the page cache or not.
    /// Below the limit, content that is not in the page cache is read into memory instead.
    #[test]
    fn at_the_memory_limit_a_whole_file_is_sent_as_spans() {
        let directory = std::env::temp_dir().join(format!("coring-body-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let content: Vec<u8> = (0..=250).cycle().take(LEN).collect();
        std::fs::write(directory.join("file"), &content).unwrap();
        let on_disk = std::fs::File::open(directory.join("file")).unwrap();
        for engine in [EngineChoice::Auto, EngineChoice::Epoll] {
            let (root, content) = (Root::open(&directory).unwrap(), content.clone());
            let on_disk = on_disk.try_clone().unwrap();
            let test = async move {
                for (bytes_max, spans) in [(0, 3), (1, 2), (usize::MAX, 2)] {
                    for cold in [false, true] {
                        if cold {
                            on_disk.sync_all().unwrap();
                            let advice = rustix::fs::Advice::DontNeed;
                            rustix::fs::fadvise(&on_disk, 0, None, advice).unwrap();
                        }
                        let memory = ResponseMemory::new(bytes_max);
                        let (read, body_parts) = body_parts(&memory, &root).await;
                        assert!(read == content[1..]);
                        let is_span = |body_part: &&(bool, usize)| body_part.0;
                        let count = body_parts.iter().filter(is_span).count();
                        if !cold || bytes_max == 0 {
                            assert!(count >= spans, "{bytes_max} {cold}: {body_parts:?}");
                        }
                        assert_eq!(memory.is_full(), bytes_max == 0);
                    }
                }
            };
            run_with(engine, test).unwrap();
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
