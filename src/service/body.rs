//! The bodies of requests and responses.

use std::fmt;
use std::future::poll_fn;
use std::ops::Range;
use std::task::{Context, Poll};

use ::http::HeaderMap;
use bytes::Bytes;
use futures_core::Stream;

use super::body_channel::{BodyReader, RequestBodySender};
use super::body_sender::BodySender;
use super::file_body::{BodyPart, FileBody};
use super::response_memory::ResponseMemory;
use super::stream_body::StreamBody;
use crate::buf::{FileSpan, Part};
use crate::fs::{CachedSpan, File};

/// The body of a request or a response. Reading a request's body receives it from the client. A
/// response may have a request's body as its own, which the server then passes on as it arrives.
///
/// A client that waits for `100 Continue` gets it when its body is first read, and at the latest
/// before the response, unless the body has been dropped by then. To refuse a body, drop it.
#[derive(Debug, Default)]
pub struct Body(BodySource);

#[derive(Debug, Default)]
enum BodySource {
    /// No body was given, or all of it was taken.
    #[default]
    Empty,
    /// A body in memory, which may have no bytes.
    Full(Bytes),
    CachedSpan(CachedSpan),
    Incoming(BodyReader),
    Channel(BodyReader),
    Stream(Box<StreamBody>),
    File(Box<FileBody>),
    Parts(Box<dyn BodyParts>),
}

/// A body that another room delivers part by part: the response that a client receives.
pub(crate) trait BodyParts: fmt::Debug {
    /// As [`Body::poll_part`].
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Part>, BodyError>>;
    /// As [`Body::length`].
    fn left(&self) -> Option<u64>;
    /// As [`Body::take_trailers`].
    fn take_trailers(&mut self) -> Option<HeaderMap>;
}

/// Why a body could not be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyError {
    /// The body ended early: its [`BodySender`] was dropped or its stream yielded an error. For a
    /// request's body: the client broke off, was too slow, or violated the protocol or a limit.
    Incomplete,
    /// The body is longer than the limit given to [`Body::read`].
    TooLarge,
    /// The body's length differs from the one given to [`Body::with_length`].
    WrongLength,
    /// The body's file was truncated, or cannot be read.
    Unreadable,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete => f.write_str("the body is incomplete"),
            Self::TooLarge => f.write_str("the body is larger than the limit of its reader"),
            Self::WrongLength => f.write_str("the body's length differs from the declared length"),
            Self::Unreadable => f.write_str("the body's file was truncated or cannot be read"),
        }
    }
}

impl std::error::Error for BodyError {}

impl Body {
    /// A body without content. In a response to HEAD it says nothing of the content that GET would
    /// get, so such a response has no `Content-Length`.
    pub const fn empty() -> Self {
        Self(BodySource::Empty)
    }

    /// The bytes of `file` in `range`. The server reads them while it sends the response.
    ///
    /// All such bodies of a worker together hold up to 32 MiB of content in memory. At that limit
    /// the worker sends from the page cache where it can, and otherwise reads 16 KiB at a time for
    /// each client. If the file is truncated meanwhile, the server closes the connection, because
    /// it has already promised the original length.
    pub fn file(file: File, range: Range<u64>) -> Self {
        Self::file_through(ResponseMemory::of_thread(), file, range)
    }

    /// As [`Body::file`]; content that is read into memory is counted by `memory`.
    pub(super) fn file_through(memory: ResponseMemory, file: File, range: Range<u64>) -> Self {
        Self(if range.is_empty() {
            BodySource::Full(Bytes::new())
        } else {
            BodySource::File(Box::new(FileBody::new(file, range, memory)))
        })
    }

    /// A body that a coroutine of the same worker writes, and the sender to write it with.
    ///
    /// The sender's queue holds up to `bytes_max` bytes, or one part that is larger. A writer waits
    /// while the queue is full. Small parts that wait in it are joined, so a reader that is behind
    /// gets fewer and larger parts. The connection takes parts from the queue while it has fewer
    /// than `bytes_max` bytes to send. So a client that does not read costs up to three times
    /// `bytes_max`, besides the socket's send buffer. If all parts are little longer than 2 KiB and
    /// the length is not declared, it is up to nine times: each part then takes a block of 4 KiB,
    /// and its framing another one.
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
    ///                 return; // the client is gone
    ///             }
    ///             sleep(Duration::from_secs(1)).await;
    ///         }
    ///         sender.finish();
    ///     });
    ///     Response::text(body)
    /// }
    /// ```
    ///
    /// The server sends the response's head at once, and each part without waiting for the next
    /// one. No timeout applies while the writer pauses.
    pub fn channel(bytes_max: usize) -> (BodySender, Self) {
        let (sender, reader) = BodySender::new(bytes_max, None);
        (sender, Self(BodySource::Channel(reader)))
    }

    /// As [`Body::channel`]; what is in the queue is counted by `memory`. While that is full, the
    /// queue holds one part, and the connection takes it when it has sent all before it.
    pub(crate) fn channel_within(memory: &ResponseMemory, bytes_max: usize) -> (BodySender, Self) {
        let (sender, reader) = BodySender::new(bytes_max, Some(memory));
        (sender, Self(BodySource::Channel(reader)))
    }

    /// A body made of the parts that `stream` yields. The connection polls the stream while its
    /// send queue has room.
    ///
    /// If the stream yields an error, the server closes the connection, so that the client can tell
    /// that the response is incomplete. The server drops the error itself: log it in the stream.
    pub fn from_stream<P, E>(stream: impl Stream<Item = Result<P, E>> + 'static) -> Self
    where
        P: Into<Part>,
    {
        Self(BodySource::Stream(Box::new(StreamBody::new(stream))))
    }

    /// Declares the length in bytes of a body that [`Body::channel`] or [`Body::from_stream`] made.
    /// The response then has a Content-Length instead of chunked coding. If the body's actual
    /// length differs, the server closes the connection. For every other kind of body this does
    /// nothing.
    #[must_use]
    pub fn with_length(mut self, length: u64) -> Self {
        match &mut self.0 {
            BodySource::Channel(reader) => reader.set_length(length),
            BodySource::Stream(stream) => stream.set_length(length),
            _ => {}
        }
        self
    }

    /// Takes the trailers, after the body was read to its end; `None` if it has none. The limits of
    /// a request's head apply to its trailers, too.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.0 {
            BodySource::Incoming(reader) | BodySource::Channel(reader) => reader.take_trailers(),
            BodySource::Parts(parts) => parts.take_trailers(),
            _ => None,
        }
    }

    /// A body whose bytes are in the memfd cache.
    pub(super) fn cached_span(cached: CachedSpan) -> Self {
        Self(match cached.len() {
            0 => BodySource::Full(Bytes::new()),
            _ => BodySource::CachedSpan(cached),
        })
    }

    /// A body that `parts` delivers.
    pub(crate) fn from_parts(parts: Box<dyn BodyParts>) -> Self {
        Self(BodySource::Parts(parts))
    }

    /// The body of a request, which the connection writes and `reader` reads.
    pub(super) fn incoming(reader: BodyReader) -> Self {
        Self(BodySource::Incoming(reader))
    }

    /// The number of bytes that are not yet read; `None` if only the end of the body will tell.
    pub fn length(&self) -> Option<u64> {
        match &self.0 {
            BodySource::Empty => Some(0),
            BodySource::Full(bytes) => Some(bytes.len() as u64),
            BodySource::CachedSpan(cached) => Some(cached.len()),
            BodySource::Incoming(reader) | BodySource::Channel(reader) => reader.left(),
            BodySource::Stream(stream) => stream.left(),
            BodySource::File(file) => Some(file.left()),
            BodySource::Parts(parts) => parts.left(),
        }
    }

    /// Waits for the next part of the body; `None` at its end.
    ///
    /// For a request's body, the server receives only while such a future exists. If you drop the
    /// future before it is ready, the server stops receiving until the next call. In a hand-written
    /// future, keep it from one poll to the next, or use [`Body::poll_part`].
    ///
    /// # Errors
    /// [`BodyError::Incomplete`] if the client does not send the rest. Only a reader in a coroutine
    /// of its own gets this error: if the service itself reads, the server drops its future
    /// instead. [`BodyError::WrongLength`] and [`BodyError::Unreadable`] as described there.
    pub async fn part(&mut self) -> Result<Option<Part>, BodyError> {
        let guard = ReadGuard(self);
        poll_fn(|context| guard.0.poll_part(context)).await
    }

    /// Reads the rest of the body into memory.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] if that is more than `bytes_max` bytes, and the errors of
    /// [`Body::part`].
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
    /// Those of [`Body::part`].
    pub fn poll_part(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Part>, BodyError>> {
        match &mut self.0 {
            BodySource::Incoming(reader) | BodySource::Channel(reader) => reader.poll_part(context),
            BodySource::Stream(stream) => stream.poll_part(context),
            BodySource::File(file) => file.poll_part(context),
            BodySource::Parts(parts) => parts.poll_part(context),
            BodySource::CachedSpan(cached) => {
                let bytes = cached.read().map_err(|_| BodyError::Unreadable);
                self.0 = BodySource::Empty;
                Poll::Ready(bytes.map(|bytes| Some(bytes.into())))
            }
            _ => Poll::Ready(Ok(self.take_full())),
        }
    }

    /// As [`Body::poll_part`], but returns a span of a file where sending from the file is cheaper
    /// than reading it.
    pub(crate) fn poll_body_part(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<BodyPart>, BodyError>> {
        if let BodySource::File(file) = &mut self.0 {
            return file.poll_body_part(context);
        }
        match self.take_cached_span() {
            Some(span) => Poll::Ready(Ok(Some(BodyPart::Span(span)))),
            None => self
                .poll_part(context)
                .map_ok(|part| part.map(BodyPart::Part)),
        }
    }

    /// Takes the whole body as a span, if it is in the memfd cache.
    pub(crate) fn take_cached_span(&mut self) -> Option<FileSpan> {
        let BodySource::CachedSpan(cached) = &self.0 else {
            return None;
        };
        let span = cached.span();
        self.0 = BodySource::Empty;
        Some(span)
    }

    /// Takes the whole body, if it is in our memory and not empty.
    pub(crate) fn take_full(&mut self) -> Option<Part> {
        match std::mem::take(&mut self.0) {
            BodySource::Full(bytes) if !bytes.is_empty() => Some(Part::Bytes(bytes)),
            BodySource::Full(_) | BodySource::Empty => None,
            parts => {
                self.0 = parts;
                None
            }
        }
    }

    /// Whether no body was given, not even an empty one. A response to HEAD that omits it does not
    /// state its length.
    #[inline]
    pub(crate) fn is_omitted(&self) -> bool {
        matches!(self.0, BodySource::Empty)
    }

    /// The whole body, if it is in our memory or empty.
    #[inline]
    pub(crate) fn full(&self) -> Option<&[u8]> {
        match &self.0 {
            BodySource::Full(bytes) => Some(bytes),
            BodySource::Empty => Some(b""),
            _ => None,
        }
    }

    /// Whether a client or a sender has yet to send more of the body, or to end it.
    pub(super) fn is_awaited(&self) -> bool {
        match &self.0 {
            BodySource::Incoming(reader) | BodySource::Channel(reader) => !reader.is_finished(),
            _ => false,
        }
    }

    /// Whether the body arrives part by part: from a client, a file, a sender or a stream.
    pub(crate) fn is_streamed(&self) -> bool {
        !matches!(
            self.0,
            BodySource::Empty | BodySource::Full(_) | BodySource::CachedSpan(_)
        )
    }

    /// Drops a body that will not be sent (HEAD, 304). Keeps a request's body: its client still
    /// waits for it to be read.
    pub(crate) fn discard(&mut self) {
        if !matches!(self.0, BodySource::Incoming(_)) {
            self.0 = BodySource::Empty;
        }
    }

    /// The connection queues no more of this body while it has this many bytes to send. 0 means
    /// that memory is short: the next part must wait until everything before it is sent.
    pub(crate) fn unsent_bytes_max(&self) -> usize {
        match &self.0 {
            BodySource::File(file) if file.is_short_of_memory() => 0,
            BodySource::Channel(reader) if reader.is_short_of_memory() => 0,
            BodySource::Channel(reader) => reader.bytes_max().max(1),
            _ => usize::MAX,
        }
    }

    /// Whether this is the request body that `body_sender` writes.
    pub(crate) fn is_sent_by(&self, body_sender: &RequestBodySender) -> bool {
        matches!(&self.0, BodySource::Incoming(reader) if body_sender.is_read_by(reader))
    }
}

/// Borrows a body for one [`Body::part`] future. Dropping it tells the connection that the reader
/// no longer waits, whether it got its part or was cancelled.
struct ReadGuard<'a>(&'a mut Body);

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        if let BodySource::Incoming(reader) = &self.0.0 {
            reader.give_up();
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(BodySource::Full(bytes))
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
