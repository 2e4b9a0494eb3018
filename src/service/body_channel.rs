//! The channel between the writer and the reader of a body, both on one worker.
//!
//! For a request's body the connection is the writer, through an [`RequestBodySender`]. It receives
//! only while the reader waits, so a slow service slows down only its own client. For a response's
//! body the connection is the reader, and the program writes ahead of it up to a limit, through a
//! [`BodySender`](super::BodySender).

use std::cell::{Cell, RefCell};
use std::mem;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ::http::{HeaderMap, HeaderName, HeaderValue};

use super::body::{Body, BodyError};
use super::body_sender::Gone;
use super::part_queue::PartQueue;
use super::response_memory::{CountedBytes, ResponseMemory};
use crate::buf::Part;
use crate::rt::{ClonedWaker, wake};

/// The state that writer and reader share.
#[derive(Debug)]
pub(super) struct BodyChannel {
    /// The number of bytes that are not yet read, if the body's length is known.
    left: Cell<Option<u64>>,
    /// Parts that are written and not yet read.
    parts: RefCell<PartQueue>,
    /// The total length of `parts`, in bytes.
    queued_bytes: Cell<usize>,
    /// The limit of `queued_bytes` for [`BodyChannel::poll_room`]. An [`RequestBodySender`] does
    /// not use it.
    bytes_max: usize,
    /// Counts the bytes that are queued, if they have a limit in common with those of other bodies.
    counted: Option<RefCell<CountedBytes>>,
    /// How the body ended, once it has: complete, or with an error.
    end: Cell<Option<Result<(), BodyError>>>,
    /// The trailers, for the reader to take after the end.
    trailers: RefCell<Option<HeaderMap>>,
    /// The reader found the queue empty, and has neither got a part nor given up since.
    wanted: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    writer_waits_for: Cell<WaitsFor>,
}

/// The event that wakes the writer. Dropping the reader wakes it in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    /// The reader asks for more, or gives up.
    Request,
    /// The queue has room.
    Room,
    /// No event but the drop of the reader.
    End,
}

impl BodyChannel {
    /// A channel for a body of `length` bytes, if that is known. Its queue holds up to `bytes_max`,
    /// and one part while `memory` is full.
    pub(super) fn new(
        length: Option<u64>,
        bytes_max: usize,
        memory: Option<&ResponseMemory>,
    ) -> Rc<Self> {
        Rc::new(Self {
            left: Cell::new(length),
            parts: RefCell::default(),
            queued_bytes: Cell::new(0),
            bytes_max,
            counted: memory.map(|memory| RefCell::new(memory.count(0))),
            end: Cell::new(None),
            trailers: RefCell::default(),
            wanted: Cell::new(false),
            reader: RefCell::default(),
            writer: RefCell::default(),
            writer_waits_for: Cell::new(WaitsFor::Request),
        })
    }

    /// Whether the reader still exists. Only the writer may ask: it holds the other reference.
    pub(super) fn has_reader(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 1
    }

    /// Whether the queue has room for a part of `len` bytes. An empty queue has room for any part.
    pub(super) fn has_room(&self, len: usize) -> bool {
        let queued = self.queued_bytes.get();
        let fits = || queued.saturating_add(len) <= self.bytes_max;
        queued == 0 || fits() && !self.is_short_of_memory()
    }

    /// Whether the limit that the body has in common with others is reached.
    fn is_short_of_memory(&self) -> bool {
        let counted = self.counted.as_ref();
        counted.is_some_and(|counted| counted.borrow().is_full())
    }

    fn set_queued(&self, bytes: usize) {
        self.queued_bytes.set(bytes);
        if let Some(counted) = &self.counted {
            counted.borrow_mut().set(bytes);
        }
    }

    /// Ready when the queue has room for a part of `len` bytes, or the reader is dropped.
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
        set(&self.writer, context);
        Poll::Pending
    }

    /// Ready when the reader is dropped.
    pub(super) fn poll_gone(self: &Rc<Self>, context: &Context<'_>) -> Poll<()> {
        if !self.has_reader() {
            return Poll::Ready(());
        }
        self.writer_waits_for.set(WaitsFor::End);
        set(&self.writer, context);
        Poll::Pending
    }

    /// Queues `part`, which is not empty, and wakes the reader.
    pub(super) fn push(&self, part: Part) {
        self.set_queued(self.queued_bytes.get() + part.len());
        // A part that was copied is dropped after the borrow ends: its memory may be foreign, and
        // its destructor may use this channel.
        let is_copied = self.parts.borrow_mut().copy(&part);
        if !is_copied {
            self.parts.borrow_mut().push(part);
        }
        self.wake_reader();
    }

    /// Sets the trailers. The writer must call this before [`BodyChannel::end`].
    pub(super) fn set_trailers(&self, trailers: HeaderMap) {
        self.trailers.replace(Some(trailers));
    }

    /// Ends the body and wakes the reader. Only the first call has an effect.
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

/// The reader of a body. Dropping it wakes the writer, unless the writer has completed the body.
#[derive(Debug)]
pub(super) struct BodyReader(Rc<BodyChannel>);

impl BodyReader {
    /// The reader of `channel`, which must not have one yet.
    pub(super) fn new(channel: Rc<BodyChannel>) -> Self {
        Self(channel)
    }

    /// The number of bytes that are not yet read, if the body's length is known.
    pub(super) fn left(&self) -> Option<u64> {
        self.0.left.get()
    }

    /// Whether the end of the body is known.
    pub(super) fn is_finished(&self) -> bool {
        self.0.end.get().is_some()
    }

    /// Sets the body's length. The caller must not have read any part yet.
    pub(super) fn set_length(&self, length: u64) {
        self.0.left.set(Some(length));
    }

    /// Takes the trailers, if the body has ended without an error.
    pub(super) fn take_trailers(&self) -> Option<HeaderMap> {
        self.0.end.get()?.ok()?;
        self.0.trailers.take()
    }

    /// The limit of the queue in bytes.
    pub(super) fn bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// Whether the limit that the body has in common with others is reached.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.0.is_short_of_memory()
    }

    /// The next part; `None` at the end of the body.
    pub(super) fn poll_part(&self, context: &Context<'_>) -> Poll<Result<Option<Part>, BodyError>> {
        let channel = &*self.0;
        // A separate statement, so that the borrow ends before the writer is woken below.
        let part = channel.parts.borrow_mut().pop();
        if let Some(part) = part {
            let len = part.len();
            if let Some(left) = channel.left.get() {
                let Some(left) = left.checked_sub(len as u64) else {
                    channel.end.set(Some(Err(BodyError::WrongLength)));
                    return Poll::Ready(Err(BodyError::WrongLength));
                };
                channel.left.set(Some(left));
            }
            channel.set_queued(channel.queued_bytes.get() - len);
            if channel.writer_waits_for.get() == WaitsFor::Room {
                channel.wake_writer();
            }
            return Poll::Ready(Ok(Some(part)));
        }
        match channel.end.get() {
            Some(Ok(())) if channel.left.get().is_some_and(|left| left > 0) => {
                return Poll::Ready(Err(BodyError::WrongLength));
            }
            Some(end) => return Poll::Ready(end.map(|()| None)),
            None => {}
        }
        set(&channel.reader, context);
        // Wake the connection only once per wait. Otherwise two connections that read each other's
        // bodies would wake each other forever. A connection that reads the body in its own task
        // needs no wake-up: it checks `poll_wanted` after this poll.
        if !channel.wanted.replace(true)
            && channel.writer_waits_for.get() == WaitsFor::Request
            && let Some(connection) = channel.writer.take()
            && !connection.will_wake(context.waker())
        {
            wake(connection);
        }
        Poll::Pending
    }

    /// Stops waiting for a part. This wakes a connection that receives for the reader: the time
    /// until the next request for a part must not count against its client.
    pub(super) fn give_up(&self) {
        if self.0.wanted.take() && self.0.writer_waits_for.get() == WaitsFor::Request {
            self.0.wake_writer();
        }
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        let parts = mem::take(&mut *self.0.parts.borrow_mut());
        self.0.set_queued(0);
        // The writer also waits if the reader itself has ended the body, as one of a wrong length.
        if self.0.end.get() != Some(Ok(())) {
            self.0.wake_writer();
        }
        // Last: a part's memory may be foreign, and its destructor may use this channel.
        drop(parts);
    }
}

/// The connection's end of a request's body: the connection writes received parts to it. If it is
/// dropped before the body is complete, the reader gets [`BodyError::Incomplete`].
#[derive(Debug)]
pub struct RequestBodySender(Rc<BodyChannel>);

impl RequestBodySender {
    /// Makes a request's body of `length` bytes, if that is known, and the [`RequestBodySender`] to
    /// write it.
    pub fn new(length: Option<u64>) -> (Self, Body) {
        let channel = BodyChannel::new(length, 0, None);
        (
            Self(channel.clone()),
            Body::incoming(BodyReader::new(channel)),
        )
    }

    /// The number of bytes that are not yet read, if the request has a Content-Length.
    pub fn left(&self) -> Option<u64> {
        self.0.left.get()
    }

    /// Whether the body still exists. If not, no reader will ask for more of it.
    pub fn has_reader(&self) -> bool {
        self.0.has_reader()
    }

    /// Whether `reader` reads this body.
    pub(super) fn is_read_by(&self, reader: &BodyReader) -> bool {
        Rc::ptr_eq(&self.0, &reader.0)
    }

    /// Cancels the wait of a reader that runs in the caller's own task. The caller is about to poll
    /// that reader, which asks again unless it has given up.
    pub fn clear_own_wait(&self, context: &Context<'_>) {
        let is_own = |reader: &mut Waker| reader.will_wake(context.waker());
        let own = self.0.reader.borrow_mut().take_if(is_own);
        if own.is_some() {
            self.0.wanted.set(false);
        }
    }

    /// Whether the reader waits for more. Wakes the caller's task when the reader next asks for
    /// more or gives up.
    pub fn poll_wanted(&self, context: &Context<'_>) -> bool {
        set(&self.0.writer, context);
        self.0.wanted.get() && self.has_reader()
    }

    /// Queues a part that was received and wakes the reader. A reader in the caller's own task is
    /// not woken, because the caller polls it next.
    pub fn push(&self, part: Part, context: &Context<'_>) {
        self.clear_own_wait(context);
        self.0.push(part);
    }

    /// Adds a trailer that was received. False if there are too many, as the map's capacity is
    /// limited.
    pub fn push_trailer(&self, name: HeaderName, value: HeaderValue) -> bool {
        let mut trailers = self.0.trailers.borrow_mut();
        let trailers = trailers.get_or_insert_default();
        trailers.try_append(name, value).is_ok()
    }

    /// Marks the body as complete, and wakes the reader as [`RequestBodySender::push`] does.
    pub fn finish(&self, context: &Context<'_>) {
        self.clear_own_wait(context);
        self.0.end(Ok(()));
    }

    /// Whether the body has ended, completely or with an error.
    pub fn is_finished(&self) -> bool {
        self.0.end.get().is_some()
    }
}

impl Drop for RequestBodySender {
    fn drop(&mut self) {
        self.0.end(Err(BodyError::Incomplete));
    }
}

/// Stores the waker of the task that is being polled.
fn set(place: &RefCell<Option<Waker>>, context: &Context<'_>) {
    let mut waker = ClonedWaker::of(context);
    waker.store(&mut place.borrow_mut());
}
