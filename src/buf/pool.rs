//! Fixed blocks, taken and given back in O(1); knows nothing of what they hold.
//!
//! Blocks are carved from slabs of 1 MiB, aligned to 1 MiB, so that a block's address alone leads
//! to its slab's header, which holds the counts of all its blocks and the way to the pool. The
//! block given back last is taken first: its cache lines are warm. So the blocks that were free
//! longest are those that were not needed, and their memory can be given back to the system.

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

/// Blocks of a slab that can be taken; the first block's place is the header's.
const BLOCKS_PER_SLAB: usize = SLAB_BYTES / BLOCK_BYTES - 1;

/// Free blocks that keep their memory, however long they are not needed.
const FREE_KEPT: usize = BLOCKS_PER_SLAB;
/// How long the others must not have been needed before their memory is given back, in ms.
const UNNEEDED_MS: u64 = 1000;
/// Blocks whose memory is given back at a time, which takes a few ms at most.
const TRIM_MAX: usize = 8192;

/// What stands at the start of each slab.
struct SlabHeader {
    pool: *const Shared,
    counts: [Cell<u32>; BLOCKS_PER_SLAB + 1],
}

const _: () = assert!(size_of::<SlabHeader>() <= BLOCK_BYTES);

/// The pool's state; it outlives the last [`Pool`] handle while blocks are out.
struct Shared {
    free: RefCell<Vec<NonNull<u8>>>,
    /// Free blocks without memory: the system gives them some when they are written to.
    bare: RefCell<Vec<NonNull<u8>>>,
    /// The fewest blocks that were free at a time since what was not needed was looked at.
    free_min: Cell<usize>,
    /// When that is looked at next, in ms.
    trim_ms: Cell<u64>,
    allocations: RefCell<Vec<NonNull<u8>>>,
    in_use: Cell<usize>,
    handles: Cell<usize>,
}

/// One worker's blocks. Cloning makes another handle to the same pool.
pub struct Pool {
    shared: NonNull<Shared>,
    /// Blocks belong to one thread: neither the pool nor its blocks may leave it.
    _local: std::marker::PhantomData<Rc<()>>,
}

impl Pool {
    /// An empty pool; memory is taken from the allocator as blocks are asked for.
    pub fn new() -> Self {
        let shared = Box::new(Shared {
            free: RefCell::default(),
            bare: RefCell::default(),
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

    /// Takes a block; its bytes are whatever they were. Aborts when memory is exhausted.
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

    /// Gives the memory of blocks back that were not needed for a while, at the time `now_ms`. To
    /// be called between tasks, as often as one likes; if it returns a time, then as well.
    #[inline]
    pub fn trim(&self, now_ms: u64) -> Option<u64> {
        let free = self.shared().free.borrow().len();
        if free <= FREE_KEPT {
            self.shared().free_min.set(0);
            return None;
        }
        self.trim_beyond(free, now_ms)
    }

    fn trim_beyond(&self, free: usize, now_ms: u64) -> Option<u64> {
        let shared = self.shared();
        let free_min = shared.free_min.get().min(free);
        if now_ms < shared.trim_ms.get() {
            shared.free_min.set(free_min);
            return Some(shared.trim_ms.get());
        }
        let unneeded = free_min.saturating_sub(FREE_KEPT).min(TRIM_MAX);
        if unneeded > 0 {
            self.strip(unneeded);
        }
        let left = free - unneeded;
        shared.free_min.set(left);
        let next_ms = now_ms + UNNEEDED_MS;
        shared.trim_ms.set(next_ms);
        (left > FREE_KEPT).then_some(next_ms)
    }

    /// Gives the memory of those `count` blocks back that were free longest.
    fn strip(&self, count: usize) {
        let shared = self.shared();
        let mut stripped: Vec<NonNull<u8>> = shared.free.borrow_mut().drain(..count).collect();
        let page_bytes = kernel::page_bytes();
        // One call for those that lie side by side.
        stripped.sort_unstable();
        let are_neighbours =
            |a: &NonNull<u8>, b: &NonNull<u8>| a.addr().get() + BLOCK_BYTES == b.addr().get();
        for run in stripped.chunk_by(are_neighbours) {
            let len = run.len() * BLOCK_BYTES;
            let pages = whole_pages(run[0].addr().get(), len, page_bytes);
            if cfg!(not(miri)) && !pages.is_empty() {
                let start = run[0].as_ptr().with_addr(pages.start);
                // SAFETY: nobody holds a part of these blocks, and no other block has a part of
                // these pages, which are anonymous memory of ours. They read as zeros from now on.
                // Where the kernel refuses (locked memory, say) they stay as they are.
                let _ = unsafe { libc::madvise(start.cast(), pages.len(), libc::MADV_DONTNEED) };
            }
        }
        shared.bare.borrow_mut().extend(stripped);
    }

    /// Blocks that are out of the pool now.
    pub fn in_use(&self) -> usize {
        self.shared().in_use.get()
    }

    fn shared(&self) -> &Shared {
        // SAFETY: `shared` was leaked by `new` and lives until the last handle and the last
        // block are gone; this handle is one of them.
        unsafe { self.shared.as_ref() }
    }

    /// A block that has no memory yet.
    #[cold]
    fn take_cold(&self) -> NonNull<u8> {
        let bare = self.shared().bare.borrow_mut().pop();
        bare.unwrap_or_else(|| self.grow())
    }

    /// Adds a slab and returns one block of it; the others go to the free list.
    fn grow(&self) -> NonNull<u8> {
        let layout = allocation_layout();
        // SAFETY: the layout's size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else {
            handle_alloc_error(layout)
        };
        let padding = base.align_offset(SLAB_BYTES);
        // SAFETY: padding < SLAB_BYTES, and the allocation has room for that and a slab.
        let slab = unsafe { base.add(padding) };
        let header = SlabHeader {
            pool: self.shared.as_ptr(),
            counts: [const { Cell::new(0) }; BLOCKS_PER_SLAB + 1],
        };
        // SAFETY: the slab is fresh, aligned to its size and larger than the header.
        unsafe { slab.cast::<SlabHeader>().write(header) };
        let shared = self.shared();
        shared.allocations.borrow_mut().push(base);
        let mut free = shared.free.borrow_mut();
        for index in (2..=BLOCKS_PER_SLAB).rev() {
            // SAFETY: index * BLOCK_BYTES < SLAB_BYTES, so the result is inside the slab.
            free.push(unsafe { slab.add(index * BLOCK_BYTES) });
        }
        // SAFETY: the second block's place is inside the slab.
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

/// The count of holders of the block that starts at `start`.
#[inline]
pub(super) fn count_of<'a>(start: NonNull<u8>) -> &'a Cell<u32> {
    let index = (start.addr().get() % SLAB_BYTES) / BLOCK_BYTES;
    debug_assert!(index != 0, "the header's place is never a block");
    &header_of(start).counts[index]
}

/// Another handle to the pool of the block that starts at `start`, which is out of the pool.
pub(super) fn pool_of(start: NonNull<u8>) -> Pool {
    let shared = header_of(start).pool.cast_mut();
    // SAFETY: the pool's state lives while blocks are out, and this one is; it is not null.
    let shared = unsafe { NonNull::new_unchecked(shared) };
    let pool = std::mem::ManuallyDrop::new(Pool {
        shared,
        _local: std::marker::PhantomData,
    });
    // The one that is not dropped is not counted.
    Pool::clone(&pool)
}

/// Gives back the block that starts at `start`, of which nobody holds a part any more.
#[inline]
pub(super) fn give_back(start: NonNull<u8>) {
    debug_assert_eq!(
        count_of(start).get(),
        0,
        "a block goes back only when nobody holds it"
    );
    // Whoever still reads or has written there shall be noticed.
    #[cfg(feature = "mutants")]
    // SAFETY: nobody holds a part of the block, which is BLOCK_BYTES long.
    unsafe {
        start.write_bytes(0xdd, BLOCK_BYTES);
    }
    poison(start, BLOCK_BYTES);
    let pool = header_of(start).pool;
    // SAFETY: the pool's state lives while blocks are out, and this one was out until now.
    let shared = unsafe { &*pool };
    shared.free.borrow_mut().push(start);
    let in_use = shared.in_use.get() - 1;
    shared.in_use.set(in_use);
    if in_use == 0 && shared.handles.get() == 0 {
        release_if_done(NonNull::from(shared));
    }
}

/// Frees everything once neither handle nor block is left.
fn release_if_done(shared: NonNull<Shared>) {
    // SAFETY: whoever calls has just given up a handle or a block, so the state still lives.
    let state = unsafe { shared.as_ref() };
    if state.handles.get() != 0 || state.in_use.get() != 0 {
        return;
    }
    for base in state.allocations.take() {
        // SAFETY: it came from `alloc_zeroed` with this layout, and no block of it is out.
        unsafe { dealloc(base.as_ptr(), allocation_layout()) };
    }
    // SAFETY: `new` leaked this box, and nothing refers to it any more.
    drop(unsafe { Box::from_raw(shared.as_ptr()) });
}

/// A slab with room to align it. The allocator gives zeroed pages of this size lazily when no
/// large alignment is asked for: what is never used never becomes resident.
fn allocation_layout() -> Layout {
    const { assert!(SLAB_BYTES.is_power_of_two() && SLAB_BYTES.is_multiple_of(BLOCK_BYTES)) };
    Layout::from_size_align(2 * SLAB_BYTES, 16).expect("16 is a valid alignment")
}

/// The addresses of the whole pages among `len` bytes from `start` on. A page may be larger than a
/// block, and madvise(2) rounds the length up: the rest of the last page may be blocks in use.
fn whole_pages(start: usize, len: usize, page_bytes: usize) -> Range<usize> {
    let end = (start + len) / page_bytes * page_bytes;
    start.next_multiple_of(page_bytes)..end
}

fn header_of<'a>(start: NonNull<u8>) -> &'a SlabHeader {
    let base = start
        .as_ptr()
        .map_addr(|address| address & !(SLAB_BYTES - 1));
    // SAFETY: every block lies in a slab aligned to SLAB_BYTES whose first bytes are the header
    // that `grow` wrote; the slab lives while one of its blocks is out.
    unsafe { &*base.cast::<SlabHeader>() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_given_back_last_is_taken_first() {
        let pool = Pool::new();
        let first = pool.take();
        let address = first.as_ptr();
        let _other = pool.take();
        drop(first);
        assert_eq!(pool.take().as_ptr(), address);
    }

    #[test]
    fn blocks_are_counted_and_distinct_over_several_slabs() {
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
    fn a_block_in_the_pool_is_poisoned() {
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
    fn blocks_that_were_not_needed_lose_their_memory() {
        let pool = Pool::new();
        let take = |count: usize| -> Vec<Block> { (0..count).map(|_| pool.take()).collect() };
        let mut burst = take(1000);
        burst
            .iter_mut()
            .for_each(|block| block.as_mut_slice()[0] = 7);
        drop(burst);
        assert_eq!(pool.trim(5000), Some(6000));
        // Of what was not needed since, 100 blocks are taken out.
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
    fn only_whole_pages_lose_their_memory() {
        const KIB: usize = 1 << 10;
        for (page_bytes, start, len, expected) in [
            (4 * KIB, 4 * KIB, 4 * KIB, 4 * KIB..8 * KIB),
            (16 * KIB, 16 * KIB, 16 * KIB, 16 * KIB..32 * KIB),
            (16 * KIB, 16 * KIB, 20 * KIB, 16 * KIB..32 * KIB),
            (16 * KIB, 12 * KIB, 36 * KIB, 16 * KIB..48 * KIB),
        ] {
            assert_eq!(whole_pages(start, len, page_bytes), expected);
        }
        // Blocks that fill no page have none.
        assert!(whole_pages(16 * KIB, 4 * KIB, 16 * KIB).is_empty());
        assert!(whole_pages(20 * KIB, 24 * KIB, 16 * KIB).is_empty());
        assert!(whole_pages(4 * KIB, 60 * KIB, 64 * KIB).is_empty());
    }

    #[test]
    fn a_pool_that_has_given_few_blocks_wants_no_look() {
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
