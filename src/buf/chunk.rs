//! Blocks, and reference-counted spans of blocks, which are sliced and shared without copying.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, Range};
use std::ptr::NonNull;

use super::pool::{BLOCK_BYTES, count_of, return_block};

/// A whole block with a single holder, so it may be written to.
pub struct Block {
    /// The first byte of the block.
    start: NonNull<u8>,
}

impl Block {
    /// Takes over a block whose count of holders is 1.
    pub(super) fn from_raw(start: NonNull<u8>) -> Self {
        Self { start }
    }

    /// The address of the first byte, for operations in which the kernel fills the block.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// All bytes of the block.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the block has one holder, is BLOCK_BYTES long, and was initialised (zeroed) when
        // it was allocated.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), BLOCK_BYTES) }
    }

    /// Turns the span `range` of the block into a chunk.
    ///
    /// # Panics
    /// If the range does not lie within the block.
    #[inline]
    pub fn into_chunk(self, range: Range<usize>) -> Chunk {
        assert!(
            range.start <= range.end && range.end <= BLOCK_BYTES,
            "the span must lie within its block"
        );
        let block = ManuallyDrop::new(self);
        // SAFETY: range.start <= BLOCK_BYTES, so the result is in the block or one past its end.
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
        return_block(self.start);
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").finish_non_exhaustive()
    }
}

/// Received bytes: a read-only, reference-counted span of a memory block.
///
/// Cloning and slicing share the block and copy no bytes. The bytes do not move while the chunk
/// exists. A chunk cannot leave the thread of its worker; `Part::from(chunk).into_bytes()` makes a
/// copy that can.
///
/// ```
/// use std::io;
///
/// use coring::net::TcpStream;
///
/// /// Sends a chunk back without its first byte.
/// async fn echo_rest(stream: &mut TcpStream) -> io::Result<()> {
///     if let Some(chunk) = stream.read().await? {
///         stream.write_all(chunk.slice(1..chunk.len())).await?;
///     }
///     Ok(())
/// }
/// ```
pub struct Chunk {
    /// The first byte of the block.
    base: NonNull<u8>,
    /// The first byte of the span.
    start: NonNull<u8>,
    /// The length of the span in bytes.
    len: u32,
}

impl Chunk {
    /// The bytes `range` of this chunk, as a chunk that shares its block.
    ///
    /// # Panics
    /// If the range does not lie within the chunk.
    #[inline]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let mut slice = self.clone();
        slice.truncate(range.end);
        slice.advance(range.start);
        slice
    }

    /// Removes the first `n` bytes.
    ///
    /// # Panics
    /// If the chunk has fewer bytes.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len(), "cannot advance past the end of a chunk");
        // SAFETY: n <= len, so the result is in the block or one past its end.
        self.start = unsafe { self.start.add(n) };
        self.len -= length(n);
    }

    /// Keeps only the first `len` bytes.
    ///
    /// # Panics
    /// If the chunk has fewer bytes.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        assert!(
            len <= self.len(),
            "cannot truncate a chunk to more bytes than it has"
        );
        self.len = length(len);
    }

    /// Appends all of `bytes` to this chunk if its block has room for them and no other holder.
    /// Returns whether it did.
    pub(crate) fn absorb(&mut self, bytes: &[u8]) -> bool {
        let fits = self.is_unique() && bytes.len() <= self.room();
        if fits {
            self.extend(bytes);
        }
        fits
    }

    /// Whether this chunk is its whole block.
    pub(crate) fn is_whole_block(&self) -> bool {
        self.len() == BLOCK_BYTES
    }

    /// Whether this chunk is the only holder of its block.
    pub(super) fn is_unique(&self) -> bool {
        count_of(self.base).get() == 1
    }

    /// Appends as much of `bytes` as fits into the block after this chunk. Returns the number of
    /// bytes appended. The bytes after the chunk must not belong to another chunk, so this chunk
    /// must be the only holder of its block.
    ///
    /// # Panics
    /// If the block has another holder.
    pub(super) fn extend(&mut self, bytes: &[u8]) -> usize {
        assert!(
            self.is_unique(),
            "only a chunk that does not share its block may grow"
        );
        let n = bytes.len().min(self.room());
        // SAFETY: start + len is in the block or one past its end.
        let target = unsafe { self.start.add(self.len()) };
        // SAFETY: n bytes fit into the block from `target` on. The block has no other holder, so
        // `bytes` does not overlap it.
        unsafe { target.copy_from_nonoverlapping(NonNull::from(bytes).cast(), n) };
        self.len += length(n);
        n
    }

    /// The number of bytes of the block after this chunk.
    fn room(&self) -> usize {
        BLOCK_BYTES - (self.start.addr().get() + self.len() - self.base.addr().get())
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: start..start + len lies in a block that this chunk holds. The block was
        // initialised when it was allocated, and the bytes of a chunk are never written to.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }
}

impl Clone for Chunk {
    #[inline]
    fn clone(&self) -> Self {
        let count = count_of(self.base);
        // If a caller leaks 2^32 clones, the count must not wrap: the block would be returned while
        // other chunks still hold it.
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
            return_block(self.base);
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.len)
    }
}

/// `n`, a length within a block, as a `u32`.
fn length(n: usize) -> u32 {
    debug_assert!(n <= BLOCK_BYTES);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a length within a block fits"
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
    fn the_block_is_returned_when_the_last_slice_is_dropped() {
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
    fn a_chunk_grows_up_to_the_end_of_its_block() {
        let pool = Pool::new();
        let mut chunk = chunk(&pool, b"GET /");
        assert_eq!(chunk.extend(b" HTTP"), 5);
        assert_eq!(&*chunk, b"GET / HTTP");
        assert_eq!(chunk.extend(&[b'x'; BLOCK_BYTES]), BLOCK_BYTES - 10);
        assert_eq!(chunk.extend(b"more"), 0);
        assert_eq!(chunk.len(), BLOCK_BYTES);
    }

    #[test]
    #[should_panic(expected = "does not share its block")]
    fn a_shared_chunk_does_not_grow() {
        let pool = Pool::new();
        let mut first = chunk(&pool, b"a");
        let _second = first.clone();
        first.extend(b"b");
    }
}
