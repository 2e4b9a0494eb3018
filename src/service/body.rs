//! Bodies: of requests as they come in, of responses as they go out.

use std::fmt;
use std::future::poll_fn;
use std::ops::Range;
use std::task::{Context, Poll};

use ::http::HeaderMap;
use bytes::Bytes;
use futures_core::Stream;

use super::answer_memory::AnswerMemory;
use super::body_sender::BodySender;
use super::file_body::{FileBody, Piece};
use super::pipe::{BodyReader, Inlet};
use super::stream_body::StreamBody;
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
    Incoming(BodyReader),
    Channel(BodyReader),
    Stream(Box<StreamBody>),
    File(Box<FileBody>),
}

/// Why a body cannot be had whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyError {
    /// Its writer broke off. For a request's body: the client did, was too slow, or broke the
    /// protocol or a limit.
    Incomplete,
    /// It is larger than [`Body::read`] was told to read.
    TooLarge,
    /// It is not as long as [`Body::with_length`] said.
    WrongLength,
    /// The file that it comes from has become shorter, or cannot be read.
    Unreadable,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete => f.write_str("the body did not arrive whole"),
            Self::TooLarge => f.write_str("the body is larger than its reader wants"),
            Self::WrongLength => f.write_str("the body has not the length that was stated"),
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

    /// A body that a coroutine of the same worker writes, and its writer's end. `bytes_max` bytes
    /// may be written and not yet taken by the connection, or one part that is larger; a writer
    /// waits while there are more. The connection in turn takes up to as many ahead of what it
    /// sends, so a client that does not read costs three times `bytes_max`, besides the socket's
    /// own buffer.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use coring::time::sleep;
    /// use coring::{Body, Request, Response, spawn};
    ///
    /// async fn count(_: Request) -> Response {
    ///     let (mut sender, body) = Body::channel(16 << 10);
    ///     spawn(async move {
    ///         for n in 1..=3 {
    ///             if sender.write(format!("{n}\n")).await.is_err() {
    ///                 return; // the client has left
    ///             }
    ///             sleep(Duration::from_secs(1)).await;
    ///         }
    ///         sender.finish();
    ///     });
    ///     Response::text(body)
    /// }
    /// ```
    ///
    /// The response's head is sent at once, and so is each part, without waiting for the next. A
    /// writer may pause as long as it likes.
    pub fn channel(bytes_max: usize) -> (BodySender, Self) {
        let (sender, reader) = BodySender::new(bytes_max);
        (sender, Self(Inner::Channel(reader)))
    }

    /// A body that consists of the parts that `stream` yields: of a crate of streams, or of a
    /// library that one is a client of. The connection polls it while there is room for more. After
    /// an error the connection ends, so that the client can tell that the response is not whole;
    /// the error itself is dropped, so log it in the stream.
    pub fn from_stream<P, E>(stream: impl Stream<Item = Result<P, E>> + 'static) -> Self
    where
        P: Into<Part>,
    {
        Self(Inner::Stream(Box::new(StreamBody::new(stream))))
    }

    /// Says how long a body is that [`Body::channel`] or [`Body::from_stream`] made: the response
    /// then has a Content-Length instead of chunks. If the body turns out to have another length,
    /// the connection ends there. The length of any other body is known, or the client's to say: it
    /// stays as it is.
    #[must_use]
    pub fn with_length(mut self, length: u64) -> Self {
        match &mut self.0 {
            Inner::Channel(reader) => reader.set_length(length),
            Inner::Stream(stream) => stream.set_length(length),
            _ => {}
        }
        self
    }

    /// The trailers, once the end of the body was read; none if it has none. A request's trailers
    /// are held to the limits of a head.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &self.0 {
            Inner::Incoming(reader) | Inner::Channel(reader) => reader.take_trailers(),
            _ => None,
        }
    }

    /// Bytes that a shelf keeps.
    pub(super) fn kept(kept: Kept) -> Self {
        Self(match kept.len() {
            0 => Inner::Empty,
            _ => Inner::Kept(kept),
        })
    }

    /// The body of a request, which `reader` reads from its connection.
    pub(super) fn incoming(reader: BodyReader) -> Self {
        Self(Inner::Incoming(reader))
    }

    /// The length in bytes of what is not yet read, where it is known before the end.
    pub fn length(&self) -> Option<u64> {
        match &self.0 {
            Inner::Empty => Some(0),
            Inner::Full(bytes) => Some(bytes.len() as u64),
            Inner::Kept(kept) => Some(kept.len()),
            Inner::Incoming(reader) | Inner::Channel(reader) => reader.left(),
            Inner::Stream(stream) => stream.left(),
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
            Inner::Incoming(reader) | Inner::Channel(reader) => reader.poll_part(context),
            Inner::Stream(stream) => stream.poll_part(context),
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

    /// All of a body that is in our memory; none of one that is empty or comes part by part.
    pub(crate) fn take_full(&mut self) -> Option<Part> {
        match std::mem::take(&mut self.0) {
            Inner::Full(bytes) => Some(Part::Bytes(bytes)),
            Inner::Empty => None,
            parts => {
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

    /// Whether it comes part by part: from a client, a file or the program.
    pub(crate) fn flows(&self) -> bool {
        !matches!(self.0, Inner::Empty | Inner::Full(_) | Inner::Kept(_))
    }

    /// Drops a body that will not be sent (HEAD, 304). Keeps a request's body: its client is still
    /// waiting for it to be read.
    pub(crate) fn forgo(&mut self) {
        if !matches!(self.0, Inner::Incoming(_)) {
            self.0 = Inner::Empty;
        }
    }

    /// While so many bytes are owed to the client, no more of it is queued. 0: memory is short, and
    /// its next part waits until all before it is sent.
    pub(crate) fn owed_bytes_max(&self) -> usize {
        match &self.0 {
            Inner::File(file) if file.is_short_of_memory() => 0,
            Inner::Channel(reader) => reader.bytes_max().max(1),
            _ => usize::MAX,
        }
    }

    /// Whether it comes by `inlet`.
    pub(crate) fn comes_by(&self, inlet: &Inlet) -> bool {
        matches!(&self.0, Inner::Incoming(reader) if inlet.leads_to(reader))
    }
}

/// Who asks for a part. When it is dropped, whether it has the part or has given up, nobody waits.
struct Asking<'a>(&'a mut Body);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Inner::Incoming(reader) = &self.0.0 {
            reader.give_up();
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
