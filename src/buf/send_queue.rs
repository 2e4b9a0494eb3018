//! The bytes and file spans that a connection has yet to send, in order.

use std::collections::VecDeque;

use super::chunk::{Block, Chunk};
use super::file_span::FileSpan;
use super::outgoing::{HeadAndSpan, Outgoing};
use super::part::Part;
use super::pool::{BLOCK_BYTES, Pool};
use crate::sys::mutants::mutate;

/// The send queue of one connection. Small parts are copied into a block; large parts and spans of
/// files are queued without a copy. All are sent in the order in which they were queued. An empty
/// queue holds no memory.
#[derive(Debug, Default)]
pub struct SendQueue {
    /// The entries to send before the bytes in `tail`. Usually there are none.
    #[expect(
        clippy::box_collection,
        reason = "the size of this type counts for every idle connection"
    )]
    sealed: Option<Box<VecDeque<Queued>>>,
    tail: Option<Tail>,
    /// The number of queued bytes.
    len: usize,
}

/// An entry of the queue.
#[derive(Debug)]
enum Queued {
    Memory(Part),
    /// A span of a file, with the bytes that were in `tail` when it was queued. Both are sent
    /// together, so that a head shares its packet with the start of its body.
    File(Box<HeadAndSpan>),
}

/// The block at the end of the queue, which small parts are copied to.
#[derive(Debug)]
struct Tail {
    block: Block,
    len: usize,
}

impl SendQueue {
    /// The largest number of parts in one send. The kernel's limit is 1024 (`UIO_MAXIOV`).
    const SEND_PARTS_MAX: usize = 64;

    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            sealed: None,
            tail: None,
            len: 0,
        }
    }

    /// The number of queued bytes, including those of files.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no bytes are queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends bytes that `write` generates. It gets at least `len_max` contiguous bytes to write
    /// to, and returns how many it has written.
    #[inline]
    pub fn write_with(
        &mut self,
        pool: &Pool,
        len_max: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) {
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

    /// Appends a copy of `bytes`, which should be short.
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
        self.seal();
        self.len += part.len();
        self.push_sealed(Queued::Memory(part));
    }

    /// Appends a span of a file. It becomes one send, so the caller must limit its size.
    #[cold]
    pub fn push_span(&mut self, span: FileSpan) {
        let head = self.take_tail();
        self.len += span.len();
        self.push_sealed(Queued::File(Box::new(HeadAndSpan { head, span })));
    }

    /// Takes all queued bytes if they are in one block and not more than `len_max`.
    #[inline(always)]
    pub fn take_one(&mut self, len_max: usize) -> Option<Chunk> {
        if self.sealed.is_some() || self.len > len_max {
            return None;
        }
        let Tail { block, len } = self.tail.take()?;
        self.len = 0;
        Some(block.into_chunk(0..len))
    }

    /// Takes the data of the next send: at most `len_max` bytes of memory, or a span of a file with
    /// the bytes that are sent together with it. `None` if the queue is empty.
    #[inline]
    pub fn take(&mut self, len_max: usize) -> Option<Outgoing> {
        if let Some(chunk) = self.take_one(len_max) {
            return Some(Outgoing::One(chunk));
        }
        if self.is_empty() {
            return None;
        }
        self.take_queued(len_max)
    }

    /// [`SendQueue::take`] for a queue that `take_one` does not apply to.
    #[inline(never)]
    fn take_queued(&mut self, len_max: usize) -> Option<Outgoing> {
        let outgoing = match self.take_file() {
            Some(file) => Outgoing::File(file),
            None => Outgoing::Many(self.take_memory(len_max)?),
        };
        if self.sealed.as_ref().is_some_and(|sealed| sealed.is_empty()) {
            self.sealed = None;
        }
        self.len -= outgoing.len();
        Some(outgoing)
    }

    /// Puts the rest of `outgoing` back to the front of the queue. `sent` is the number of its
    /// bytes that were sent.
    #[inline]
    pub fn put_back(&mut self, outgoing: Outgoing, sent: usize) {
        if sent < outgoing.len() {
            self.put_back_rest(outgoing, sent);
        }
    }

    /// Moves the bytes in `tail` to `sealed`. Later bytes go to another block.
    fn seal(&mut self) {
        if let Some(chunk) = self.take_tail() {
            self.push_sealed(Queued::Memory(Part::Chunk(chunk)));
        }
    }

    /// Takes the bytes in `tail`, if there are any.
    fn take_tail(&mut self) -> Option<Chunk> {
        let Tail { block, len } = self.tail.take()?;
        (len > 0).then(|| block.into_chunk(0..len))
    }

    fn push_sealed(&mut self, queued: Queued) {
        self.sealed.get_or_insert_default().push_back(queued);
    }

    /// Takes the first entry if it is a span of a file.
    fn take_file(&mut self) -> Option<Box<HeadAndSpan>> {
        let sealed = self.sealed.as_mut()?;
        match sealed.pop_front()? {
            Queued::File(file) => Some(file),
            memory @ Queued::Memory(_) => {
                sealed.push_front(memory);
                None
            }
        }
    }

    /// Takes up to `len_max` bytes of memory, and none beyond the next span of a file.
    fn take_memory(&mut self, len_max: usize) -> Option<Vec<Part>> {
        self.seal();
        let sealed = self.sealed.as_mut()?;
        let mut taken = Vec::with_capacity(sealed.len().min(Self::SEND_PARTS_MAX));
        let mut room = len_max;
        while room > 0 && taken.len() < Self::SEND_PARTS_MAX {
            match sealed.pop_front() {
                Some(Queued::Memory(part)) if part.len() <= room => {
                    room -= part.len();
                    taken.push(part);
                }
                Some(Queued::Memory(mut part)) => {
                    taken.push(part.first(room));
                    part.advance(room);
                    sealed.push_front(Queued::Memory(part));
                    break;
                }
                Some(file) => {
                    sealed.push_front(file);
                    break;
                }
                None => break,
            }
        }
        (!taken.is_empty()).then_some(taken)
    }

    #[cold]
    fn put_back_rest(&mut self, outgoing: Outgoing, mut sent: usize) {
        self.len += outgoing.len() - sent;
        let parts = match outgoing {
            Outgoing::One(chunk) => vec![Part::Chunk(chunk)],
            Outgoing::Many(parts) => parts,
            Outgoing::File(mut file) => {
                file.advance(sent);
                return self.put_front(Queued::File(file));
            }
        };
        let mut rest = Vec::with_capacity(parts.len());
        for mut part in parts {
            let sent_of_part = sent.min(part.len());
            sent -= sent_of_part;
            part.advance(sent_of_part);
            if !part.is_empty() {
                rest.push(part);
            }
        }
        for part in rest.into_iter().rev() {
            self.put_front(Queued::Memory(part));
        }
    }

    fn put_front(&mut self, queued: Queued) {
        let sealed = self.sealed.get_or_insert_default();
        mutate!(
            PutBackLast,
            sealed.push_back(queued),
            sealed.push_front(queued)
        );
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
                // Each byte of the file is the low byte of its offset.
                head.chain((from..).take(len).map(|at| at.to_le_bytes()[0]))
                    .collect()
            }
        }
    }

    /// Sends the whole queue. Each send has at most `len_max` bytes, of which only `step` are sent.
    fn drain(queue: &mut SendQueue, len_max: usize, step: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while let Some(outgoing) = queue.take(len_max) {
            let is_bounded = !matches!(outgoing, Outgoing::File(_));
            assert!(!is_bounded || outgoing.len() <= len_max);
            let n = outgoing.len().min(step);
            sent.extend_from_slice(&bytes_of(&outgoing)[..n]);
            queue.put_back(outgoing, n);
        }
        assert!(queue.is_empty());
        sent
    }

    /// Queues parts of every kind. Returns their bytes.
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
    fn small_responses_share_one_block_and_one_send() {
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

    /// A file. Its spans are not read in these tests.
    fn file() -> Arc<OwnedFd> {
        Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()))
    }

    #[test]
    fn memory_and_spans_are_sent_in_the_order_in_which_they_were_queued() {
        let pool = Pool::new();
        let file = file();
        // Sending byte by byte takes Miri minutes.
        let smallest = if cfg!(miri) { 3 } else { 0 };
        for &len_max in &[1, 7, 100, 4096, 1 << 18][smallest..] {
            for &step in &[1, 3, 100, 250, 9000][smallest..] {
                let mut queue = SendQueue::new();
                queue.push_span(FileSpan::new(file.clone(), 3, 1));
                queue.write(&pool, b"head one|");
                queue.push_span(FileSpan::new(file.clone(), 7, 200));
                queue.push_span(FileSpan::new(file.clone(), 100, 50));
                let mut expected = [&[3], &b"head one|"[..]].concat();
                expected.extend((7..207_u8).chain(100..150));
                expected.extend(fill(&pool, &mut queue));
                queue.push_span(FileSpan::new(file.clone(), 20, 4));
                queue.write(&pool, b"the end");
                expected.extend([20, 21, 22, 23]);
                expected.extend(b"the end");
                assert_eq!(queue.len(), expected.len());
                let sent = drain(&mut queue, len_max, step);
                assert!(sent == expected, "{len_max} {step}");
                assert_eq!(pool.in_use(), 0);
            }
        }
        assert_eq!(Arc::strong_count(&file), 1);
    }

    #[test]
    fn a_head_is_sent_with_the_span_after_it_and_not_with_the_next_span() {
        let pool = Pool::new();
        let mut queue = SendQueue::new();
        for _ in 0..2 {
            queue.write(&pool, b"head|");
            queue.push_span(FileSpan::new(file(), 7, 200));
        }
        queue.write(&pool, b"end");
        for left in [208, 3] {
            let outgoing = queue.take(1 << 18).unwrap();
            let Outgoing::File(file) = &outgoing else {
                panic!("{outgoing:?}");
            };
            assert_eq!((file.head_len(), file.span.len()), (5, 200));
            assert_eq!(queue.len(), left);
        }
        let outgoing = queue.take(1 << 18).unwrap();
        assert!(matches!(&outgoing, Outgoing::One(chunk) if chunk[..] == *b"end"));
    }

    #[test]
    fn a_span_that_is_put_back_is_sent_before_the_entries_queued_after_it() {
        let pool = Pool::new();
        for (sent, head_left, span_left) in [(0, 5, 7..207), (2, 3, 7..207), (5, 0, 7..207)]
            .into_iter()
            .chain([(6, 0, 8..207), (204, 0, 206..207)])
        {
            let mut queue = SendQueue::new();
            queue.write(&pool, b"head|");
            queue.push_span(FileSpan::new(file(), 7, 200));
            let outgoing = queue.take(1 << 18).unwrap();
            // These are queued while the span is being sent.
            queue.write(&pool, b"next|");
            queue.push_span(FileSpan::new(file(), 0, 1));
            queue.put_back(outgoing, sent);
            assert_eq!(queue.len(), 205 - sent + 6);
            let Some(Outgoing::File(file)) = queue.take(1 << 18) else {
                panic!("the rest of the span must be sent first");
            };
            let left = file.span.offset()..file.span.offset() + file.span.len() as u64;
            assert_eq!((file.head_len(), left), (head_left, span_left));
            assert_eq!(bytes_of(&queue.take(1 << 18).unwrap()), b"next|\0");
        }
    }

    #[test]
    fn sending_continues_where_a_short_send_stopped() {
        let pool = Pool::new();
        // Sending byte by byte takes Miri minutes.
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
