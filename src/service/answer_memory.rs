//! How much memory a worker has in use for the content of files that it sends, and how much it may
//! use. Content counts from the moment that memory is allocated for it until the last answer that
//! holds it has been sent or dropped. This module does not know files, nor what happens when all
//! of the memory is in use.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Unless told otherwise: with each worker's cache as large, files cost it 64 MiB at most.
pub(super) const ANSWER_BYTES_MAX: usize = 32 << 20;

thread_local! {
    /// For the files that services send themselves.
    static OF_THREAD: AnswerMemory = AnswerMemory::new(ANSWER_BYTES_MAX);
}

/// A bounded amount of memory. Clones have it together.
#[derive(Clone)]
pub(super) struct AnswerMemory(Arc<Account>);

struct Account {
    /// Atomic, for what holds it may be dropped on another thread.
    bytes_used: AtomicUsize,
    bytes_max: usize,
}

/// Bytes that count as used until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    memory: AnswerMemory,
    bytes: usize,
}

impl AnswerMemory {
    /// Up to `bytes_max` bytes, and the last content that was begun below that.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Account {
            bytes_used: AtomicUsize::new(0),
            bytes_max,
        }))
    }

    /// This thread's own.
    pub(super) fn of_thread() -> Self {
        OF_THREAD.with(Self::clone)
    }

    /// Whether all of it is in use.
    pub(super) fn is_full(&self) -> bool {
        self.0.bytes_used.load(Ordering::Relaxed) >= self.0.bytes_max
    }

    /// Counts `bytes` as used, also where that is more than there may be.
    pub(super) fn share(&self, bytes: usize) -> Share {
        self.0.bytes_used.fetch_add(bytes, Ordering::Relaxed);
        let memory = self.clone();
        Share { memory, bytes }
    }
}

impl fmt::Debug for AnswerMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Account {
            bytes_used,
            bytes_max,
        } = &*self.0;
        let bytes_used = bytes_used.load(Ordering::Relaxed);
        write!(f, "AnswerMemory({bytes_used} of {bytes_max} bytes)")
    }
}

impl Share {
    /// The content for which this was counted; it counts as long as anything holds it.
    pub(super) fn hold(self, content: Vec<u8>) -> Bytes {
        Bytes::from_owner(Held {
            content,
            _share: self,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let account = &self.memory.0;
        account.bytes_used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Held {
    content: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_counts_until_its_last_holder_is_gone() {
        let memory = AnswerMemory::new(100);
        let content = memory.share(60).hold(vec![1; 60]);
        assert!(!memory.is_full());
        let reading = memory.share(50);
        assert!(memory.is_full());
        drop(reading);
        assert!(!memory.is_full());
        let more = memory.share(40).hold(vec![2; 40]);
        let part = content.slice(7..8);
        drop(content);
        assert!(memory.is_full());
        assert_eq!((&*part, &*more), (&[1][..], &[2; 40][..]));
        drop(part);
        assert!(!memory.is_full());
    }

    #[test]
    fn a_bound_may_be_any_number() {
        let none = AnswerMemory::new(0);
        assert!(none.is_full());
        let least = AnswerMemory::new(1);
        assert!(!least.is_full());
        let share = least.share(10);
        assert!(least.is_full());
        drop(share);
        assert!(!least.is_full());
        let any = AnswerMemory::new(usize::MAX);
        let _share = any.share(usize::MAX - 1);
        assert!(!any.is_full());
    }
}
