//! The queue between the writer and the reader of a body, both on one worker.
//!
//! A request's body is pulled: the connection, whose end is the [`Inlet`], receives only while a
//! reader waits, so a slow service slows its own client and nobody else. A response's body is
//! written ahead of the connection that reads it, up to a bound: see
//! [`BodySender`](super::BodySender).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::mem;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ::http::{HeaderMap, HeaderName, HeaderValue};

use super::body::{Body, BodyError};
use super::body_sender::Gone;
use crate::buf::Part;
use crate::rt::{note_waker, wake};

/// What the two ends of a body share.
#[derive(Debug)]
pub(super) struct BodyPipe {
    /// Bytes that are not yet read, where the length is known.
    left: Cell<Option<u64>>,
    /// Written and not yet read.
    parts: RefCell<VecDeque<Part>>,
    /// The bytes of `parts`.
    queued_bytes: Cell<usize>,
    /// How many bytes a writer that waits for room may have queued.
    bytes_max: usize,
    end: Cell<Option<Result<(), BodyError>>>,
    /// What follows the last part.
    trailers: RefCell<Option<HeaderMap>>,
    /// The reader has asked for more than there is, and still waits as far as we know.
    wanted: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    writer_waits_for: Cell<WaitsFor>,
}

/// What the writer is woken for, besides the reader's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    /// A reader that asks for more, or gives up.
    Request,
    /// Room in the queue.
    Room,
    /// Nothing else.
    End,
}

impl BodyPipe {
    /// A pipe for `length` bytes, if that is known; up to `bytes_max` of them in its queue.
    pub(super) fn new(length: Option<u64>, bytes_max: usize) -> Rc<Self> {
        Rc::new(Self {
            left: Cell::new(length),
            parts: RefCell::default(),
            queued_bytes: Cell::new(0),
            bytes_max,
            end: Cell::new(None),
            trailers: RefCell::default(),
            wanted: Cell::new(false),
            reader: RefCell::default(),
            writer: RefCell::default(),
            writer_waits_for: Cell::new(WaitsFor::Request),
        })
    }

    /// Whether the reader's end is still there.
    pub(super) fn has_reader(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 1
    }

    /// Whether the queue takes `len` bytes more. An empty one takes any part.
    pub(super) fn has_room(&self, len: usize) -> bool {
        let queued = self.queued_bytes.get();
        queued == 0 || queued.saturating_add(len) <= self.bytes_max
    }

    /// Ready when there is room for `len` bytes.
    pub(super) fn poll_room(
        self: &Rc<Self>,
        len: usize,
        context: &Context<'_>,
    ) -> Poll<Result<(), Gone>> {
        if !self.has_reader() {
            return Poll::Ready(Err(Gone));
        }
        if self.has_room(len) {
            return Poll::Ready(Ok(()));
        }
        self.writer_waits_for.set(WaitsFor::Room);
        set(&self.writer, context.waker());
        Poll::Pending
    }

    /// Ready when the reader's end is gone.
    pub(super) fn poll_gone(self: &Rc<Self>, context: &Context<'_>) -> Poll<()> {
        if !self.has_reader() {
            return Poll::Ready(());
        }
        self.writer_waits_for.set(WaitsFor::End);
        set(&self.writer, context.waker());
        Poll::Pending
    }

    /// Queues `part`, which is not empty, and wakes the reader.
    pub(super) fn push(&self, part: Part) {
        self.queued_bytes.set(self.queued_bytes.get() + part.len());
        self.parts.borrow_mut().push_back(part);
        self.wake_reader();
    }

    /// Leaves `trailers` for the reader; the end is to follow.
    pub(super) fn set_trailers(&self, trailers: HeaderMap) {
        self.trailers.replace(Some(trailers));
    }

    /// Nothing more will come; the first call counts. The reader is woken.
    pub(super) fn end(&self, end: Result<(), BodyError>) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            self.wake_reader();
        }
    }

    fn wake_reader(&self) {
        self.wanted.set(false);
        if let Some(reader) = self.reader.take() {
            wake(reader);
        }
    }

    fn wake_writer(&self) {
        if let Some(writer) = self.writer.take() {
            wake(writer);
        }
    }
}

/// The reader's end of a body. When it is dropped, the writer learns that nobody wants the rest.
#[derive(Debug)]
pub(super) struct BodyReader(Rc<BodyPipe>);

impl BodyReader {
    /// The reader's end of `pipe`, which has one.
    pub(super) fn new(pipe: Rc<BodyPipe>) -> Self {
        Self(pipe)
    }

    /// How many bytes are not yet read, where the length is known.
    pub(super) fn left(&self) -> Option<u64> {
        self.0.left.get()
    }

    /// Says how long the body will be, before anything is read.
    pub(super) fn set_length(&self, length: u64) {
        self.0.left.set(Some(length));
    }

    /// What followed the last part.
    pub(super) fn take_trailers(&self) -> Option<HeaderMap> {
        self.0.end.get()?.ok()?;
        self.0.trailers.take()
    }

    /// How many bytes may be queued.
    pub(super) fn bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// The next part; none at the end of the body.
    pub(super) fn poll_part(&self, context: &Context<'_>) -> Poll<Result<Option<Part>, BodyError>> {
        let pipe = &*self.0;
        // A statement of its own: the queue is not borrowed while others are woken.
        let part = pipe.parts.borrow_mut().pop_front();
        if let Some(part) = part {
            let len = part.len();
            if let Some(left) = pipe.left.get() {
                let Some(left) = left.checked_sub(len as u64) else {
                    pipe.end.set(Some(Err(BodyError::WrongLength)));
                    return Poll::Ready(Err(BodyError::WrongLength));
                };
                pipe.left.set(Some(left));
            }
            pipe.queued_bytes.set(pipe.queued_bytes.get() - len);
            if pipe.writer_waits_for.get() == WaitsFor::Room {
                pipe.wake_writer();
            }
            return Poll::Ready(Ok(Some(part)));
        }
        match pipe.end.get() {
            Some(Ok(())) if pipe.left.get().is_some_and(|left| left > 0) => {
                return Poll::Ready(Err(BodyError::WrongLength));
            }
            Some(end) => return Poll::Ready(end.map(|()| None)),
            None => {}
        }
        set(&pipe.reader, context.waker());
        // Told once: two connections that wait for each other's bodies would wake each other on.
        if !pipe.wanted.replace(true)
            && pipe.writer_waits_for.get() == WaitsFor::Request
            && let Some(connection) = pipe.writer.take()
            && !connection.will_wake(context.waker())
        {
            wake(connection);
        }
        Poll::Pending
    }

    /// The reader waits no more. A connection that receives for it is told: the time until it is
    /// asked again does not count.
    pub(super) fn give_up(&self) {
        if self.0.wanted.take() && self.0.writer_waits_for.get() == WaitsFor::Request {
            self.0.wake_writer();
        }
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        let parts = mem::take(&mut *self.0.parts.borrow_mut());
        if self.0.end.get().is_none() {
            self.0.wake_writer();
        }
        // Last: their memory may be of others, with destructors that come back here.
        drop(parts);
    }
}

/// The connection's end of a request's body. When it goes before the body is whole, however that
/// comes, the reader is told.
#[derive(Debug)]
pub struct Inlet(Rc<BodyPipe>);

impl Inlet {
    /// Both ends of a body that is still to come, `length` bytes long if that is known.
    pub fn new(length: Option<u64>) -> (Self, Body) {
        let pipe = BodyPipe::new(length, 0);
        (Self(pipe.clone()), Body::incoming(BodyReader::new(pipe)))
    }

    /// How many bytes are not yet read, where the head tells.
    pub fn left(&self) -> Option<u64> {
        self.0.left.get()
    }

    /// Whether anybody has the other end.
    pub fn has_reader(&self) -> bool {
        self.0.has_reader()
    }

    /// Whether `reader` has the other end.
    pub(super) fn leads_to(&self, reader: &BodyReader) -> bool {
        Rc::ptr_eq(&self.0, &reader.0)
    }

    /// Takes back what a reader in the caller's own task has asked for: it is about to be polled,
    /// and asks again unless it has given up.
    pub fn forget_own_reader(&self, context: &Context<'_>) {
        let is_own = |reader: &mut Waker| reader.will_wake(context.waker());
        let own = self.0.reader.borrow_mut().take_if(is_own);
        if own.is_some() {
            self.0.wanted.set(false);
        }
    }

    /// Whether somebody waits for more. The caller is woken when more is asked for, and when a read
    /// is given up.
    pub fn poll_wanted(&self, context: &Context<'_>) -> bool {
        set(&self.0.writer, context.waker());
        self.0.wanted.get() && self.has_reader()
    }

    /// A part has arrived. A reader in the caller's own task is not woken: it is to be polled next.
    pub fn push(&self, part: Part, context: &Context<'_>) {
        self.forget_own_reader(context);
        self.0.push(part);
    }

    /// A trailer has arrived: it is the reader's after the end. False: there are too many.
    pub fn push_trailer(&self, name: HeaderName, value: HeaderValue) -> bool {
        let mut trailers = self.0.trailers.borrow_mut();
        let trailers = trailers.get_or_insert_default();
        trailers.try_append(name, value).is_ok()
    }

    /// That was the whole body; the reader is woken as by [`Inlet::push`].
    pub fn finish(&self, context: &Context<'_>) {
        self.forget_own_reader(context);
        self.0.end(Ok(()));
    }

    /// Whether nothing more will come.
    pub fn is_finished(&self) -> bool {
        self.0.end.get().is_some()
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.end(Err(BodyError::Incomplete));
    }
}

fn set(place: &RefCell<Option<Waker>>, waker: &Waker) {
    let replaced = note_waker(&mut place.borrow_mut(), waker);
    drop(replaced);
}
