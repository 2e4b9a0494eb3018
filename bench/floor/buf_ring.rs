//! The ring of provided buffers: memory lent to the kernel, which picks a buffer for each receive.
//! The received bytes are not interpreted here.

use std::alloc::{self, Layout};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::shared::RECV_BUFFER_BYTES;

const BUFFERS: u16 = 1024;
const PAGE_BYTES: usize = 4096;

/// The buffers, and the ring that lists the free ones. Neither is ever freed.
pub(crate) struct BufRing {
    entries: *mut BufRingEntry,
    buffers: *mut u8,
    tail: u16,
}

impl BufRing {
    /// The ID of the buffer group; a receive names it.
    pub(crate) const GROUP: u16 = 0;

    /// Allocates the buffers and lends all of them to the kernel.
    pub(crate) fn register(submitter: &Submitter<'_>) -> io::Result<Self> {
        let entries = allocate(usize::from(BUFFERS) * size_of::<BufRingEntry>())?.cast();
        let buffers = allocate(usize::from(BUFFERS) * RECV_BUFFER_BYTES)?;
        let mut buf_ring = Self {
            entries,
            buffers,
            tail: 0,
        };
        for id in 0..BUFFERS {
            buf_ring.give_back(id);
        }
        buf_ring.publish();
        let address = entries as u64;
        // SAFETY: `entries` is page-aligned, has room for the ring and is never freed.
        unsafe { submitter.register_buf_ring_with_flags(address, BUFFERS, Self::GROUP, 0) }?;
        Ok(buf_ring)
    }

    /// The first `len` bytes of buffer `id`. The kernel has filled it, and it has not been given
    /// back yet.
    pub(crate) fn received(&self, id: u16, len: usize) -> &[u8] {
        let start = self
            .buffers
            .wrapping_add(usize::from(id) * RECV_BUFFER_BYTES);
        // SAFETY: the kernel initialised `len` bytes there, and does not write to the buffer again
        // until it is given back. `give_back` needs `&mut self`, so this borrow ends before.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Lists buffer `id` as free. The kernel sees it after the next `publish`.
    pub(crate) fn give_back(&mut self, id: u16) {
        let start = self
            .buffers
            .wrapping_add(usize::from(id) * RECV_BUFFER_BYTES);
        let entry = self.entries.wrapping_add(usize::from(self.tail % BUFFERS));
        // SAFETY: the index is below `BUFFERS`. The kernel reads entries only up to the published
        // tail, and never more than `BUFFERS` buffers are free, so it does not read this entry now.
        let entry = unsafe { &mut *entry };
        entry.set_addr(start as u64);
        entry.set_len(RECV_BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Publishes the tail, so that the kernel sees the buffers that were given back.
    pub(crate) fn publish(&self) {
        // SAFETY: `entries` points to the ring's first entry, which contains the tail.
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: the tail is aligned and never freed, and the kernel only reads it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Allocates zeroed, page-aligned memory. It is never freed.
fn allocate(bytes: usize) -> io::Result<*mut u8> {
    let layout = Layout::from_size_align(bytes, PAGE_BYTES).map_err(io::Error::other)?;
    // SAFETY: both callers ask for more than 0 bytes.
    let memory = unsafe { alloc::alloc_zeroed(layout) };
    if memory.is_null() {
        Err(io::ErrorKind::OutOfMemory.into())
    } else {
        Ok(memory)
    }
}
