//! The hand-over of a request's body from the connection, which receives it, to whoever reads it.
//!
//! The body is pulled: the connection receives only while a reader waits, so a slow service slows
//! its own client and nobody else.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::body::{Body, BodyError};
use crate::buf::Part;
use crate::rt::{note_waker, wake};

/// What the two ends of a body share. This end is the reader's.
#[derive(Debug)]
pub(super) struct BodyPipe {
    /// Bytes that are not yet read, where the head tells.
    left: Cell<Option<u64>>,
    /// Received and not yet read.
    parts: RefCell<VecDeque<Part>>,
    end: Cell<Option<Result<(), BodyError>>>,
    /// The reader has asked for more than there is, and still waits as far as we know.
    wanted: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    /// The connection, while it waits to be asked, or for what was asked for.
    connection: RefCell<Option<Waker>>,
}

impl BodyPipe {
    /// How many bytes are not yet read, where the head tells.
    pub(super) fn left(&self) -> Option<u64> {
        self.left.get()
    }

    /// The next part; none at the end of the body.
    pub(super) fn poll_part(&self, context: &Context<'_>) -> Poll<Result<Option<Part>, BodyError>> {
        if let Some(part) = self.parts.borrow_mut().pop_front() {
            let left = self.left.get().map(|left| left - part.len() as u64);
            self.left.set(left);
            return Poll::Ready(Ok(Some(part)));
        }
        if let Some(end) = self.end.get() {
            return Poll::Ready(end.map(|()| None));
        }
        set(&self.reader, context.waker());
        // Told once: two connections that wait for each other's bodies would wake each other on.
        if !self.wanted.replace(true)
            && let Some(connection) = self.connection.take()
            && !connection.will_wake(context.waker())
        {
            wake(connection);
        }
        Poll::Pending
    }

    /// The reader waits no more. The connection is told: the time until it is asked again does not
    /// count.
    pub(super) fn give_up(&self) {
        if self.wanted.take()
            && let Some(connection) = self.connection.take()
        {
            wake(connection);
        }
    }
}

/// The connection's end of a body. When it goes before the body is whole, however that comes, the
/// reader is told.
#[derive(Debug)]
pub struct Inlet(Rc<BodyPipe>);

impl Inlet {
    /// Both ends of a body that is still to come, `length` bytes long if that is known.
    pub fn new(length: Option<u64>) -> (Self, Body) {
        let pipe = Rc::new(BodyPipe {
            left: Cell::new(length),
            parts: RefCell::default(),
            end: Cell::new(None),
            wanted: Cell::new(false),
            reader: RefCell::default(),
            connection: RefCell::default(),
        });
        (Self(pipe.clone()), Body::incoming(pipe))
    }

    /// How many bytes are not yet read, where the head tells.
    pub fn left(&self) -> Option<u64> {
        self.0.left()
    }

    /// Whether anybody has the other end.
    pub fn has_reader(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }

    /// Whether `pipe` is this one.
    pub(super) fn leads_to(&self, pipe: &Rc<BodyPipe>) -> bool {
        Rc::ptr_eq(&self.0, pipe)
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
        set(&self.0.connection, context.waker());
        self.0.wanted.get() && self.has_reader()
    }

    /// A part has arrived. A reader in the caller's own task is not woken: it is to be polled next.
    pub fn push(&self, part: Part, context: &Context<'_>) {
        self.0.parts.borrow_mut().push_back(part);
        self.forget_own_reader(context);
        self.wake_reader();
    }

    /// That was the whole body; the reader is woken as by [`Inlet::push`].
    pub fn finish(&self, context: &Context<'_>) {
        self.forget_own_reader(context);
        self.end(Ok(()));
    }

    /// Whether nothing more will come.
    pub fn is_finished(&self) -> bool {
        self.0.end.get().is_some()
    }

    fn end(&self, end: Result<(), BodyError>) {
        if !self.is_finished() {
            self.0.end.set(Some(end));
            self.wake_reader();
        }
    }

    fn wake_reader(&self) {
        self.0.wanted.set(false);
        if let Some(reader) = self.0.reader.take() {
            wake(reader);
        }
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.end(Err(BodyError::Incomplete));
    }
}

fn set(place: &RefCell<Option<Waker>>, waker: &Waker) {
    let replaced = note_waker(&mut place.borrow_mut(), waker);
    drop(replaced);
}
