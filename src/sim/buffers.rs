//! The kernel's side of a provided-buffer ring. The engine adds buffers at the tail, and the kernel
//! takes them from the head. The two share only the entries.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// The provided buffers of one ring.
#[derive(Debug)]
pub(super) struct Provided {
    entries: NonNull<BufRingEntry>,
    capacity: u16,
    head: u16,
    /// The number of buffers in completions that the engine has not yet reaped.
    posted: u16,
}

impl Provided {
    pub(super) fn new(entries: NonNull<BufRingEntry>, capacity: u16, head: u16) -> Self {
        Self {
            entries,
            capacity,
            head,
            posted: 0,
        }
    }

    /// The number of buffers that can be taken.
    pub(super) fn len(&self) -> u16 {
        // SAFETY: the engine keeps the entries until its ring is gone.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: as above; both sides touch the tail as an atomic.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.load(Ordering::Acquire).wrapping_sub(self.head)
    }

    /// Takes a buffer, copies `bytes` into it, and returns its number. There must be a buffer.
    pub(super) fn take(&mut self, bytes: &[u8]) -> u16 {
        let (number, address, len) = self.entry(0);
        assert!(bytes.len() <= len, "received bytes fit into their buffer");
        let place = std::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: the engine lends `len` bytes at `address` until the completion is reaped.
        unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.head = self.head.wrapping_add(1);
        self.posted += 1;
        number
    }

    /// The size of the next buffer, in bytes.
    pub(super) fn next_len(&self) -> usize {
        self.entry(0).2
    }

    /// Notes that the engine has reaped `count` completions with a buffer.
    pub(super) fn reaped(&mut self, count: u16) {
        self.posted -= count;
    }

    /// The first error in the engine's entries. `is_topped_up`: the engine has just filled every
    /// empty entry.
    pub(super) fn fault(&self, is_topped_up: bool) -> Option<String> {
        let len = self.len();
        if len > self.capacity {
            return Some(format!("{len} buffers in a ring of {}", self.capacity));
        }
        if is_topped_up && len + self.posted != self.capacity {
            let (posted, capacity) = (self.posted, self.capacity);
            return Some(format!(
                "of {capacity} buffers, {len} are in the ring and {posted} in completions"
            ));
        }
        let mut seen: Vec<(u16, usize)> = (0..len)
            .map(|ahead| self.entry(ahead))
            .map(|(number, address, _)| (number, address))
            .collect();
        seen.sort_unstable();
        let has_same_number = seen.windows(2).any(|pair| pair[0].0 == pair[1].0);
        seen.sort_unstable_by_key(|(_, address)| *address);
        let has_same_memory = seen.windows(2).any(|pair| pair[0].1 == pair[1].1);
        (has_same_number || has_same_memory).then(|| "a buffer was returned twice".to_owned())
    }

    /// Number, address and length of the buffer that is `ahead` places after the next one.
    fn entry(&self, ahead: u16) -> (u16, usize, usize) {
        let index = usize::from(self.head.wrapping_add(ahead) & (self.capacity - 1));
        // SAFETY: index < capacity.
        let entry = unsafe { self.entries.add(index) };
        // SAFETY: the engine keeps the entries until its ring is gone, and does not write those
        // before the tail.
        let entry = unsafe { entry.as_ref() };
        let address = usize::try_from(entry.addr()).expect("an address");
        (entry.bid(), address, entry.len() as usize)
    }
}
