//! The bytes that a connection has received and not yet consumed.

use bytes::{Buf, Bytes, BytesMut};

use super::chunk::Chunk;
use super::part::Part;
use super::pool::{BLOCK_BYTES, Pool};

/// The received bytes of a connection, in order. Usually they are one chunk as the kernel filled
/// it, and are read in place.
///
/// If more bytes arrive, they are appended in the block of that chunk. If they do not fit, or the
/// block has another holder, all bytes move to the heap. An empty buffer holds no memory.
#[derive(Debug, Default)]
pub struct RecvBuf {
    inner: Contents,
}

#[derive(Debug, Default)]
enum Contents {
    #[default]
    Empty,
    Chunk(Chunk),
    /// Boxed, because the size of this type counts for every idle connection.
    Heap(Box<BytesMut>),
}

impl RecvBuf {
    /// An empty buffer.
    pub const fn new() -> Self {
        Self {
            inner: Contents::Empty,
        }
    }

    /// The bytes that are not yet consumed.
    #[inline]
    pub fn unread(&self) -> &[u8] {
        match &self.inner {
            Contents::Empty => &[],
            Contents::Chunk(chunk) => chunk,
            Contents::Heap(bytes) => bytes,
        }
    }

    /// Whether all received bytes are consumed.
    pub fn is_empty(&self) -> bool {
        self.unread().is_empty()
    }

    /// Appends received bytes.
    #[inline]
    pub fn push(&mut self, chunk: Chunk) {
        match &mut self.inner {
            Contents::Empty => self.inner = Contents::Chunk(chunk),
            Contents::Chunk(_) | Contents::Heap(_) => self.append(&chunk),
        }
    }

    /// Consumes the first `n` bytes and drops them.
    ///
    /// # Panics
    /// If fewer bytes are unread.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        match &mut self.inner {
            Contents::Chunk(chunk) => chunk.advance(n),
            Contents::Heap(bytes) => bytes.advance(n),
            Contents::Empty => assert!(n == 0, "cannot consume from an empty buffer"),
        }
        if self.is_empty() {
            self.inner = Contents::Empty;
        }
    }

    /// Consumes the first `n` bytes and moves them to `target` without copying. They do not move in
    /// memory afterwards, whatever happens to the buffer.
    ///
    /// # Panics
    /// If fewer bytes are unread.
    #[inline(always)]
    pub fn take(&mut self, n: usize, target: &mut Part) {
        if let Contents::Chunk(chunk) = &mut self.inner {
            let mut taken = chunk.clone();
            taken.truncate(n);
            chunk.advance(n);
            if chunk.is_empty() {
                self.inner = Contents::Empty;
            }
            *target = Part::Chunk(taken);
        } else {
            *target = Part::Bytes(self.take_from_heap(n));
        }
    }

    /// Consumes and returns up to a block of bytes: the chunk as it was received, or a copy in a
    /// block of `pool` if the bytes are on the heap. `None` if no bytes are unread.
    pub fn take_chunk(&mut self, pool: &Pool) -> Option<Chunk> {
        match std::mem::take(&mut self.inner) {
            Contents::Empty => None,
            Contents::Chunk(chunk) => Some(chunk),
            Contents::Heap(mut bytes) => {
                let len = bytes.len().min(BLOCK_BYTES);
                let mut block = pool.take();
                bytes.copy_to_slice(&mut block.as_mut_slice()[..len]);
                if !bytes.is_empty() {
                    self.inner = Contents::Heap(bytes);
                }
                Some(block.into_chunk(0..len))
            }
        }
    }

    #[cold]
    fn take_from_heap(&mut self, n: usize) -> Bytes {
        let Contents::Heap(bytes) = &mut self.inner else {
            assert!(n == 0, "cannot take from an empty buffer");
            return Bytes::new();
        };
        let taken = bytes.split_to(n).freeze();
        if bytes.is_empty() {
            self.inner = Contents::Empty;
        }
        taken
    }

    #[cold]
    fn append(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if let Contents::Chunk(chunk) = &mut self.inner {
            if chunk.is_unique() {
                let n = chunk.extend(rest);
                rest = &rest[n..];
            }
            if !rest.is_empty() {
                self.inner = Contents::Heap(Box::new(BytesMut::from(&**chunk)));
            }
        }
        if let Contents::Heap(bytes) = &mut self.inner {
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
    fn received_chunks_are_joined_in_the_first_block() {
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
    fn taken_bytes_stay_when_more_arrive() {
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
        let part = taken(&mut buf, 3001);
        assert_eq!(&part[2999..], &[0, 1]);
        assert_eq!(buf.unread()[2999 + BLOCK_BYTES - 3001 + 1000], 2);
        buf.push(chunk(&pool, b"more"));
        buf.consume(5999);
        assert_eq!(&*taken(&mut buf, 4), b"more");
        assert!(
            matches!(buf.inner, Contents::Empty),
            "an empty buffer holds no memory"
        );
        assert_eq!(&part[2999..], &[0, 1]);
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
        assert!(matches!(buf.inner, Contents::Empty));
    }
}
