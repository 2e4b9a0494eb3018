//! A body that is read from a file while it is sent, part by part. It promises its length, and
//! breaks off when the file does not keep it.
//!
//! Content that the kernel has in memory goes out as a span of the file, without being read. The
//! rest is read on another thread into our memory. When that is all in use, the thread only has the
//! kernel load the content, which then goes out as a span as well. Where that is not possible (the
//! file system does not keep what was read, or cannot tell), small parts are read, each when the
//! one before it is out.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::answer_memory::{AnswerMemory, Share};
use super::body::BodyError;
use crate::buf::{FileSpan, Part};
use crate::fs::{File, Loading, Reading};

/// Bytes in one part: enough for a system call to be cheap, and few enough for what is read to be
/// still in the processor's cache when it is sent.
const PART_BYTES: u64 = 64 << 10;

/// Bytes in one part when all memory is in use: what each of many clients may still take.
const SMALL_PART_BYTES: u64 = 16 << 10;

/// The most bytes in one span.
const SPAN_BYTES_MAX: u64 = 256 << 10;
/// Fewer bytes than this are read and copied for less than it costs to send them from the file.
const SPAN_BYTES_MIN: u64 = 32 << 10;

/// The next piece of a body, as it is best sent.
#[derive(Debug)]
pub(crate) enum Piece {
    Part(Part),
    Span(FileSpan),
}

/// What is left to be read, and the part that is being read on another thread.
#[derive(Debug)]
pub(super) struct FileBody {
    file: File,
    left: Range<u64>,
    memory: AnswerMemory,
    reading: Option<(Reading, Share)>,
    /// The kernel loads what comes next.
    loading: Option<Loading>,
    /// The span had left the page cache again after it was loaded.
    is_loaded_in_vain: bool,
}

impl FileBody {
    /// The bytes of `file` in `range`, which pass through `memory` if need be.
    pub(super) fn new(file: File, range: Range<u64>, memory: AnswerMemory) -> Self {
        Self {
            file,
            left: range,
            memory,
            reading: None,
            loading: None,
            is_loaded_in_vain: false,
        }
    }

    /// How many bytes are not yet read.
    pub(super) fn left(&self) -> u64 {
        self.left.end.saturating_sub(self.left.start)
    }

    /// Whether all memory is in use: no part is to be asked for before the last one is out.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.memory.is_full()
    }

    /// The next bytes as a span of the file, if they are `len_min` at least and in the kernel's
    /// memory.
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

    /// The next piece; none at the end.
    pub(super) fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Piece>, BodyError>> {
        if self.reading.is_none() && self.loading.is_none() {
            let is_short = self.is_short_of_memory();
            if let Some(span) = self.take_span(if is_short { 1 } else { SPAN_BYTES_MIN }) {
                return Poll::Ready(Ok(Some(Piece::Span(span))));
            }
            let left = self.left();
            if is_short && !self.is_loaded_in_vain && left > 0 {
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
                Some(span) => return Poll::Ready(Ok(Some(Piece::Span(span)))),
                None => self.is_loaded_in_vain = true,
            }
        }
        self.poll_part(context).map_ok(|part| part.map(Piece::Part))
    }

    /// The next part; none at the end.
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
            let share = self.memory.share(want);
            let mut bytes = Vec::with_capacity(want);
            match self.file.read_cached(&mut bytes, self.left.start) {
                Ok(true) => return Poll::Ready(self.read(bytes, share)),
                Ok(false) => {
                    let reading = self.file.read_rest(bytes, self.left.start);
                    self.reading = Some((reading, share));
                }
                Err(_) => return Poll::Ready(Err(BodyError::Unreadable)),
            }
        }
        let (reading, _) = self.reading.as_mut().expect("it was started above");
        let read = ready!(Pin::new(reading).poll(context));
        let (_, share) = self.reading.take().expect("it has ended");
        Poll::Ready(match read {
            Ok(Ok(bytes)) => self.read(bytes, share),
            _ => Err(BodyError::Unreadable),
        })
    }

    /// These bytes were read. Of a file that is shorter than it was, nothing more will come.
    fn read(&mut self, mut bytes: Vec<u8>, share: Share) -> Result<Option<Part>, BodyError> {
        bytes.truncate(usize::try_from(self.left()).unwrap_or(usize::MAX));
        if bytes.is_empty() {
            return Err(BodyError::Unreadable);
        }
        self.left.start += bytes.len() as u64;
        Ok(Some(Part::Bytes(share.hold(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::fs::{Entry, Root};
    use crate::{EngineChoice, run_with};

    const LEN: usize = 700_001;

    /// The pieces of a file's body, and whether each was a span.
    async fn pieces(memory: &AnswerMemory, root: &Root) -> (Vec<u8>, Vec<(bool, usize)>) {
        let Ok(Entry::File(file)) = root.open_file("file").await else {
            panic!("a file");
        };
        let mut body = FileBody::new(file.clone(), 1..LEN as u64, memory.clone());
        let (mut content, mut pieces) = (Vec::new(), Vec::new());
        while let Some(piece) = poll_fn(|context| body.poll_piece(context)).await.unwrap() {
            let (is_span, bytes) = match piece {
                Piece::Part(part) => (false, part.to_vec()),
                Piece::Span(span) => {
                    let bytes = file.read_at(span.offset(), span.len()).await.unwrap();
                    (true, bytes.to_vec())
                }
            };
            pieces.push((is_span, bytes.len()));
            content.extend(bytes);
        }
        (content, pieces)
    }

    /// Nothing passes through memory that is in use, whether the file is in the kernel's memory or
    /// not, and when there is memory again, its end is read.
    #[test]
    fn without_memory_all_of_a_file_goes_out_as_spans() {
        let folder = std::env::temp_dir().join(format!("coring-body-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let content: Vec<u8> = (0..=250).cycle().take(LEN).collect();
        std::fs::write(folder.join("file"), &content).unwrap();
        let on_disk = std::fs::File::open(folder.join("file")).unwrap();
        for engine in [EngineChoice::Auto, EngineChoice::Epoll] {
            let (root, content) = (Root::open(&folder).unwrap(), content.clone());
            let on_disk = on_disk.try_clone().unwrap();
            let test = async move {
                for (bytes_max, spans) in [(0, 3), (1, 2), (usize::MAX, 2)] {
                    for cold in [false, true] {
                        if cold {
                            on_disk.sync_all().unwrap();
                            let advice = rustix::fs::Advice::DontNeed;
                            rustix::fs::fadvise(&on_disk, 0, None, advice).unwrap();
                        }
                        let memory = AnswerMemory::new(bytes_max);
                        let (read, pieces) = pieces(&memory, &root).await;
                        assert!(read == content[1..]);
                        let is_span = |piece: &&(bool, usize)| piece.0;
                        let count = pieces.iter().filter(is_span).count();
                        if !cold || bytes_max == 0 {
                            assert!(count >= spans, "{bytes_max} {cold}: {pieces:?}");
                        }
                        assert_eq!(memory.is_full(), bytes_max == 0);
                    }
                }
            };
            run_with(engine, test).unwrap();
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
