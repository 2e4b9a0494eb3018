//! Counts the bytes that a worker holds in memory for responses, against a limit: file content, or
//! what Python processes have sent. File content counts from its allocation until the last response
//! that refers to it is sent or dropped, the parts of a body while they are in its queue. This
//! module neither reads files nor decides what happens at the limit.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// The default limit in bytes. A worker's file cache defaults to the same size, so files take up to
/// 64 MiB of its memory.
pub(super) const RESPONSE_BYTES_MAX: usize = 32 << 20;

thread_local! {
    /// Counts the file bodies that services make with [`Body::file`](super::Body::file).
    static OF_THREAD: ResponseMemory = ResponseMemory::new(RESPONSE_BYTES_MAX);
}

/// A count of bytes in use and its limit. Clones share both.
#[derive(Clone)]
pub(crate) struct ResponseMemory(Arc<Usage>);

struct Usage {
    /// Atomic, because content (`Bytes`) may be dropped on another thread.
    bytes_used: AtomicUsize,
    bytes_max: usize,
}

/// Bytes that count as in use until this is dropped.
#[derive(Debug)]
pub(super) struct CountedBytes {
    memory: ResponseMemory,
    bytes: usize,
}

impl ResponseMemory {
    /// A limit of `bytes_max` bytes. It is soft: content that is allocated while usage is below the
    /// limit may exceed it.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Usage {
            bytes_used: AtomicUsize::new(0),
            bytes_max,
        }))
    }

    /// The count of this thread, which [`Body::file`](super::Body::file) uses.
    pub(super) fn of_thread() -> Self {
        OF_THREAD.with(Self::clone)
    }

    /// Whether the limit is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.0.bytes_used.load(Ordering::Relaxed) >= self.0.bytes_max
    }

    /// Counts `bytes` as in use, even if that exceeds the limit.
    pub(super) fn count(&self, bytes: usize) -> CountedBytes {
        self.0.bytes_used.fetch_add(bytes, Ordering::Relaxed);
        let memory = self.clone();
        CountedBytes { memory, bytes }
    }
}

impl fmt::Debug for ResponseMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Usage {
            bytes_used,
            bytes_max,
        } = &*self.0;
        let bytes_used = bytes_used.load(Ordering::Relaxed);
        write!(f, "ResponseMemory({bytes_used} of {bytes_max} bytes)")
    }
}

impl CountedBytes {
    /// Counts `bytes` from now on.
    pub(super) fn set(&mut self, bytes: usize) {
        let used = &self.memory.0.bytes_used;
        used.fetch_add(bytes, Ordering::Relaxed);
        used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }

    /// Whether the limit is reached.
    pub(super) fn is_full(&self) -> bool {
        self.memory.is_full()
    }

    /// Wraps the content that was counted. The count ends when the last clone or slice of the
    /// returned `Bytes` is dropped.
    pub(super) fn wrap(self, content: Vec<u8>) -> Bytes {
        Bytes::from_owner(CountedContent {
            content,
            _counted: self,
        })
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        let usage = &self.memory.0;
        usage.bytes_used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The owner behind the `Bytes` that [`CountedBytes::wrap`] returns.
struct CountedContent {
    content: Vec<u8>,
    _counted: CountedBytes,
}

impl AsRef<[u8]> for CountedContent {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_counts_until_its_last_clone_is_dropped() {
        let memory = ResponseMemory::new(100);
        let content = memory.count(60).wrap(vec![1; 60]);
        assert!(!memory.is_full());
        let reading = memory.count(50);
        assert!(memory.is_full());
        drop(reading);
        assert!(!memory.is_full());
        let more = memory.count(40).wrap(vec![2; 40]);
        let part = content.slice(7..8);
        drop(content);
        assert!(memory.is_full());
        assert_eq!((&*part, &*more), (&[1][..], &[2; 40][..]));
        drop(part);
        assert!(!memory.is_full());
    }

    #[test]
    fn a_limit_may_be_zero_one_or_the_largest_number() {
        let none = ResponseMemory::new(0);
        assert!(none.is_full());
        let least = ResponseMemory::new(1);
        assert!(!least.is_full());
        let counted = least.count(10);
        assert!(least.is_full());
        drop(counted);
        assert!(!least.is_full());
        let any = ResponseMemory::new(usize::MAX);
        let _counted = any.count(usize::MAX - 1);
        assert!(!any.is_full());
    }
}
