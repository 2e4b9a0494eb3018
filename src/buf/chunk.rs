//! A block, and spans of blocks: counted, sliced and shared without copying.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, Range};
use std::ptr::NonNull;

use super::pool::{BLOCK_BYTES, count_of, give_back};

/// A whole block with a single holder: it may be written.
pub struct Block {
    start: NonNull<u8>,
}

impl Block {
    /// Takes over a block that the pool has just counted as held once.
    pub(super) fn from_raw(start: NonNull<u8>) -> Self {
        Self { start }
    }

    /// The first byte's address; the kernel may be told to fill the block from here.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// All bytes of the block.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the block has one holder, is BLOCK_BYTES long and was zeroed when allocated.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), BLOCK_BYTES) }
    }

    /// Turns the span `range` of the block into a chunk.
    ///
    /// # Panics
    /// When the range does not lie in the block.
    #[inline]
    pub fn into_chunk(self, range: Range<usize>) -> Chunk {
        assert!(
            range.start <= range.end && range.end <= BLOCK_BYTES,
            "a span lies in its block"
        );
        let block = ManuallyDrop::new(self);
        // SAFETY: range.start <= BLOCK_BYTES stays in or one past the block.
        let start = unsafe { block.start.add(range.start) };
        Chunk {
            base: block.start,
            start,
            len: length(range.len()),
        }
    }
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        count_of(self.start).set(0);
        give_back(self.start);
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").finish_non_exhaustive()
    }
}

/// A span of a block: readable bytes that stay where they are as long as the chunk lives.
///
/// Cloning counts another holder; slicing shares. A chunk belongs to its worker's thread.
pub struct Chunk {
    base: NonNull<u8>,
    start: NonNull<u8>,
    len: u32,
}

impl Chunk {
    /// The part `range` of this chunk, sharing its block.
    ///
    /// # Panics
    /// When the range does not lie in the chunk.
    #[inline]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let mut part = self.clone();
        part.truncate(range.end);
        part.advance(range.start);
        part
    }

    /// Leaves out the first `n` bytes.
    ///
    /// # Panics
    /// When the chunk has fewer.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len(), "cannot advance past the end of a chunk");
        // SAFETY: n <= len, so the result stays in or one past the block.
        self.start = unsafe { self.start.add(n) };
        self.len -= length(n);
    }

    /// Keeps the first `len` bytes.
    ///
    /// # Panics
    /// When the chunk has fewer.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        assert!(
            len <= self.len(),
            "cannot truncate a chunk to more than it has"
        );
        self.len = length(len);
    }

    /// Takes all of `bytes` in behind this chunk's end, if its block has room and no other holder.
    pub(crate) fn absorb(&mut self, bytes: &[u8]) -> bool {
        let fits = self.is_unique() && bytes.len() <= self.room();
        if fits {
            self.extend(bytes);
        }
        fits
    }

    /// Whether it fills its block.
    pub(crate) fn is_whole_block(&self) -> bool {
        self.len() == BLOCK_BYTES
    }

    /// Whether nobody else holds a part of the block.
    pub(super) fn is_unique(&self) -> bool {
        count_of(self.base).get() == 1
    }

    /// Appends what fits of `bytes` behind this chunk's end, in its own block, and returns how
    /// many bytes that was. Only the block's last chunk may grow, so it must be the only one.
    pub(super) fn extend(&mut self, bytes: &[u8]) -> usize {
        assert!(
            self.is_unique(),
            "only a chunk that shares with nobody may grow"
        );
        let n = bytes.len().min(self.room());
        // SAFETY: start + len is in or one past the block.
        let target = unsafe { self.start.add(self.len()) };
        // SAFETY: n bytes fit behind `target` in the block, nobody else holds a part of it, and
        // `bytes` is therefore somewhere else.
        unsafe { target.copy_from_nonoverlapping(NonNull::from(bytes).cast(), n) };
        self.len += length(n);
        n
    }

    /// Bytes of the block behind this chunk's end.
    fn room(&self) -> usize {
        BLOCK_BYTES - (self.start.addr().get() + self.len() - self.base.addr().get())
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: start..start + len lies in a block that this chunk holds; it was initialised
        // when allocated, and what a chunk covers is never written again.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }
}

impl Clone for Chunk {
    #[inline]
    fn clone(&self) -> Self {
        let count = count_of(self.base);
        // Whoever forgets 2^32 clones shall not have the block given back under others.
        count.set(count.get().checked_add(1).expect("fewer than 2^32 holders"));
        Self {
            base: self.base,
            start: self.start,
            len: self.len,
        }
    }
}

impl Drop for Chunk {
    #[inline]
    fn drop(&mut self) {
        let count = count_of(self.base);
        count.set(count.get() - 1);
        if count.get() == 0 {
            give_back(self.base);
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.len)
    }
}

fn length(n: usize) -> u32 {
    debug_assert!(n <= BLOCK_BYTES);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a length within a block is small"
    )]
    let n = n as u32;
    n
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::Pool;

    fn chunk(pool: &Pool, bytes: &[u8]) -> Chunk {
        let mut block = pool.take();
        block.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        block.into_chunk(0..bytes.len())
    }

    #[test]
    fn slices_share_the_block_until_the_last_is_gone() {
        let pool = Pool::new();
        let whole = chunk(&pool, b"hello world");
        let world = whole.slice(6..11);
        drop(whole);
        assert_eq!(&*world, b"world");
        assert_eq!(pool.in_use(), 1);
        drop(world);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn a_chunk_grows_in_its_block_up_to_its_end() {
        let pool = Pool::new();
        let mut chunk = chunk(&pool, b"GET /");
        assert_eq!(chunk.extend(b" HTTP"), 5);
        assert_eq!(&*chunk, b"GET / HTTP");
        assert_eq!(chunk.extend(&[b'x'; BLOCK_BYTES]), BLOCK_BYTES - 10);
        assert_eq!(chunk.extend(b"more"), 0);
        assert_eq!(chunk.len(), BLOCK_BYTES);
    }

    #[test]
    #[should_panic(expected = "shares with nobody")]
    fn a_shared_chunk_does_not_grow() {
        let pool = Pool::new();
        let mut first = chunk(&pool, b"a");
        let _second = first.clone();
        first.extend(b"b");
    }
}
