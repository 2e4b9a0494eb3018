//! What has arrived and is not yet understood; knows no protocol.

use super::chunk::Chunk;

/// Received bytes in order: mostly one chunk as the kernel filled it, read where it lies.
///
/// What follows an unfinished piece is appended in the chunk's own block; beyond a block it
/// moves to the heap. An empty buffer holds no memory.
#[derive(Debug, Default)]
pub struct RecvBuf {
    inner: Inner,
}

#[derive(Debug, Default)]
enum Inner {
    #[default]
    Empty,
    Chunk(Chunk),
    Heap(Box<Heap>),
}

#[derive(Debug)]
struct Heap {
    bytes: Vec<u8>,
    /// Bytes at the front that are consumed already.
    consumed: usize,
}

/// Bytes taken out of a [`RecvBuf`]: they stay valid and in place whatever the buffer does.
#[derive(Debug)]
pub enum Taken {
    /// A span of a received block.
    Chunk(Chunk),
    /// What had outgrown a block.
    Heap(Box<[u8]>),
}

impl std::ops::Deref for Taken {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Chunk(chunk) => chunk,
            Self::Heap(bytes) => bytes,
        }
    }
}

impl RecvBuf {
    /// A buffer with nothing in it.
    pub const fn new() -> Self {
        Self {
            inner: Inner::Empty,
        }
    }

    /// The bytes not yet consumed.
    #[inline]
    pub fn unread(&self) -> &[u8] {
        match &self.inner {
            Inner::Empty => &[],
            Inner::Chunk(chunk) => chunk,
            Inner::Heap(heap) => &heap.bytes[heap.consumed..],
        }
    }

    /// Whether all that arrived is consumed.
    pub fn is_empty(&self) -> bool {
        self.unread().is_empty()
    }

    /// Appends what has been received.
    #[inline]
    pub fn push(&mut self, chunk: Chunk) {
        match &mut self.inner {
            Inner::Empty => self.inner = Inner::Chunk(chunk),
            Inner::Chunk(_) | Inner::Heap(_) => self.append(&chunk),
        }
    }

    /// Consumes `n` bytes at the front and drops them.
    ///
    /// # Panics
    /// When fewer are unread.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        match &mut self.inner {
            Inner::Chunk(chunk) => chunk.advance(n),
            Inner::Heap(heap) => {
                heap.consumed += n;
                assert!(
                    heap.consumed <= heap.bytes.len(),
                    "cannot consume what is not there"
                );
            }
            Inner::Empty => assert!(n == 0, "cannot consume from an empty buffer"),
        }
        if self.is_empty() {
            self.inner = Inner::Empty;
        }
    }

    /// Consumes `n` bytes at the front and returns them.
    ///
    /// # Panics
    /// When fewer are unread.
    #[inline]
    pub fn take(&mut self, n: usize) -> Taken {
        match &mut self.inner {
            Inner::Chunk(chunk) if chunk.len() == n => {
                let Inner::Chunk(whole) = std::mem::take(&mut self.inner) else {
                    unreachable!()
                };
                Taken::Chunk(whole)
            }
            Inner::Chunk(chunk) => {
                let taken = chunk.slice(0..n);
                chunk.advance(n);
                Taken::Chunk(taken)
            }
            Inner::Empty | Inner::Heap(_) => {
                let taken = self.unread()[..n].into();
                self.consume(n);
                Taken::Heap(taken)
            }
        }
    }

    #[cold]
    fn append(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if let Inner::Chunk(chunk) = &mut self.inner {
            if chunk.is_unique() {
                let n = chunk.extend(rest);
                rest = &rest[n..];
            }
            if !rest.is_empty() {
                let bytes = chunk.to_vec();
                self.inner = Inner::Heap(Box::new(Heap { bytes, consumed: 0 }));
            }
        }
        if let Inner::Heap(heap) = &mut self.inner {
            heap.bytes.drain(..heap.consumed);
            heap.consumed = 0;
            heap.bytes.extend_from_slice(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{BLOCK_BYTES, Pool};

    fn chunk(pool: &Pool, bytes: &[u8]) -> Chunk {
        let mut block = pool.take();
        block.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        block.into_chunk(0..bytes.len())
    }

    #[test]
    fn pieces_are_joined_in_the_first_block() {
        let pool = Pool::new();
        let mut buf = RecvBuf::new();
        buf.push(chunk(&pool, b"GET"));
        buf.push(chunk(&pool, b" / HTTP"));
        assert_eq!(buf.unread(), b"GET / HTTP");
        assert_eq!(pool.in_use(), 1);
        buf.consume(4);
        assert_eq!(&*buf.take(1), b"/");
        buf.consume(5);
        assert!(buf.is_empty());
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn what_is_taken_stays_when_more_arrives() {
        let pool = Pool::new();
        let mut buf = RecvBuf::new();
        buf.push(chunk(&pool, b"onetwo"));
        let one = buf.take(3);
        buf.push(chunk(&pool, b"three"));
        assert_eq!((&*one, buf.unread()), (&b"one"[..], &b"twothree"[..]));
    }

    #[test]
    fn more_than_a_block_moves_to_the_heap() {
        let pool = Pool::new();
        let mut buf = RecvBuf::new();
        for byte in 0..3 {
            buf.push(chunk(&pool, &[byte; 3000]));
        }
        assert_eq!(buf.unread().len(), 9000);
        assert_eq!(&buf.take(3001)[2999..], &[0, 1]);
        assert_eq!(buf.unread()[2999 + BLOCK_BYTES - 3001 + 1000], 2);
        buf.consume(5999);
        assert!(buf.is_empty());
        assert_eq!(pool.in_use(), 0);
    }
}
