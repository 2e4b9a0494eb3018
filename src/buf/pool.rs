//! A pool of blocks of one size, which are taken and returned in O(1).
//!
//! Blocks are carved from slabs of 1 MiB that are aligned to 1 MiB, so the address of a block leads
//! to the header of its slab. The header contains the reference counts of the slab's blocks and a
//! pointer to the pool. The free list is a stack: the block that was returned last is taken first,
//! because its cache lines are warm. Blocks that stay at the bottom of the stack for a while are
//! not needed, and their memory is returned to the system.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;

use super::chunk::Block;
use super::poison::{poison, unpoison};
use crate::sys::kernel;

/// Size and alignment of every block, in bytes.
pub const BLOCK_BYTES: usize = 4096;

/// Size and alignment of a slab, in bytes.
const SLAB_BYTES: usize = 1 << 20;

/// The number of blocks in a slab that can be taken. The header takes the space of one block.
const BLOCKS_PER_SLAB: usize = SLAB_BYTES / BLOCK_BYTES - 1;

/// The number of free blocks that keep their memory even if they are not needed.
const FREE_KEPT: usize = BLOCKS_PER_SLAB;
/// How long other free blocks keep their memory while they are not needed, in ms.
const UNNEEDED_MS: u64 = 1000;
/// The largest number of blocks whose memory one call of [`Pool::trim`] returns to the system. This
/// takes a few ms at most.
const TRIM_MAX: usize = 8192;

/// The header at the start of each slab.
struct SlabHeader {
    pool: *const PoolState,
    /// The number of holders of each block. The first entry, for the header itself, is unused.
    counts: [Cell<u32>; BLOCKS_PER_SLAB + 1],
}

const _: () = assert!(size_of::<SlabHeader>() <= BLOCK_BYTES);

/// The state of a pool. It lives until the last [`Pool`] handle is dropped and the last block is
/// returned.
struct PoolState {
    /// Free blocks that have memory. The last one is taken first.
    free: RefCell<Vec<NonNull<u8>>>,
    /// Free blocks whose memory was returned to the system. The kernel gives them new pages when
    /// they are written to.
    unbacked: RefCell<Vec<NonNull<u8>>>,
    /// The smallest length of `free` since [`Pool::trim`] last checked for unneeded blocks.
    free_min: Cell<usize>,
    /// The time of the next such check, in ms.
    trim_ms: Cell<u64>,
    /// The allocations that contain the slabs.
    allocations: RefCell<Vec<NonNull<u8>>>,
    /// The number of blocks that were taken and not yet returned.
    in_use: Cell<usize>,
    /// The number of [`Pool`] handles.
    handles: Cell<usize>,
}

/// The blocks of one worker. A clone is another handle to the same pool.
pub struct Pool {
    shared: NonNull<PoolState>,
    /// Makes the pool `!Send`: the pool and its blocks must not leave their thread.
    _local: std::marker::PhantomData<Rc<()>>,
}

impl Pool {
    /// An empty pool. It allocates memory when a block is taken and none is free.
    pub fn new() -> Self {
        let shared = Box::new(PoolState {
            free: RefCell::default(),
            unbacked: RefCell::default(),
            free_min: Cell::new(0),
            trim_ms: Cell::new(0),
            allocations: RefCell::default(),
            in_use: Cell::new(0),
            handles: Cell::new(1),
        });
        Self {
            shared: NonNull::from(Box::leak(shared)),
            _local: std::marker::PhantomData,
        }
    }

    /// Takes a block. Its content is unspecified, but initialised. Aborts if memory is exhausted.
    #[inline]
    pub fn take(&self) -> Block {
        let shared = self.shared();
        let popped = shared.free.borrow_mut().pop();
        let start = popped.unwrap_or_else(|| self.take_cold());
        shared.in_use.set(shared.in_use.get() + 1);
        count_of(start).set(1);
        unpoison(start, BLOCK_BYTES);
        Block::from_raw(start)
    }

    /// Returns the memory of blocks to the system if they were not needed for a while. The worker
    /// calls this between tasks with the current time in ms, as often as it likes. If the result is
    /// a time, the worker must call it again at that time.
    #[inline]
    pub fn trim(&self, now_ms: u64) -> Option<u64> {
        let free = self.shared().free.borrow().len();
        if free <= FREE_KEPT {
            self.shared().free_min.set(0);
            return None;
        }
        self.trim_excess(free, now_ms)
    }

    /// [`Pool::trim`] if more than `FREE_KEPT` blocks are free.
    fn trim_excess(&self, free: usize, now_ms: u64) -> Option<u64> {
        let shared = self.shared();
        let free_min = shared.free_min.get().min(free);
        if now_ms < shared.trim_ms.get() {
            shared.free_min.set(free_min);
            return Some(shared.trim_ms.get());
        }
        let unneeded = free_min.saturating_sub(FREE_KEPT).min(TRIM_MAX);
        if unneeded > 0 {
            self.return_memory(unneeded);
        }
        let left = free - unneeded;
        shared.free_min.set(left);
        let next_ms = now_ms + UNNEEDED_MS;
        shared.trim_ms.set(next_ms);
        (left > FREE_KEPT).then_some(next_ms)
    }

    /// Returns the memory of the `count` blocks that have been free for the longest time.
    fn return_memory(&self, count: usize) {
        let shared = self.shared();
        let mut blocks: Vec<NonNull<u8>> = shared.free.borrow_mut().drain(..count).collect();
        let page_bytes = kernel::page_bytes();
        // Adjacent blocks share one system call.
        blocks.sort_unstable();
        let are_adjacent =
            |a: &NonNull<u8>, b: &NonNull<u8>| a.addr().get() + BLOCK_BYTES == b.addr().get();
        for run in blocks.chunk_by(are_adjacent) {
            let len = run.len() * BLOCK_BYTES;
            let pages = whole_pages(run[0].addr().get(), len, page_bytes);
            if cfg!(not(miri)) && !pages.is_empty() {
                let start = run[0].as_ptr().with_addr(pages.start);
                // SAFETY: these blocks have no holder, no other block overlaps these pages, and the
                // pages are our anonymous memory. They read as zeros afterwards. If the kernel
                // refuses (for example because the memory is locked), they keep their content.
                let _ = unsafe { libc::madvise(start.cast(), pages.len(), libc::MADV_DONTNEED) };
            }
        }
        shared.unbacked.borrow_mut().extend(blocks);
    }

    /// The number of blocks that were taken and not yet returned.
    pub fn in_use(&self) -> usize {
        self.shared().in_use.get()
    }

    fn shared(&self) -> &PoolState {
        // SAFETY: `new` leaked `shared`, which lives until the last handle is dropped and the last
        // block is returned. `self` is a handle.
        unsafe { self.shared.as_ref() }
    }

    /// Takes a block without memory, from a new slab if necessary.
    #[cold]
    fn take_cold(&self) -> NonNull<u8> {
        let unbacked = self.shared().unbacked.borrow_mut().pop();
        unbacked.unwrap_or_else(|| self.grow())
    }

    /// Adds a slab and returns one of its blocks. The others go to the free list.
    fn grow(&self) -> NonNull<u8> {
        let layout = allocation_layout();
        // SAFETY: the layout's size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else {
            handle_alloc_error(layout)
        };
        let padding = base.align_offset(SLAB_BYTES);
        // SAFETY: padding < SLAB_BYTES, and the allocation has room for the padding and a slab.
        let slab = unsafe { base.add(padding) };
        let header = SlabHeader {
            pool: self.shared.as_ptr(),
            counts: [const { Cell::new(0) }; BLOCKS_PER_SLAB + 1],
        };
        // SAFETY: the slab is new, aligned to its size, and larger than the header.
        unsafe { slab.cast::<SlabHeader>().write(header) };
        let shared = self.shared();
        shared.allocations.borrow_mut().push(base);
        let mut free = shared.free.borrow_mut();
        for index in (2..=BLOCKS_PER_SLAB).rev() {
            // SAFETY: index * BLOCK_BYTES < SLAB_BYTES, so the result is inside the slab.
            free.push(unsafe { slab.add(index * BLOCK_BYTES) });
        }
        // SAFETY: BLOCK_BYTES < SLAB_BYTES, so the result is inside the slab.
        let first = unsafe { slab.add(BLOCK_BYTES) };
        poison(first, BLOCKS_PER_SLAB * BLOCK_BYTES);
        first
    }
}

impl Clone for Pool {
    fn clone(&self) -> Self {
        let handles = &self.shared().handles;
        handles.set(handles.get() + 1);
        Self {
            shared: self.shared,
            _local: std::marker::PhantomData,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let handles = &self.shared().handles;
        handles.set(handles.get() - 1);
        release_if_done(self.shared);
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("in_use", &self.in_use())
            .finish_non_exhaustive()
    }
}

/// The number of holders of the block that begins at `start`.
#[inline]
pub(super) fn count_of<'a>(start: NonNull<u8>) -> &'a Cell<u32> {
    let index = (start.addr().get() % SLAB_BYTES) / BLOCK_BYTES;
    debug_assert!(index != 0, "the header is not a block");
    &header_of(start).counts[index]
}

/// A handle to the pool of the block that begins at `start`, which must not be free.
pub(super) fn pool_of(start: NonNull<u8>) -> Pool {
    let shared = header_of(start).pool.cast_mut();
    // SAFETY: the pool's state lives while a block has a holder, as this one has. The pointer is
    // not null.
    let shared = unsafe { NonNull::new_unchecked(shared) };
    let pool = std::mem::ManuallyDrop::new(Pool {
        shared,
        _local: std::marker::PhantomData,
    });
    // `pool` is neither counted nor dropped; its clone is counted.
    Pool::clone(&pool)
}

/// Returns the block that begins at `start`, and has no holder, to its pool.
#[inline]
pub(super) fn return_block(start: NonNull<u8>) {
    debug_assert_eq!(
        count_of(start).get(),
        0,
        "only a block without holders may be returned"
    );
    // Tests with this feature overwrite the block, so that a use after its return is noticed.
    #[cfg(feature = "mutants")]
    // SAFETY: the block has no holder and is BLOCK_BYTES long.
    unsafe {
        start.write_bytes(0xdd, BLOCK_BYTES);
    }
    poison(start, BLOCK_BYTES);
    let pool = header_of(start).pool;
    // SAFETY: the pool's state lives until its last block is returned, and this block is not yet.
    let shared = unsafe { &*pool };
    shared.free.borrow_mut().push(start);
    let in_use = shared.in_use.get() - 1;
    shared.in_use.set(in_use);
    if in_use == 0 && shared.handles.get() == 0 {
        release_if_done(NonNull::from(shared));
    }
}

/// Frees the slabs and the pool's state if no handle and no block with a holder is left.
fn release_if_done(shared: NonNull<PoolState>) {
    // SAFETY: the caller has just given up a handle or a block, so the state still lives.
    let state = unsafe { shared.as_ref() };
    if state.handles.get() != 0 || state.in_use.get() != 0 {
        return;
    }
    for base in state.allocations.take() {
        // SAFETY: `grow` allocated it with this layout, and none of its blocks has a holder.
        unsafe { dealloc(base.as_ptr(), allocation_layout()) };
    }
    // SAFETY: `new` leaked this box, and nothing refers to it any longer.
    drop(unsafe { Box::from_raw(shared.as_ptr()) });
}

/// The layout of a slab with room to align it. The allocator maps such a large zeroed allocation
/// lazily if its alignment is small, so pages that are never used do not become resident.
fn allocation_layout() -> Layout {
    const { assert!(SLAB_BYTES.is_power_of_two() && SLAB_BYTES.is_multiple_of(BLOCK_BYTES)) };
    Layout::from_size_align(2 * SLAB_BYTES, 16).expect("16 is a valid alignment")
}

/// The addresses of the whole pages among the `len` bytes from `start` on. A page may be larger
/// than a block, and madvise(2) rounds the length up, so a partial last page could contain blocks
/// in use.
fn whole_pages(start: usize, len: usize, page_bytes: usize) -> Range<usize> {
    let end = (start + len) / page_bytes * page_bytes;
    start.next_multiple_of(page_bytes)..end
}

/// The header of the slab of the block that begins at `start`.
fn header_of<'a>(start: NonNull<u8>) -> &'a SlabHeader {
    let base = start
        .as_ptr()
        .map_addr(|address| address & !(SLAB_BYTES - 1));
    // SAFETY: every block lies in a slab that is aligned to SLAB_BYTES and begins with the header
    // that `grow` wrote. The slab lives while one of its blocks has a holder.
    unsafe { &*base.cast::<SlabHeader>() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_returned_last_is_taken_first() {
        let pool = Pool::new();
        let first = pool.take();
        let address = first.as_ptr();
        let _other = pool.take();
        drop(first);
        assert_eq!(pool.take().as_ptr(), address);
    }

    #[test]
    fn blocks_of_several_slabs_are_counted_and_distinct() {
        let pool = Pool::new();
        let blocks: Vec<Block> = (0..600).map(|_| pool.take()).collect();
        assert_eq!(pool.in_use(), 600);
        let mut starts: Vec<usize> = blocks.iter().map(|block| block.as_ptr() as usize).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts.len(), 600);
        assert!(starts.iter().all(|start| start.is_multiple_of(BLOCK_BYTES)));
        drop(blocks);
        assert_eq!(pool.in_use(), 0);
    }

    #[cfg(asan)]
    #[test]
    fn a_free_block_is_poisoned() {
        let is_poisoned =
            |at: *mut u8| crate::buf::poison::runtime::__asan_address_is_poisoned(at.cast()) != 0;
        let pool = Pool::new();
        let block = pool.take();
        let (first, next) = (block.as_ptr(), block.as_ptr().wrapping_add(BLOCK_BYTES));
        assert!(!is_poisoned(first) && is_poisoned(next));
        drop(block);
        assert!(is_poisoned(first));
    }

    #[test]
    fn the_memory_of_unneeded_blocks_is_returned() {
        let pool = Pool::new();
        let take = |count: usize| -> Vec<Block> { (0..count).map(|_| pool.take()).collect() };
        let mut burst = take(1000);
        burst
            .iter_mut()
            .for_each(|block| block.as_mut_slice()[0] = 7);
        drop(burst);
        assert_eq!(pool.trim(5000), Some(6000));
        // Meanwhile `FREE_KEPT + 100` blocks are in use, so they count as needed.
        let needed = take(FREE_KEPT + 100);
        assert_eq!(pool.trim(5999), Some(6000));
        drop(needed);
        assert_eq!(pool.trim(6000), Some(7000));
        let with_memory = |pool: &Pool| pool.shared().free.borrow().len();
        assert_eq!(with_memory(&pool), 2 * FREE_KEPT + 100);
        assert_eq!(pool.trim(7000), None);
        assert_eq!(with_memory(&pool), FREE_KEPT);
        let mut again = take(1000);
        let used_before = again.iter_mut().filter_map(|block| {
            let first = block.as_mut_slice()[0];
            (first != 0).then_some(first)
        });
        if cfg!(not(miri)) {
            assert_eq!(used_before.count(), FREE_KEPT);
        }
        assert_eq!(pool.in_use(), 1000);
        drop(again);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn only_the_memory_of_whole_pages_is_returned() {
        const KIB: usize = 1 << 10;
        for (page_bytes, start, len, expected) in [
            (4 * KIB, 4 * KIB, 4 * KIB, 4 * KIB..8 * KIB),
            (16 * KIB, 16 * KIB, 16 * KIB, 16 * KIB..32 * KIB),
            (16 * KIB, 16 * KIB, 20 * KIB, 16 * KIB..32 * KIB),
            (16 * KIB, 12 * KIB, 36 * KIB, 16 * KIB..48 * KIB),
        ] {
            assert_eq!(whole_pages(start, len, page_bytes), expected);
        }
        // Blocks that fill no whole page.
        assert!(whole_pages(16 * KIB, 4 * KIB, 16 * KIB).is_empty());
        assert!(whole_pages(20 * KIB, 24 * KIB, 16 * KIB).is_empty());
        assert!(whole_pages(4 * KIB, 60 * KIB, 64 * KIB).is_empty());
    }

    #[test]
    fn trim_wants_another_call_only_while_many_blocks_are_free() {
        let pool = Pool::new();
        drop(pool.take());
        assert_eq!(pool.trim(0), None);
        let mut times = Vec::new();
        drop((0..FREE_KEPT + 1).map(|_| pool.take()).collect::<Vec<_>>());
        let mut next_ms = pool.trim(10);
        while let Some(now_ms) = next_ms {
            times.push(now_ms);
            next_ms = pool.trim(now_ms);
        }
        assert_eq!(times, [1010]);
    }

    #[test]
    fn a_block_may_outlive_its_pool() {
        let pool = Pool::new();
        let mut block = pool.take();
        drop(pool);
        block.as_mut_slice()[0] = 7;
        assert_eq!(block.as_mut_slice()[0], 7);
    }
}
