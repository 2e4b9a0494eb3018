//! A body that is read from a file while it is sent, part by part. It promises its length, and
//! breaks off when the file does not keep it.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::body::BodyError;
use crate::buf::{FileSpan, Part};
use crate::fs::{File, Reading};

/// Bytes in one part: enough for a system call to be cheap, and few enough for what is read to be
/// still in the processor's cache when it is sent.
const PART_BYTES: u64 = 64 << 10;

/// The most bytes in one span.
const SPAN_BYTES_MAX: u64 = 256 << 10;
/// Fewer bytes than this are read and copied for less than it costs to send them from the file.
const SPAN_BYTES_MIN: u64 = 32 << 10;

/// What is left to be read, and the part that is being read on another thread.
#[derive(Debug)]
pub(super) struct FileBody {
    file: File,
    left: Range<u64>,
    reading: Option<Reading>,
}

impl FileBody {
    pub(super) fn new(file: File, range: Range<u64>) -> Self {
        Self {
            file,
            left: range,
            reading: None,
        }
    }

    /// How many bytes are not yet read.
    pub(super) fn left(&self) -> u64 {
        self.left.end.saturating_sub(self.left.start)
    }

    /// The next bytes as a span of the file, if there are enough of them for that to pay and they
    /// are in memory.
    pub(super) fn take_span(&mut self) -> Option<FileSpan> {
        let len = self.left().min(SPAN_BYTES_MAX);
        if len < SPAN_BYTES_MIN || self.reading.is_some() {
            return None;
        }
        let len = usize::try_from(len).expect("a span is small");
        let span = self.file.span(self.left.start, len)?;
        self.left.start += len as u64;
        Some(span)
    }

    /// The next part; none at the end.
    pub(super) fn poll_part(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Part>, BodyError>> {
        let want = self.left().min(PART_BYTES);
        if want == 0 {
            return Poll::Ready(Ok(None));
        }
        if self.reading.is_none() {
            let mut bytes = Vec::with_capacity(usize::try_from(want).expect("a part is small"));
            match self.file.read_cached(&mut bytes, self.left.start) {
                Ok(true) => return Poll::Ready(self.read(bytes, want)),
                Ok(false) => self.reading = Some(self.file.read_rest(bytes, self.left.start)),
                Err(_) => return Poll::Ready(Err(BodyError::Unreadable)),
            }
        }
        let reading = self.reading.as_mut().expect("it was started above");
        let read = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        Poll::Ready(match read {
            Ok(bytes) => self.read(bytes, want),
            Err(_) => Err(BodyError::Unreadable),
        })
    }

    /// So much was read. Of a file that is shorter than it was, nothing more will come.
    fn read(&mut self, mut bytes: Vec<u8>, want: u64) -> Result<Option<Part>, BodyError> {
        bytes.truncate(usize::try_from(want).expect("a part is small"));
        if bytes.is_empty() {
            return Err(BodyError::Unreadable);
        }
        self.left.start += bytes.len() as u64;
        Ok(Some(Part::Bytes(bytes.into())))
    }
}
