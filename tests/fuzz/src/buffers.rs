//! Receive buffers, send queues and boxes in one pool, against plain vectors.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use coring::parts::{
    BLOCK_BYTES, Chunk, FileSpan, Outgoing, Part, Pool, PoolBox, RecvBuf, SendQueue,
};

use crate::input::Input;

/// The most steps of one input.
const STEPS_MAX: usize = 120;
/// No step adds bytes to a buffer or a queue that has more than this.
const BYTES_MAX: usize = 40_000;
/// The most parts that the test holds at a time.
const HELD_MAX: usize = 16;
/// The most parts in one send.
const PARTS_MAX: usize = 64;
const STATIC: &[u8] = b"0123456789012345678901234567890123456789012345678901234567890123";

/// Applies the operations of an input to the real buffers and to vectors.
///
/// # Panics
/// If the two differ, if a block is leaked, or if bytes change while they are held.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mut buffers = Buffers::new();
    for _ in 0..STEPS_MAX {
        let Some(step) = input.byte() else { break };
        match step % 20 {
            0..=2 => buffers.receive(&mut input),
            3 | 4 => buffers.consume(&mut input),
            5 | 6 => buffers.take(&mut input),
            7 => buffers.release(&mut input),
            8 | 9 => buffers.slice(&mut input),
            10..=12 => buffers.write(&mut input),
            13 => buffers.push(&mut input),
            14 => buffers.push_span(&mut input),
            15 | 16 => buffers.send(&mut input),
            17 => buffers.sent(&mut input),
            18 => buffers.make_box(&mut input),
            _ => buffers.drop_box(&mut input),
        }
        buffers.compare();
    }
    buffers.end();
}

/// Counts its drops.
struct DropCounter(Rc<Cell<usize>>);

impl Drop for DropCounter {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// A box of a small value, of a value that nearly fills a block, or of one larger than a block.
enum Boxed {
    Small(PoolBox<(u64, DropCounter)>),
    Block(PoolBox<([u8; 4000], DropCounter)>),
    Large(PoolBox<([u8; 5000], DropCounter)>),
}

/// The real buffers, each with a vector of the bytes that it must contain.
struct Buffers {
    pool: Pool,
    received: RecvBuf,
    unread: Vec<u8>,
    queue: SendQueue,
    /// The bytes that are not sent yet: those of `sending`, then those of `queue`.
    unsent: Vec<u8>,
    file: Arc<OwnedFd>,
    sending: Option<(Outgoing, Vec<u8>)>,
    held: Vec<(Part, Vec<u8>)>,
    boxes: Vec<Boxed>,
    boxes_made: usize,
    boxes_dropped: Rc<Cell<usize>>,
    /// The start value of the next `fresh` bytes.
    next: u8,
}

impl Buffers {
    fn new() -> Self {
        Self {
            pool: Pool::new(),
            received: RecvBuf::new(),
            unread: Vec::new(),
            queue: SendQueue::new(),
            unsent: Vec::new(),
            file: Arc::new(File::open("/dev/null").expect("a device").into()),
            sending: None,
            held: Vec::new(),
            boxes: Vec::new(),
            boxes_made: 0,
            boxes_dropped: Rc::default(),
            next: 0,
        }
    }

    /// Pseudo-random bytes, so that a mix-up of bytes is detected.
    fn fresh(&mut self, len: usize) -> Vec<u8> {
        self.next = self.next.wrapping_add(37);
        let mut byte = self.next;
        let bytes = (0..len).map(|_| {
            byte = byte.wrapping_mul(5).wrapping_add(1);
            byte ^ byte >> 3
        });
        bytes.collect()
    }

    /// Fills a part of a block, as the kernel does for a receive. The rest may be held as a chunk.
    fn receive(&mut self, input: &mut Input<'_>) {
        let len = input.up_to(BLOCK_BYTES);
        let at = input.up_to(BLOCK_BYTES - len);
        if len == 0 || self.unread.len() > BYTES_MAX {
            return;
        }
        let bytes = self.fresh(len);
        let mut block = self.pool.take();
        block.as_mut_slice()[at..at + len].copy_from_slice(&bytes);
        let chunk = block.into_chunk(at..at + len);
        let skipped = match input.below(4) {
            0 => input.up_to(len - 1),
            _ => 0,
        };
        if skipped > 0 {
            self.hold(Part::Chunk(chunk.clone()), bytes.clone());
        }
        self.received.push(chunk.slice(skipped..len));
        self.unread.extend(&bytes[skipped..]);
    }

    fn consume(&mut self, input: &mut Input<'_>) {
        let len = input.up_to(self.unread.len());
        self.received.consume(len);
        self.unread.drain(..len);
    }

    fn take(&mut self, input: &mut Input<'_>) {
        let len = input.up_to(self.unread.len());
        let mut part = Part::Static(b"");
        self.received.take(len, &mut part);
        let bytes = self.unread.drain(..len).collect();
        self.hold(part, bytes);
    }

    fn hold(&mut self, part: Part, bytes: Vec<u8>) {
        if self.held.len() == HELD_MAX {
            self.held.remove(0);
        }
        self.held.push((part, bytes));
    }

    fn release(&mut self, input: &mut Input<'_>) {
        if !self.held.is_empty() {
            let number = input.below(self.held.len());
            self.held.swap_remove(number);
        }
    }

    /// Holds a slice of a held part.
    fn slice(&mut self, input: &mut Input<'_>) {
        if self.held.is_empty() {
            return;
        }
        let number = input.below(self.held.len());
        let (part, bytes) = &self.held[number];
        let start = input.up_to(bytes.len());
        let end = start + input.up_to(bytes.len() - start);
        let slice = match part {
            Part::Chunk(chunk) => Part::Chunk(Chunk::slice(chunk, start..end)),
            Part::Static(bytes) => Part::Static(&bytes[start..end]),
            Part::Bytes(bytes) => Part::Bytes(bytes.slice(start..end)),
        };
        let bytes = bytes[start..end].to_vec();
        self.hold(slice, bytes);
    }

    fn has_room(&self) -> bool {
        self.unsent.len() <= BYTES_MAX
    }

    fn write(&mut self, input: &mut Input<'_>) {
        let len_max = input.up_to(9000);
        let len = input.up_to(len_max);
        if !self.has_room() {
            return;
        }
        let bytes = self.fresh(len);
        if input.below(2) == 0 {
            self.queue.write(&self.pool, &bytes);
        } else {
            self.queue.write_with(&self.pool, len_max, |out| {
                assert!(out.len() >= len_max);
                out[..len].copy_from_slice(&bytes);
                len
            });
        }
        self.unsent.extend(bytes);
    }

    fn push(&mut self, input: &mut Input<'_>) {
        if !self.has_room() {
            return;
        }
        let (part, bytes) = match input.below(3) {
            0 => {
                let len = input.up_to(9000);
                let bytes = self.fresh(len);
                (Part::Bytes(Bytes::from(bytes.clone())), bytes)
            }
            1 => {
                let bytes = &STATIC[..input.up_to(STATIC.len())];
                (Part::Static(bytes), bytes.to_vec())
            }
            _ if self.held.is_empty() => return,
            _ => {
                let number = input.below(self.held.len());
                self.held.swap_remove(number)
            }
        };
        self.queue.push(part);
        self.unsent.extend(bytes);
    }

    fn push_span(&mut self, input: &mut Input<'_>) {
        let len = 1 + input.up_to(5000);
        let offset = input.span();
        if self.has_room() {
            let span = FileSpan::new(self.file.clone(), offset, len);
            self.unsent.extend(bytes_of_span(&span));
            self.queue.push_span(span);
        }
    }

    fn send(&mut self, input: &mut Input<'_>) {
        let len_max = 1 + input.up_to(70_000);
        if self.sending.is_some() {
            return;
        }
        let Some(outgoing) = self.queue.take(len_max) else {
            assert!(
                self.unsent.is_empty(),
                "{} bytes are lost",
                self.unsent.len()
            );
            return;
        };
        let bytes = bytes_of(&outgoing);
        assert_eq!(bytes.len(), outgoing.len());
        assert!(
            self.unsent.starts_with(&bytes),
            "the queue takes the wrong bytes"
        );
        match &outgoing {
            // Neither a span nor the block before it is split at `len_max`.
            Outgoing::File(file) => assert!(file.head_len() <= BLOCK_BYTES),
            Outgoing::One(_) => assert!(bytes.len() <= len_max),
            Outgoing::Many(parts) => {
                assert!(bytes.len() <= len_max && parts.len() <= PARTS_MAX);
            }
        }
        self.sending = Some((outgoing, bytes));
    }

    fn sent(&mut self, input: &mut Input<'_>) {
        let Some((outgoing, bytes)) = self.sending.take() else {
            return;
        };
        let sent = input.up_to(bytes.len());
        self.queue.put_back(outgoing, sent);
        self.unsent.drain(..sent);
    }

    fn make_box(&mut self, input: &mut Input<'_>) {
        let counter = DropCounter(self.boxes_dropped.clone());
        self.boxes_made += 1;
        self.boxes.push(match input.below(3) {
            0 => Boxed::Small(PoolBox::new(&self.pool, || (7, counter))),
            1 => Boxed::Block(PoolBox::new(&self.pool, || ([7; 4000], counter))),
            _ => Boxed::Large(PoolBox::new(&self.pool, || ([7; 5000], counter))),
        });
    }

    fn drop_box(&mut self, input: &mut Input<'_>) {
        if self.boxes.is_empty() {
            return;
        }
        let number = input.below(self.boxes.len());
        match self.boxes.swap_remove(number) {
            Boxed::Small(value) => assert_eq!(value.0, 7),
            Boxed::Block(value) => assert!(value.0.iter().all(|byte| *byte == 7)),
            Boxed::Large(value) => assert!(value.0.iter().all(|byte| *byte == 7)),
        }
    }

    fn compare(&self) {
        assert_eq!(self.received.unread(), self.unread);
        assert_eq!(self.received.is_empty(), self.unread.is_empty());
        let sending = self.sending.as_ref().map_or(0, |(_, bytes)| bytes.len());
        assert_eq!(self.queue.len() + sending, self.unsent.len());
        assert_eq!(self.queue.is_empty(), self.unsent.len() == sending);
        for (part, bytes) in &self.held {
            assert_eq!(**part, bytes[..], "a held part has changed");
        }
        if let Some((outgoing, bytes)) = &self.sending {
            assert_eq!(&bytes_of(outgoing), bytes, "an outgoing part has changed");
        }
        assert_eq!(self.boxes_made, self.boxes_dropped.get() + self.boxes.len());
    }

    /// Sends everything and drops everything. Then no block may be in use.
    fn end(mut self) {
        if let Some((outgoing, bytes)) = self.sending.take() {
            self.queue.put_back(outgoing, bytes.len());
            self.unsent.drain(..bytes.len());
        }
        while let Some(outgoing) = self.queue.take(3000) {
            let bytes = bytes_of(&outgoing);
            // The queue may hold an empty block. It may send that only when nothing else is left.
            assert!(!bytes.is_empty() || self.unsent.is_empty());
            assert!(self.unsent.starts_with(&bytes));
            self.unsent.drain(..bytes.len());
            self.queue.put_back(outgoing, bytes.len());
        }
        assert!(self.unsent.is_empty() && self.queue.is_empty());
        let (pool, made, dropped) = (
            self.pool.clone(),
            self.boxes_made,
            self.boxes_dropped.clone(),
        );
        drop(self);
        assert_eq!(pool.in_use(), 0, "blocks are leaked");
        assert_eq!(made, dropped.get());
    }
}

fn bytes_of(outgoing: &Outgoing) -> Vec<u8> {
    match outgoing {
        Outgoing::One(chunk) => chunk.to_vec(),
        Outgoing::Many(parts) => parts
            .iter()
            .map(|part| &**part)
            .collect::<Vec<_>>()
            .concat(),
        Outgoing::File(file) => {
            let head = file.head.as_ref().map_or(&[][..], |head| head);
            [head, &bytes_of_span(&file.span)].concat()
        }
    }
}

/// The bytes that the test uses for a span: each one is the lowest byte of its offset in the file.
fn bytes_of_span(span: &FileSpan) -> Vec<u8> {
    let places = (span.offset()..).take(span.len());
    places.map(|place| place.to_le_bytes()[0]).collect()
}
