//! A response's body whose parts come from a stream, which the connection polls.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::body::BodyError;
use crate::buf::Part;

/// The stream, until it has ended.
pub(super) struct StreamBody {
    state: State,
    /// Bytes that are still to come, where the length was stated.
    left: Option<u64>,
}

enum State {
    Open(Pin<Box<dyn Parts>>),
    Ended(Result<(), BodyError>),
}

/// A stream of anything that is a part or an error; which error does not matter here.
trait Parts {
    fn poll_next_part(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Option<Part>>>;
}

impl<S, P, E> Parts for S
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
            state: State::Open(Box::pin(stream)),
            left: None,
        }
    }

    /// How many bytes are still to come, where the length was stated.
    pub(super) fn left(&self) -> Option<u64> {
        self.left
    }

    /// Says how long the body will be, before anything is read.
    pub(super) fn set_length(&mut self, length: u64) {
        self.left = Some(length);
    }

    /// The next part; none at the end.
    pub(super) fn poll_part(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Part>, BodyError>> {
        let stream = match &mut self.state {
            State::Open(stream) => stream,
            State::Ended(end) => return Poll::Ready(end.map(|()| None)),
        };
        let end = match ready!(stream.as_mut().poll_next_part(context)) {
            Some(Some(part)) if part.is_empty() => {
                // Others first: a stream may have nothing but such parts.
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
        self.state = State::Ended(end);
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
