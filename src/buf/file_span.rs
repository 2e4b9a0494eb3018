//! A span of an open file, to be sent with sendfile(2) instead of being read into memory first.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::sys::mutants::mutate;

/// A span of bytes of a file, by offset and length. It keeps the file open.
#[derive(Clone)]
pub struct FileSpan {
    file: Arc<OwnedFd>,
    offset: u64,
    len: usize,
}

#[allow(
    clippy::len_without_is_empty,
    reason = "a span is never empty while it is queued"
)]
impl FileSpan {
    /// The `len` bytes of `file` that begin at `offset`.
    pub fn new(file: Arc<OwnedFd>, offset: u64, len: usize) -> Self {
        Self { file, offset, len }
    }

    /// The offset of the first byte in the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Removes the first `n` bytes.
    ///
    /// # Panics
    /// If the span has fewer bytes.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len, "cannot advance past the end of a span");
        mutate!(SpanFromStart, (), self.offset += n as u64);
        self.len -= n;
    }
}

impl AsFd for FileSpan {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for FileSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileSpan({} bytes from {})", self.len, self.offset)
    }
}
