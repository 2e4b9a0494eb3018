//! Bodies: of requests as they come in, of responses as they go out.

use std::fmt;
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::answer_memory::AnswerMemory;
use super::file_body::{FileBody, Piece};
use super::pipe::{BodyPipe, Inlet};
use crate::buf::{FileSpan, Part};
use crate::fs::{File, Kept};

/// The content of a message. Reading a request's body pulls it from the client; a response may
/// have a request's body as its own.
#[derive(Debug, Default)]
pub struct Body(Inner);

#[derive(Debug, Default)]
enum Inner {
    #[default]
    Empty,
    Full(Bytes),
    Kept(Kept),
    Incoming(Rc<BodyPipe>),
    File(Box<FileBody>),
}

/// Why a body cannot be had whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyError {
    /// The client broke off, was too slow, or broke the protocol or a limit.
    Incomplete,
    /// It is larger than [`Body::read`] was told to read.
    TooLarge,
    /// The file that it comes from has become shorter, or cannot be read.
    Unreadable,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete => f.write_str("the request's body did not arrive whole"),
            Self::TooLarge => f.write_str("the request's body is larger than its reader wants"),
            Self::Unreadable => f.write_str("the body's file ended early or cannot be read"),
        }
    }
}

impl std::error::Error for BodyError {}

impl Body {
    /// No content.
    pub const fn empty() -> Self {
        Self(Inner::Empty)
    }

    /// The bytes of `file` in `range`, which are read as they are sent. All such bodies of a worker
    /// hold 32 MiB in memory, and beyond that a little for each client. If the file turns out to be
    /// shorter, the connection ends there: the client has been promised the length.
    pub fn file(file: File, range: Range<u64>) -> Self {
        Self::file_through(AnswerMemory::of_thread(), file, range)
    }

    /// The same, read into `memory` where it has to be read.
    pub(super) fn file_through(memory: AnswerMemory, file: File, range: Range<u64>) -> Self {
        Self(if range.is_empty() {
            Inner::Empty
        } else {
            Inner::File(Box::new(FileBody::new(file, range, memory)))
        })
    }

    /// Bytes that a shelf keeps.
    pub(super) fn kept(kept: Kept) -> Self {
        Self(match kept.len() {
            0 => Inner::Empty,
            _ => Inner::Kept(kept),
        })
    }

    /// The body that arrives through `pipe`.
    pub(super) fn incoming(pipe: Rc<BodyPipe>) -> Self {
        Self(Inner::Incoming(pipe))
    }

    /// The length in bytes of what is not yet read, where it is known before the end.
    pub fn length(&self) -> Option<u64> {
        match &self.0 {
            Inner::Empty => Some(0),
            Inner::Full(bytes) => Some(bytes.len() as u64),
            Inner::Kept(kept) => Some(kept.len()),
            Inner::Incoming(pipe) => pipe.left(),
            Inner::File(file) => Some(file.left()),
        }
    }

    /// The next part, as it came; none at the end. Who drops the future has given up, and nothing
    /// more is received until somebody asks again: keep it from one poll to the next.
    ///
    /// # Errors
    /// When the client does not send the rest, which a reader in another coroutine is told: a
    /// service's own future is dropped instead. When the file it comes from cannot be read as far
    /// as was promised.
    pub async fn part(&mut self) -> Result<Option<Part>, BodyError> {
        let asking = Asking(self);
        poll_fn(|context| asking.0.poll_part(context)).await
    }

    /// Reads all of it, up to `bytes_max`.
    ///
    /// # Errors
    /// Those of [`Body::part`]; when it is more than `bytes_max`.
    pub async fn read(&mut self, bytes_max: usize) -> Result<Vec<u8>, BodyError> {
        let mut whole = Vec::new();
        while let Some(part) = self.part().await? {
            if whole.len() + part.len() > bytes_max {
                return Err(BodyError::TooLarge);
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole)
    }

    /// As [`Body::part`], for hand-written futures.
    ///
    /// # Errors
    /// As there.
    pub fn poll_part(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Part>, BodyError>> {
        match &mut self.0 {
            Inner::Incoming(pipe) => pipe.poll_part(context),
            Inner::File(file) => file.poll_part(context),
            Inner::Kept(kept) => {
                let bytes = kept.read().map_err(|_| BodyError::Unreadable);
                self.0 = Inner::Empty;
                Poll::Ready(bytes.map(|bytes| Some(bytes.into())))
            }
            _ => Poll::Ready(Ok(self.take_full())),
        }
    }

    /// As [`Body::poll_part`], but a span of a file where this is better sent than read.
    pub(crate) fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Piece>, BodyError>> {
        if let Inner::File(file) = &mut self.0 {
            return file.poll_piece(context);
        }
        match self.take_kept() {
            Some(span) => Poll::Ready(Ok(Some(Piece::Span(span)))),
            None => self.poll_part(context).map_ok(|part| part.map(Piece::Part)),
        }
    }

    /// All of a body that a shelf keeps, to be sent.
    pub(crate) fn take_kept(&mut self) -> Option<FileSpan> {
        let Inner::Kept(kept) = &self.0 else {
            return None;
        };
        let span = kept.span();
        self.0 = Inner::Empty;
        Some(span)
    }

    /// Whether its next part should wait until all before it is sent, for memory is short.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        matches!(&self.0, Inner::File(file) if file.is_short_of_memory())
    }

    /// All of a body that is in our memory; none of one that is empty or comes part by part.
    pub(crate) fn take_full(&mut self) -> Option<Part> {
        match std::mem::take(&mut self.0) {
            Inner::Full(bytes) => Some(Part::Bytes(bytes)),
            Inner::Empty => None,
            parts @ (Inner::Incoming(_) | Inner::File(_) | Inner::Kept(_)) => {
                self.0 = parts;
                None
            }
        }
    }

    /// All of it, if that is in our memory.
    #[inline]
    pub(crate) fn full(&self) -> Option<&[u8]> {
        match &self.0 {
            Inner::Full(bytes) => Some(bytes),
            Inner::Empty => Some(b""),
            _ => None,
        }
    }

    /// Whether it comes part by part: from a client, or from a file.
    pub(crate) fn flows(&self) -> bool {
        matches!(self.0, Inner::Incoming(_) | Inner::File(_))
    }

    /// Lets go of what nobody will be sent, unless a client waits for it to be read.
    pub(crate) fn forgo(&mut self) {
        if matches!(self.0, Inner::File(_)) {
            self.0 = Inner::Empty;
        }
    }

    /// Whether it comes by `inlet`.
    pub(crate) fn comes_by(&self, inlet: &Inlet) -> bool {
        matches!(&self.0, Inner::Incoming(pipe) if inlet.leads_to(pipe))
    }
}

/// Who asks for a part. When it is dropped, whether it has the part or has given up, nobody waits.
struct Asking<'a>(&'a mut Body);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Inner::Incoming(pipe) = &self.0.0 {
            pipe.give_up();
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(if bytes.is_empty() {
            Inner::Empty
        } else {
            Inner::Full(bytes)
        })
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}
