//! A contiguous run of bytes in memory of one of three kinds.

use std::ops::Deref;

use bytes::Bytes;

use super::chunk::Chunk;

/// A contiguous run of bytes that was received or will be sent, in memory of one of three kinds. It
/// dereferences to `[u8]`.
///
/// ```
/// use coring::Part;
///
/// let part = Part::from("hello");
/// assert_eq!(part.len(), 5);
/// let bytes = part.into_bytes();
/// let length = std::thread::spawn(move || bytes.len()).join().unwrap();
/// assert_eq!(length, 5);
/// ```
#[derive(Debug, Clone)]
pub enum Part {
    /// A span of a pool block. It cannot leave the thread of its worker.
    Chunk(Chunk),
    /// Static bytes.
    Static(&'static [u8]),
    /// Bytes on the heap, possibly shared.
    Bytes(Bytes),
}

impl Deref for Part {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Chunk(chunk) => chunk,
            Self::Static(bytes) => bytes,
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl From<Chunk> for Part {
    fn from(chunk: Chunk) -> Self {
        Self::Chunk(chunk)
    }
}

impl From<Bytes> for Part {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Part {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<String> for Part {
    fn from(text: String) -> Self {
        Self::Bytes(text.into())
    }
}

impl From<&'static [u8]> for Part {
    fn from(bytes: &'static [u8]) -> Self {
        Self::Static(bytes)
    }
}

impl From<&'static str> for Part {
    fn from(text: &'static str) -> Self {
        Self::Static(text.as_bytes())
    }
}

impl Part {
    /// Converts the bytes to a form that can be sent to another thread. Only a [`Part::Chunk`] is
    /// copied, because its block belongs to the worker.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Chunk(chunk) => Bytes::copy_from_slice(&chunk),
            Self::Static(bytes) => Bytes::from_static(bytes),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// Keeps only the first `len` bytes.
    ///
    /// # Panics
    /// If there are fewer bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        match self {
            Self::Chunk(chunk) => chunk.truncate(len),
            Self::Static(bytes) => *bytes = &bytes[..len],
            Self::Bytes(bytes) => drop(bytes.split_off(len)),
        }
    }

    /// Removes the first `n` bytes.
    ///
    /// # Panics
    /// If there are fewer bytes.
    pub(crate) fn advance(&mut self, n: usize) {
        match self {
            Self::Chunk(chunk) => chunk.advance(n),
            Self::Static(bytes) => *bytes = &bytes[n..],
            Self::Bytes(bytes) => drop(bytes.split_to(n)),
        }
    }

    /// The first `n` bytes, as a part that shares the memory.
    ///
    /// # Panics
    /// If there are fewer bytes.
    pub(super) fn first(&self, n: usize) -> Self {
        match self {
            Self::Chunk(chunk) => Self::Chunk(chunk.slice(0..n)),
            Self::Static(bytes) => Self::Static(&bytes[..n]),
            Self::Bytes(bytes) => Self::Bytes(bytes.slice(0..n)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::Pool;

    #[test]
    fn into_bytes_copies_only_the_bytes_of_a_block() {
        let pool = Pool::new();
        let mut block = pool.take();
        block.as_mut_slice()[..5].copy_from_slice(b"chunk");
        let copied = Part::from(block.into_chunk(1..5)).into_bytes();
        assert_eq!((&*copied, pool.in_use()), (&b"hunk"[..], 0));
        for shared in [Part::from("text"), Part::from(b"bytes".to_vec())] {
            let start = shared.as_ptr();
            let bytes = std::thread::spawn({
                let bytes = shared.into_bytes();
                move || bytes
            });
            assert_eq!(bytes.join().unwrap().as_ptr(), start);
        }
    }
}
