//! The kernel's side of a provided-buffer ring: it takes from the head what the engine puts at
//! the tail, and knows nothing of the engine but the entries.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// The buffers of one ring.
#[derive(Debug)]
pub(super) struct Provided {
    entries: NonNull<BufRingEntry>,
    capacity: u16,
    head: u16,
    /// Buffers in completions that were not yet reaped.
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

    /// Buffers to take.
    pub(super) fn len(&self) -> u16 {
        // SAFETY: the engine keeps the entries until its ring is gone.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: as above; both sides touch the tail as an atomic.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.load(Ordering::Acquire).wrapping_sub(self.head)
    }

    /// Takes a buffer, puts what `fill` says into it, and returns its number. There must be one.
    pub(super) fn take(&mut self, bytes: &[u8]) -> u16 {
        let (number, address, len) = self.entry(0);
        assert!(bytes.len() <= len, "what is received fits its buffer");
        let place = std::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: the engine lends `len` bytes at `address` until the completion is reaped.
        unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.head = self.head.wrapping_add(1);
        self.posted += 1;
        number
    }

    /// The size of the buffer that would be taken next.
    pub(super) fn next_len(&self) -> usize {
        self.entry(0).2
    }

    /// So many completions with a buffer were reaped.
    pub(super) fn reaped(&mut self, count: u16) {
        self.posted -= count;
    }

    /// What is wrong with what the engine has put in, if anything is. `is_topped_up`: it has just
    /// filled every empty place.
    pub(super) fn fault(&self, is_topped_up: bool) -> Option<String> {
        let len = self.len();
        if len > self.capacity {
            return Some(format!("{len} buffers in a ring of {}", self.capacity));
        }
        if is_topped_up && len + self.posted != self.capacity {
            let (posted, capacity) = (self.posted, self.capacity);
            return Some(format!(
                "of {capacity} buffers {len} are in the ring and {posted} with completions"
            ));
        }
        let mut seen: Vec<(u16, usize)> = (0..len)
            .map(|ahead| self.entry(ahead))
            .map(|(number, address, _)| (number, address))
            .collect();
        seen.sort_unstable();
        let number_twice = seen.windows(2).any(|pair| pair[0].0 == pair[1].0);
        seen.sort_unstable_by_key(|(_, address)| *address);
        let memory_twice = seen.windows(2).any(|pair| pair[0].1 == pair[1].1);
        (number_twice || memory_twice).then(|| "a buffer was returned twice".to_owned())
    }

    /// Number, address and length of the buffer so far `ahead`.
    fn entry(&self, ahead: u16) -> (u16, usize, usize) {
        let index = usize::from(self.head.wrapping_add(ahead) & (self.capacity - 1));
        // SAFETY: index < capacity.
        let entry = unsafe { self.entries.add(index) };
        // SAFETY: the engine keeps the entries until its ring is gone, and writes none of those
        // before the tail.
        let entry = unsafe { entry.as_ref() };
        let address = usize::try_from(entry.addr()).expect("an address");
        (entry.bid(), address, entry.len() as usize)
    }
}
