//! What is owed to the peer, in order; knows no protocol and no socket.

use std::collections::VecDeque;

use super::chunk::{Block, Chunk};
use super::file_span::FileSpan;
use super::part::Part;
use super::pool::{BLOCK_BYTES, Pool};
use crate::sys::mutants::mutate;

/// What goes out in one send: it is given away until the kernel is done with it.
#[derive(Debug)]
pub enum Outgoing {
    /// The common case: one block's span.
    One(Chunk),
    /// Several parts, for one gathering send.
    Many(Vec<Part>),
    /// A span of a file, with what comes before it.
    File(Box<HeadAndSpan>),
}

#[allow(
    clippy::len_without_is_empty,
    reason = "nothing goes out without a byte"
)]
impl Outgoing {
    /// Bytes in all parts together.
    pub fn len(&self) -> usize {
        match self {
            Self::One(chunk) => chunk.len(),
            Self::Many(parts) => parts.iter().map(|part| part.len()).sum(),
            Self::File(file) => file.head_len() + file.span.len(),
        }
    }
}

/// A span of a file and what comes before it, the end of an answer's head mostly.
#[derive(Debug)]
pub struct HeadAndSpan {
    /// What stands in memory, if anything does.
    pub head: Option<Chunk>,
    /// The span behind it.
    pub span: FileSpan,
}

impl HeadAndSpan {
    /// Bytes before the span.
    pub fn head_len(&self) -> usize {
        self.head.as_ref().map_or(0, |head| head.len())
    }
}

/// The queue of one connection: small pieces are written into a block, large ones ride along as
/// parts. An empty queue holds no memory.
#[derive(Debug, Default)]
pub struct SendQueue {
    /// Complete parts, before what stands in `tail`; none are there mostly.
    #[expect(
        clippy::box_collection,
        reason = "every idle connection has room for this"
    )]
    parts: Option<Box<VecDeque<Part>>>,
    tail: Option<Tail>,
    /// A span of a file, behind everything else.
    file: Option<Box<HeadAndSpan>>,
    /// Bytes of all that is in memory.
    len: usize,
}

/// What whoever would queue something behind a span of a file is told.
const LAST: &str = "a span of a file is the last part";

/// The block being written.
#[derive(Debug)]
struct Tail {
    block: Block,
    len: usize,
}

impl SendQueue {
    /// Parts in one send, at most; the kernel's own bound is 1024 (`UIO_MAXIOV`).
    const PARTS_MAX: usize = 64;

    /// A queue with nothing in it.
    pub const fn new() -> Self {
        Self {
            parts: None,
            tail: None,
            file: None,
            len: 0,
        }
    }

    /// Bytes owed.
    #[inline]
    pub fn len(&self) -> usize {
        self.len + self.file.as_ref().map_or(0, |file| file.span.len())
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.len == 0 && self.file.is_none()
    }

    /// Whether a span of a file is owed. Nothing may follow it, also while it is taken: it may be
    /// put back.
    pub fn ends_in_file(&self) -> bool {
        self.file.is_some()
    }

    /// Lets `write` fill up to `len_max` contiguous bytes at the end of the queue; it returns how
    /// many it wrote.
    #[inline]
    pub fn write_with(
        &mut self,
        pool: &Pool,
        len_max: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) {
        debug_assert!(self.file.is_none(), "{LAST}");
        if len_max > BLOCK_BYTES {
            let mut bytes = vec![0; len_max];
            let n = write(&mut bytes);
            bytes.truncate(n);
            return self.push(Part::Bytes(bytes.into()));
        }
        if self
            .tail
            .as_ref()
            .is_some_and(|tail| BLOCK_BYTES - tail.len < len_max)
        {
            self.seal();
        }
        let tail = self.tail.get_or_insert_with(|| Tail {
            block: pool.take(),
            len: 0,
        });
        let n = write(&mut tail.block.as_mut_slice()[tail.len..]);
        tail.len += n;
        self.len += n;
    }

    /// Copies `bytes`, which should be few, to the end of the queue.
    #[inline]
    pub fn write(&mut self, pool: &Pool, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.write_with(pool, bytes.len(), |out| {
                out[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            });
        }
    }

    /// Appends a part without copying it.
    pub fn push(&mut self, part: Part) {
        if part.is_empty() {
            return;
        }
        debug_assert!(self.file.is_none(), "{LAST}");
        self.seal();
        self.len += part.len();
        self.parts.get_or_insert_default().push_back(part);
    }

    /// Appends a span of a file. Until it is out, nothing may follow it.
    ///
    /// # Panics
    /// When there is one already.
    pub fn push_file(&mut self, span: FileSpan) {
        assert!(self.file.is_none(), "{LAST}");
        self.file = Some(Box::new(HeadAndSpan { head: None, span }));
    }

    /// Takes all that is owed if it is in one block of at most `len_max` bytes.
    #[inline(always)]
    pub fn take_one(&mut self, len_max: usize) -> Option<Chunk> {
        if self.parts.is_some() || self.file.is_some() || self.len > len_max {
            return None;
        }
        let Tail { block, len } = self.tail.take()?;
        self.len = 0;
        Some(block.into_chunk(0..len))
    }

    /// Takes what goes out next: at most `len_max` bytes of memory, and a span of a file if that
    /// is all before it.
    pub fn take(&mut self, len_max: usize) -> Option<Outgoing> {
        if let Some(chunk) = self.take_one(len_max) {
            return Some(Outgoing::One(chunk));
        }
        if self.parts.is_none() && self.file.is_some() && self.len <= len_max {
            return self.take_file();
        }
        self.seal();
        self.take_parts(len_max)
    }

    /// Puts what was not sent of `outgoing`, of which `sent` bytes were, back to the front.
    #[inline]
    pub fn put_back(&mut self, outgoing: Outgoing, sent: usize) {
        if sent < outgoing.len() {
            self.put_back_rest(outgoing, sent);
        }
    }

    /// Ends the block being written: what follows goes into another one.
    fn seal(&mut self) {
        if let Some(Tail { block, len }) = self.tail.take() {
            let part = Part::Chunk(block.into_chunk(0..len));
            self.parts.get_or_insert_default().push_back(part);
        }
    }

    /// Takes the span, behind what fits into one block.
    #[cold]
    fn take_file(&mut self) -> Option<Outgoing> {
        let mut file = self.file.take()?;
        let head = self.tail.take();
        file.head = head.map(|Tail { block, len }| block.into_chunk(0..len));
        self.len = 0;
        Some(Outgoing::File(file))
    }

    fn take_parts(&mut self, len_max: usize) -> Option<Outgoing> {
        let parts = self.parts.as_mut()?;
        let mut taken = Vec::with_capacity(parts.len().min(Self::PARTS_MAX));
        let mut room = len_max;
        while room > 0 && taken.len() < Self::PARTS_MAX {
            let Some(front) = parts.front_mut() else {
                break;
            };
            if front.len() > room {
                taken.push(front.first(room));
                front.advance(room);
                room = 0;
            } else {
                room -= front.len();
                taken.extend(parts.pop_front());
            }
        }
        if parts.is_empty() {
            self.parts = None;
        }
        self.len -= len_max - room;
        match taken.len() {
            0 => None,
            _ => Some(Outgoing::Many(taken)),
        }
    }

    #[cold]
    fn put_back_rest(&mut self, outgoing: Outgoing, mut sent: usize) {
        let parts = match outgoing {
            Outgoing::One(chunk) => vec![Part::Chunk(chunk)],
            Outgoing::Many(parts) => parts,
            Outgoing::File(mut file) => {
                assert!(self.is_empty(), "{LAST}");
                file.span.advance(sent.saturating_sub(file.head_len()));
                let head = file.head.take();
                self.file = Some(file);
                head.map(Part::Chunk).into_iter().collect()
            }
        };
        let mut rest = Vec::with_capacity(parts.len());
        for mut part in parts {
            let gone = sent.min(part.len());
            sent -= gone;
            part.advance(gone);
            if !part.is_empty() {
                self.len += part.len();
                rest.push(part);
            }
        }
        if rest.is_empty() {
            return;
        }
        let queue = self.parts.get_or_insert_default();
        for part in rest.into_iter().rev() {
            mutate!(PutBackLast, queue.push_back(part), queue.push_front(part));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Deref;

    use bytes::Bytes;

    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use super::*;

    fn bytes_of(outgoing: &Outgoing) -> Vec<u8> {
        match outgoing {
            Outgoing::One(chunk) => chunk.to_vec(),
            Outgoing::Many(parts) => parts.iter().map(Deref::deref).collect::<Vec<_>>().concat(),
            Outgoing::File(file) => {
                let head = file.head.iter().flat_map(|head| head.to_vec());
                let (from, len) = (file.span.offset(), file.span.len());
                // The file's bytes are their places in it.
                head.chain((from..).take(len).map(|at| at.to_le_bytes()[0]))
                    .collect()
            }
        }
    }

    /// Sends everything in pieces of `step` bytes of sends of at most `len_max`.
    fn drain(queue: &mut SendQueue, len_max: usize, step: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while let Some(outgoing) = queue.take(len_max) {
            assert!(outgoing.len() <= len_max);
            let n = outgoing.len().min(step);
            sent.extend_from_slice(&bytes_of(&outgoing)[..n]);
            queue.put_back(outgoing, n);
        }
        assert!(queue.is_empty());
        sent
    }

    fn fill(pool: &Pool, queue: &mut SendQueue) -> Vec<u8> {
        queue.write(pool, b"head one|");
        queue.push(Part::Static(b"a static body|"));
        queue.write(pool, b"head two|");
        queue.push(Part::Bytes(Bytes::from(vec![b'x'; 5000])));
        queue.write_with(pool, 6000, |out| {
            out[..5500].fill(b'y');
            5500
        });
        queue.write(pool, b"end");
        let mut expected = b"head one|a static body|head two|".to_vec();
        expected.extend([b'x'; 5000]);
        expected.extend([b'y'; 5500]);
        expected.extend(b"end");
        expected
    }

    #[test]
    fn small_answers_share_one_block_and_one_send() {
        let pool = Pool::new();
        let mut queue = SendQueue::new();
        for _ in 0..16 {
            queue.write(&pool, b"HTTP/1.1 200 OK\r\n\r\n");
        }
        let outgoing = queue.take(1 << 18).unwrap();
        assert!(matches!(&outgoing, Outgoing::One(chunk) if chunk.len() == 16 * 19));
        assert!(queue.is_empty());
        drop(outgoing);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn a_span_of_a_file_goes_out_last_with_what_comes_before_it() {
        let pool = Pool::new();
        let file = Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        for body_before in [false, true] {
            // Byte by byte through a body takes Miri minutes.
            let smallest = if cfg!(miri) && body_before { 2 } else { 0 };
            for &step in &[1, 3, 100, 9000][smallest..] {
                let mut queue = SendQueue::new();
                queue.write(&pool, b"head|");
                let mut expected = b"head|".to_vec();
                if body_before {
                    queue.push(Part::Bytes(Bytes::from(vec![b'x'; 5000])));
                    expected.extend([b'x'; 5000]);
                }
                queue.push_file(FileSpan::new(file.clone(), 7, 200));
                expected.extend(7..207_u8);
                assert!(queue.ends_in_file());
                assert_eq!(queue.len(), expected.len());
                assert_eq!(drain(&mut queue, 1 << 18, step), expected, "{step}");
                assert!(!queue.ends_in_file());
                assert_eq!(pool.in_use(), 0);
            }
        }
        assert_eq!(Arc::strong_count(&file), 1);
    }

    #[test]
    fn every_short_send_goes_on_where_it_stopped() {
        let pool = Pool::new();
        // Byte by byte takes Miri minutes.
        let smallest = if cfg!(miri) { 3 } else { 0 };
        for &len_max in &[1, 7, 100, 4096, 1 << 18][smallest..] {
            for &step in &[1, 5, 70, 1000, 1 << 18][smallest..] {
                let mut queue = SendQueue::new();
                let expected = fill(&pool, &mut queue);
                assert_eq!(queue.len(), expected.len());
                assert_eq!(
                    drain(&mut queue, len_max, step),
                    expected,
                    "{len_max} {step}"
                );
                assert_eq!(pool.in_use(), 0);
            }
        }
    }
}
