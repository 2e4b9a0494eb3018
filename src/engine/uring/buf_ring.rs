//! The ring of provided buffers, filled with blocks of the worker's pool.
//!
//! The kernel takes a buffer for each chunk that it receives. The block behind the buffer then
//! belongs to the receiver of the chunk, for as long as it keeps the chunk. Once per turn of the
//! loop the ring is topped up with other blocks. So a request that waits for long takes no buffer
//! away from other connections.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::buf::{BLOCK_BYTES, Block, Chunk, Pool};
use crate::sys::kernel;
use crate::sys::mutants::mutate;

/// The buffer group from which receives select; each ring has only this one.
pub(super) const BUFFER_GROUP: u16 = 0;

/// The number of buffers in the ring when memory is scarce.
const RESERVE: u16 = 32;

/// The provided buffers of one ring. They must outlive the io_uring that they are registered with.
pub(super) struct BufRing {
    entries: NonNull<BufRingEntry>,
    capacity: u16,
    /// The next entry to fill. The kernel sees it after `publish`.
    tail: u16,
    /// By buffer number: the block, while the kernel may fill it.
    blocks: Vec<Option<Block>>,
    /// The numbers of the buffers that the kernel does not have.
    absent: Vec<u16>,
}

impl BufRing {
    /// An empty ring of `capacity` entries (a power of two), whose first entry is `tail`.
    pub(super) fn new(capacity: u16, tail: u16) -> Self {
        assert!(
            capacity.is_power_of_two(),
            "the capacity must be a power of two"
        );
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else {
            handle_alloc_error(layout)
        };
        let ring = Self {
            entries: memory.cast(),
            capacity,
            tail,
            blocks: (0..capacity).map(|_| None).collect(),
            absent: (0..capacity).rev().collect(),
        };
        ring.publish();
        ring
    }

    /// Registers the ring with the kernel (`IORING_REGISTER_PBUF_RING`, Linux 5.19).
    pub(super) fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = self.entries.addr().get() as u64;
        // SAFETY: the memory holds `capacity` entries, and is freed only after the io_uring that it
        // is registered with (see the order of fields in `Uring`).
        unsafe { submitter.register_buf_ring_with_flags(address, self.capacity, BUFFER_GROUP, 0) }
    }

    /// The address of the entries, for a simulated kernel.
    #[cfg(feature = "sim")]
    pub(super) fn entries(&self) -> NonNull<BufRingEntry> {
        self.entries
    }

    /// The number of buffers in a full ring.
    pub(super) fn capacity(&self) -> usize {
        usize::from(self.capacity)
    }

    /// The number of buffers that the kernel can take.
    pub(super) fn len(&self) -> usize {
        usize::from(self.capacity) - self.absent.len()
    }

    /// Fills the empty entries with blocks of `pool`. If memory is `scarce`, the ring gets only as
    /// many buffers as keep receives going; chunks that then arrive must be consumed at once.
    #[inline]
    pub(super) fn top_up(&mut self, pool: &Pool, scarce: bool) {
        if mutate!(StingyTopUp, self.len() > 0, self.absent.is_empty()) {
            return;
        }
        let reserve = if scarce { RESERVE } else { self.capacity };
        let missing_min = usize::from(self.capacity.saturating_sub(reserve));
        while self.absent.len() > missing_min
            && let Some(number) = self.absent.pop()
        {
            let block = pool.take();
            let mut entry = self.entry(self.tail);
            // SAFETY: `entry` points into the ring; the kernel does not read entries from `tail` on
            // before they are published.
            let entry = unsafe { entry.as_mut() };
            entry.set_addr(block.as_ptr().addr() as u64);
            entry.set_len(u32::try_from(BLOCK_BYTES).expect("a block is small"));
            entry.set_bid(number);
            self.blocks[usize::from(number)] = Some(block);
            self.tail = mutate!(
                StuckTail,
                self.tail.saturating_add(1),
                self.tail.wrapping_add(1)
            );
        }
        self.publish();
    }

    /// Takes buffer `number` back, into which the kernel has written `len` bytes.
    #[inline]
    pub(super) fn take(&mut self, number: u16, len: usize) -> Chunk {
        let block = self.blocks[usize::from(number)].take();
        self.absent.push(number);
        mutate!(DoubleReturn, self.absent.push(number));
        block
            .expect("the kernel uses each buffer once")
            .into_chunk(0..len)
    }

    fn entry(&self, position: u16) -> NonNull<BufRingEntry> {
        let index = usize::from(position & (self.capacity - 1));
        // SAFETY: index < capacity.
        unsafe { self.entries.add(index) }
    }

    /// Publishes all entries before `tail` to the kernel.
    fn publish(&self) {
        // SAFETY: the memory is valid and zeroed, so its first entry is initialised.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the kernel reads the tail concurrently, so it is accessed only as an atomic.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn layout(capacity: u16) -> Layout {
        let bytes = usize::from(capacity) * size_of::<BufRingEntry>();
        Layout::from_size_align(bytes, kernel::page_bytes()).expect("a page is a valid alignment")
    }
}

impl Drop for BufRing {
    fn drop(&mut self) {
        // SAFETY: `new` allocated the memory with this layout, and the kernel has finished with it.
        unsafe { dealloc(self.entries.as_ptr().cast(), Self::layout(self.capacity)) };
    }
}

impl fmt::Debug for BufRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufRing")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
