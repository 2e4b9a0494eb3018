//! The hand-over of a request's body from the connection, which receives it, to whoever reads it.
//!
//! The body is pulled: the connection receives only while a reader waits, so a slow service slows
//! its own client and nobody else.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use super::body::BodyError;
use crate::buf::Part;

/// The incoming body of one exchange, seen from both ends.
#[derive(Debug)]
pub struct Exchange {
    /// The body's length in bytes, where the head tells.
    length: Option<u64>,
    /// Received and not yet read.
    parts: RefCell<VecDeque<Part>>,
    end: Cell<Option<Result<(), BodyError>>>,
    /// The reader has asked for more than there is.
    wanted: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    /// The connection, while it waits to be asked.
    connection: RefCell<Option<Waker>>,
}

impl Exchange {
    /// An exchange whose body is still to come.
    pub fn new(length: Option<u64>) -> Self {
        Self {
            length,
            parts: RefCell::default(),
            end: Cell::new(None),
            wanted: Cell::new(false),
            reader: RefCell::default(),
            connection: RefCell::default(),
        }
    }

    /// The body's length in bytes, where the head tells.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The reader's end: the next part; none at the end of the body.
    pub fn poll_part(&self, context: &Context<'_>) -> Poll<Result<Option<Part>, BodyError>> {
        if let Some(part) = self.parts.borrow_mut().pop_front() {
            return Poll::Ready(Ok(Some(part)));
        }
        if let Some(end) = self.end.get() {
            return Poll::Ready(end.map(|()| None));
        }
        self.wanted.set(true);
        set(&self.reader, context.waker());
        if let Some(connection) = self.connection.take()
            && !connection.will_wake(context.waker())
        {
            connection.wake();
        }
        Poll::Pending
    }

    /// The connection's end: whether more is asked for. If not, the caller is woken when it is.
    pub fn poll_wanted(&self, context: &Context<'_>) -> bool {
        if !self.wanted.get() {
            set(&self.connection, context.waker());
        }
        self.wanted.get()
    }

    /// The connection's end: a part has arrived.
    pub fn push(&self, part: Part) {
        self.parts.borrow_mut().push_back(part);
        self.wake_reader();
    }

    /// The connection's end: that was the whole body, or it will never be whole.
    pub fn finish(&self, end: Result<(), BodyError>) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            self.wake_reader();
        }
    }

    /// Whether nothing more will come.
    pub fn is_finished(&self) -> bool {
        self.end.get().is_some()
    }

    fn wake_reader(&self) {
        self.wanted.set(false);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

fn set(place: &RefCell<Option<Waker>>, waker: &Waker) {
    let mut place = place.borrow_mut();
    if !place.as_ref().is_some_and(|known| known.will_wake(waker)) {
        *place = Some(waker.clone());
    }
}
