//! A span of an open file that goes out without passing through our memory; never reads it.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::sys::mutants::mutate;

/// Bytes of a file, by their place in it. It keeps the file open.
#[derive(Clone)]
pub struct FileSpan {
    file: Arc<OwnedFd>,
    offset: u64,
    len: usize,
}

#[allow(clippy::len_without_is_empty, reason = "a span has a byte at least")]
impl FileSpan {
    /// The `len` bytes of `file` from `offset` on.
    pub fn new(file: Arc<OwnedFd>, offset: u64, len: usize) -> Self {
        Self { file, offset, len }
    }

    /// Its place in the file, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Leaves out the first `n` bytes.
    ///
    /// # Panics
    /// When there are fewer.
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
