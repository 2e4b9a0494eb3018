//! What has arrived and is not yet understood; knows no protocol.

use bytes::{Buf, Bytes, BytesMut};

use super::chunk::Chunk;
use super::part::Part;
use super::pool::{BLOCK_BYTES, Pool};

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
    /// Boxed, for every idle connection has room for this.
    Heap(Box<BytesMut>),
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
            Inner::Heap(bytes) => bytes,
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
            Inner::Heap(bytes) => bytes.advance(n),
            Inner::Empty => assert!(n == 0, "cannot consume from an empty buffer"),
        }
        if self.is_empty() {
            self.inner = Inner::Empty;
        }
    }

    /// Consumes `n` bytes at the front and puts them into `place`, without copying: they stay valid
    /// and where they are whatever the buffer does.
    ///
    /// # Panics
    /// When fewer are unread.
    #[inline(always)]
    pub fn take(&mut self, n: usize, place: &mut Part) {
        if let Inner::Chunk(chunk) = &mut self.inner {
            let mut taken = chunk.clone();
            taken.truncate(n);
            chunk.advance(n);
            if chunk.is_empty() {
                self.inner = Inner::Empty;
            }
            *place = Part::Chunk(taken);
        } else {
            *place = Part::Bytes(self.take_from_heap(n));
        }
    }

    /// Takes up to a block of the bytes at the front: the chunk as it was received, or else a copy
    /// in a block of `pool`. None: nothing is unread.
    pub fn take_chunk(&mut self, pool: &Pool) -> Option<Chunk> {
        match std::mem::take(&mut self.inner) {
            Inner::Empty => None,
            Inner::Chunk(chunk) => Some(chunk),
            Inner::Heap(mut bytes) => {
                let len = bytes.len().min(BLOCK_BYTES);
                let mut block = pool.take();
                bytes.copy_to_slice(&mut block.as_mut_slice()[..len]);
                if !bytes.is_empty() {
                    self.inner = Inner::Heap(bytes);
                }
                Some(block.into_chunk(0..len))
            }
        }
    }

    #[cold]
    fn take_from_heap(&mut self, n: usize) -> Bytes {
        let Inner::Heap(bytes) = &mut self.inner else {
            assert!(n == 0, "cannot take from an empty buffer");
            return Bytes::new();
        };
        let taken = bytes.split_to(n).freeze();
        if bytes.is_empty() {
            self.inner = Inner::Empty;
        }
        taken
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
                self.inner = Inner::Heap(Box::new(BytesMut::from(&**chunk)));
            }
        }
        if let Inner::Heap(bytes) = &mut self.inner {
            bytes.extend_from_slice(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(pool: &Pool, bytes: &[u8]) -> Chunk {
        let mut block = pool.take();
        block.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        block.into_chunk(0..bytes.len())
    }

    fn taken(buf: &mut RecvBuf, n: usize) -> Part {
        let mut part = Part::Static(b"");
        buf.take(n, &mut part);
        part
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
        assert_eq!(&*taken(&mut buf, 1), b"/");
        buf.consume(5);
        assert!(buf.is_empty());
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn what_is_taken_stays_when_more_arrives() {
        let pool = Pool::new();
        let mut buf = RecvBuf::new();
        buf.push(chunk(&pool, b"onetwo"));
        let one = taken(&mut buf, 3);
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
        let piece = taken(&mut buf, 3001);
        assert_eq!(&piece[2999..], &[0, 1]);
        assert_eq!(buf.unread()[2999 + BLOCK_BYTES - 3001 + 1000], 2);
        buf.push(chunk(&pool, b"more"));
        buf.consume(5999);
        assert_eq!(&*taken(&mut buf, 4), b"more");
        assert!(
            matches!(buf.inner, Inner::Empty),
            "an empty buffer holds no memory"
        );
        assert_eq!(&piece[2999..], &[0, 1]);
        assert_eq!(pool.in_use(), 0);
    }
    #[test]
    fn bytes_are_taken_a_block_at_a_time() {
        let pool = Pool::new();
        let mut buf = RecvBuf::new();
        assert!(buf.take_chunk(&pool).is_none());
        buf.push(chunk(&pool, b"one"));
        let one = buf.take_chunk(&pool).expect("a chunk");
        assert_eq!((&*one, pool.in_use()), (&b"one"[..], 1));
        for byte in 0..3 {
            buf.push(chunk(&pool, &[byte; 3000]));
        }
        let mut taken = Vec::new();
        while let Some(chunk) = buf.take_chunk(&pool) {
            taken.extend_from_slice(&chunk);
        }
        assert_eq!(taken, [[0; 3000], [1; 3000], [2; 3000]].concat());
        assert!(matches!(buf.inner, Inner::Empty));
    }
}
