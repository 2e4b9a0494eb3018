//! The parts of a body that are written and not yet read.

use std::collections::VecDeque;
use std::mem;

use crate::buf::Part;

/// The longest chunk that is copied into `tail`, in bytes. A longer one, in its block of 4 KiB,
/// takes no more than twice its length.
const SMALL_CHUNK_BYTES_MAX: usize = 2048;
/// The longest other part that is copied, in bytes. Other parts hold no more than their bytes,
/// which several queues may share: an event that is sent to many clients, for example.
const TINY_PART_BYTES_MAX: usize = 64;
/// The size that `tail` may grow to, in bytes. The larger it is, the fewer chunks are sent.
const TAIL_BYTES_MAX: usize = 16 << 10;

/// A queue of parts that takes little more memory than their bytes. A part may hold much more
/// memory than its bytes: a single received byte holds a block of 4 KiB. So small parts are copied
/// behind one another and become one part, except the first part of an empty queue.
#[derive(Debug, Default)]
pub(super) struct PartQueue {
    /// The parts to read before the bytes in `tail`.
    parts: VecDeque<Part>,
    /// Copies of small parts.
    tail: Vec<u8>,
}

impl PartQueue {
    /// Appends a copy of `part` if it is small and not the first. Returns whether it did.
    pub(super) fn copy(&mut self, part: &Part) -> bool {
        let is_first = self.parts.is_empty() && self.tail.is_empty();
        let copied_bytes_max = match part {
            Part::Chunk(_) => SMALL_CHUNK_BYTES_MAX,
            _ => TINY_PART_BYTES_MAX,
        };
        if is_first || part.len() > copied_bytes_max {
            return false;
        }
        if self.tail.len() + part.len() > TAIL_BYTES_MAX {
            self.seal();
        }
        self.tail.extend_from_slice(part);
        true
    }

    /// Appends `part` without copying it.
    pub(super) fn push(&mut self, part: Part) {
        self.seal();
        self.parts.push_back(part);
    }

    /// Removes the first part.
    pub(super) fn pop(&mut self) -> Option<Part> {
        if self.parts.is_empty() {
            self.seal();
        }
        self.parts.pop_front()
    }

    /// Moves the bytes in `tail` to `parts`.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            // The boxed slice has no unused capacity.
            let tail = mem::take(&mut self.tail).into_boxed_slice();
            self.parts.push_back(Part::Bytes(tail.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::Pool;

    /// Queues `part` in a block of its own.
    fn write(pool: &Pool, queue: &mut PartQueue, bytes: &[u8]) {
        let mut block = pool.take();
        block.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        let part = Part::from(block.into_chunk(0..bytes.len()));
        if !queue.copy(&part) {
            queue.push(part);
        }
    }

    #[test]
    fn parts_of_all_lengths_keep_their_order_and_hold_few_blocks() {
        let pool = Pool::new();
        for lengths in [
            &[1][..],
            &[4096],
            &[2048],
            &[2049],
            &[2049, 1],
            &[1, 2049, 2048, 7, 4096, 100],
        ] {
            let (mut queue, mut expected) = (PartQueue::default(), Vec::new());
            for (number, &len) in (0_u8..=u8::MAX)
                .cycle()
                .zip(lengths.iter().cycle())
                .take(1000)
            {
                expected.resize(expected.len() + len, number);
                write(&pool, &mut queue, &expected[expected.len() - len..]);
            }
            let held = pool.in_use() * 4096;
            assert!(held <= 2 * expected.len() + 4096, "{held} {lengths:?}");
            let mut content = Vec::new();
            while let Some(part) = queue.pop() {
                content.extend_from_slice(&part);
            }
            assert!(content == expected, "{lengths:?}");
            assert_eq!(pool.in_use(), 0);
        }
    }

    /// Clients that do not read share the memory of what is sent to all of them.
    #[test]
    fn bytes_that_are_shared_are_not_copied() {
        let event = bytes::Bytes::from(vec![b'x'; 1000]);
        let mut queue = PartQueue::default();
        for _ in 0..3 {
            let part = Part::from(event.clone());
            assert!(!queue.copy(&part));
            queue.push(part);
        }
        while let Some(part) = queue.pop() {
            assert_eq!(part.as_ptr(), event.as_ptr());
        }
    }

    /// A reader that keeps up gets each part as it was written, without a copy.
    #[test]
    fn a_part_alone_in_the_queue_is_not_copied() {
        let mut queue = PartQueue::default();
        for _ in 0..2 {
            let part = Part::from("part");
            let start = part.as_ptr();
            assert!(!queue.copy(&part));
            queue.push(part);
            assert_eq!(queue.pop().unwrap().as_ptr(), start);
            assert!(queue.pop().is_none());
        }
    }
}
