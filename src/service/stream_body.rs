//! A response's body that takes its parts from a stream. The connection polls the stream.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::body::BodyError;
use crate::buf::Part;

/// A stream of parts, and the rest of its declared length.
pub(super) struct StreamBody {
    state: StreamState,
    /// The number of bytes that are not yet read, if a length was declared.
    left: Option<u64>,
}

enum StreamState {
    Open(Pin<Box<dyn PartStream>>),
    /// The stream has ended. It is dropped, and every further poll returns this result.
    Ended(Result<(), BodyError>),
}

/// A stream of parts or errors, without the types of its items.
trait PartStream {
    /// Polls the stream. The outer `None` is its end, the inner one an error.
    fn poll_next_part(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Option<Part>>>;
}

impl<S, P, E> PartStream for S
where
    S: Stream<Item = Result<P, E>>,
    P: Into<Part>,
{
    fn poll_next_part(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Option<Part>>> {
        self.poll_next(context)
            .map(|next| next.map(|part| part.ok().map(Into::into)))
    }
}

impl StreamBody {
    pub(super) fn new<P: Into<Part>, E>(
        stream: impl Stream<Item = Result<P, E>> + 'static,
    ) -> Self {
        Self {
            state: StreamState::Open(Box::pin(stream)),
            left: None,
        }
    }

    /// The number of bytes that are not yet read, if a length was declared.
    pub(super) fn left(&self) -> Option<u64> {
        self.left
    }

    /// Declares the body's length. The caller must not have read any part yet.
    pub(super) fn set_length(&mut self, length: u64) {
        self.left = Some(length);
    }

    /// The next part; `None` at the end.
    pub(super) fn poll_part(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Part>, BodyError>> {
        let stream = match &mut self.state {
            StreamState::Open(stream) => stream,
            StreamState::Ended(end) => return Poll::Ready(end.map(|()| None)),
        };
        let end = match ready!(stream.as_mut().poll_next_part(context)) {
            Some(Some(part)) if part.is_empty() => {
                // Yield to other tasks: a stream may yield empty parts forever.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Some(part)) => {
                let left = self.left.map(|left| left.checked_sub(part.len() as u64));
                if left != Some(None) {
                    self.left = left.flatten();
                    return Poll::Ready(Ok(Some(part)));
                }
                Err(BodyError::WrongLength)
            }
            Some(None) => Err(BodyError::Incomplete),
            None if self.left.is_some_and(|left| left > 0) => Err(BodyError::WrongLength),
            None => Ok(()),
        };
        self.state = StreamState::Ended(end);
        Poll::Ready(end.map(|()| None))
    }
}

impl fmt::Debug for StreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamBody")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
