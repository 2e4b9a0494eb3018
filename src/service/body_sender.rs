//! The sender of a response's body that a coroutine generates.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;

use ::http::HeaderMap;

use super::body::BodyError;
use super::body_channel::{BodyChannel, BodyReader};
use super::response_memory::ResponseMemory;
use crate::buf::Part;

/// Writes a body that [`Body::channel`](crate::Body::channel) made, part by part, from any
/// coroutine of its worker.
///
/// The server sends each part without waiting for the next one. If a sender is dropped without
/// [`finish`](BodySender::finish), the server closes the connection, so that the client can tell
/// that the response is incomplete.
pub struct BodySender(Rc<BodyChannel>);

/// The body has no reader any more: the connection has ended, the response to this request has no
/// body (HEAD), or the [`Body`](crate::Body) was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// Why [`BodySender::try_write`] did not write a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryWriteError {
    /// The queue is full: the client reads more slowly than the body is written.
    Full,
    /// The body has no reader any more; see [`Gone`].
    Gone,
}

impl BodySender {
    /// The sender and the reader of a new body whose queue holds up to `bytes_max` bytes, and one
    /// part while `memory` is full.
    pub(super) fn new(bytes_max: usize, memory: Option<&ResponseMemory>) -> (Self, BodyReader) {
        let channel = BodyChannel::new(None, bytes_max, memory);
        (Self(channel.clone()), BodyReader::new(channel))
    }

    /// Waits until the queue has room for `part`, and writes it. If the future is dropped before it
    /// is ready, the part was not written.
    ///
    /// # Errors
    /// [`Gone`] if the body has no reader any more. Earlier parts may not have reached the client.
    pub async fn write(&mut self, part: impl Into<Part>) -> Result<(), Gone> {
        let part = part.into();
        let len = part.len();
        poll_fn(|context| self.0.poll_room(len, context)).await?;
        self.push(part);
        Ok(())
    }

    /// Writes `part` if the queue has room for it now. Use this where the program would rather drop
    /// a part, or disconnect a slow client, than wait for it.
    ///
    /// # Errors
    /// [`TryWriteError::Full`] if the queue has no room, [`TryWriteError::Gone`] if the body has no
    /// reader any more.
    pub fn try_write(&mut self, part: impl Into<Part>) -> Result<(), TryWriteError> {
        let part = part.into();
        if !self.0.has_reader() {
            return Err(TryWriteError::Gone);
        }
        if !self.0.has_room(part.len()) {
            return Err(TryWriteError::Full);
        }
        self.push(part);
        Ok(())
    }

    /// Waits until the body has no reader any more.
    ///
    /// A half-close by the client does not count, unless the server is configured with
    /// [`HalfClose::End`](crate::HalfClose::End). So if the client closed its socket, the server
    /// notices only when it sends something and the client's kernel replies with a reset.
    pub async fn gone(&mut self) {
        poll_fn(|context| self.0.poll_gone(context)).await;
    }

    /// Ends the body, which is then complete.
    pub fn finish(self) {
        self.0.end(Ok(()));
    }

    /// Ends the body with trailers: fields that are known only after the content, such as a digest,
    /// a status or a measured time.
    ///
    /// The server sends trailers to HTTP/1.1 clients, unless the body's length was declared with
    /// [`Body::with_length`](crate::Body::with_length); HTTP/1.0 has no trailers. The server omits
    /// fields that must precede the content: those about framing, routing, caching, authentication
    /// and the content's format (RFC 9110 §6.5.1). A client may discard trailers unless its request
    /// has `TE: trailers`.
    pub fn finish_with_trailers(self, trailers: HeaderMap) {
        self.0.set_trailers(trailers);
        self.0.end(Ok(()));
    }

    fn push(&self, part: Part) {
        if !part.is_empty() {
            self.0.push(part);
        }
    }
}

impl Drop for BodySender {
    fn drop(&mut self) {
        self.0.end(Err(BodyError::Incomplete));
    }
}

impl fmt::Debug for BodySender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodySender").finish_non_exhaustive()
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body has no reader any more")
    }
}

impl fmt::Display for TryWriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the body's queue is full"),
            Self::Gone => Gone.fmt(f),
        }
    }
}

impl std::error::Error for Gone {}
impl std::error::Error for TryWriteError {}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::task::yield_now;
    use crate::time::{sleep, timeout};
    use crate::{Body, run, spawn};

    /// How many parts of `len` bytes are written before the writer has to wait.
    fn written_ahead(bytes_max: usize, len: usize) -> usize {
        run(async move {
            let (mut sender, _body) = Body::channel(bytes_max);
            let part = vec![b'x'; len];
            let mut written = 0;
            while written < 100 && sender.try_write(part.clone()).is_ok() {
                written += 1;
            }
            let waits = timeout(Duration::from_millis(1), sender.write(part)).await;
            assert_eq!(waits.is_err(), written < 100, "{bytes_max} {len}");
            written
        })
    }

    #[test]
    fn a_queue_holds_its_limit_or_one_larger_part() {
        for (bytes_max, len, expected) in [
            (0, 1, 1),
            (0, 5, 1),
            (1, 1, 1),
            (1, 5, 1),
            (10, 5, 2),
            (10, 4, 2),
            (10, 11, 1),
            (usize::MAX, 5, 100),
        ] {
            assert_eq!(written_ahead(bytes_max, len), expected, "{bytes_max} {len}");
        }
        // Empty parts are not queued, and the reader does not get them.
        assert_eq!(written_ahead(0, 0), 100);
    }

    #[test]
    fn a_writer_waits_until_the_queue_has_room() {
        for bytes_max in [0, 1, 6, usize::MAX] {
            let (content, parts) = run(async move {
                let (mut sender, mut body) = Body::channel(bytes_max);
                let ahead = Rc::new(Cell::new(0));
                let count = ahead.clone();
                spawn(async move {
                    for part in ["one", "", "two", "three", "four"] {
                        sender.write(part).await.expect("the reader exists");
                        count.set(count.get() + part.len());
                    }
                    sender.finish();
                });
                let (mut content, mut parts) = (Vec::new(), 0);
                while let Some(part) = body.part().await.expect("the body is complete") {
                    content.extend_from_slice(&part);
                    parts += 1;
                    yield_now().await;
                    let queued = ahead.get() - content.len();
                    assert!(queued <= bytes_max.max(5), "{queued} of {bytes_max}");
                }
                assert!(body.part().await.unwrap().is_none(), "still at the end");
                (content, parts)
            });
            // In a queue with room for all parts, those behind the first are joined.
            let expected = if bytes_max == usize::MAX { 2 } else { 4 };
            assert_eq!((&content[..], parts), (&b"onetwothreefour"[..], expected));
        }
    }

    #[test]
    fn dropping_the_sender_makes_the_body_incomplete() {
        run(async {
            let (mut sender, mut body) = Body::channel(10);
            sender.write("begun").await.expect("the reader exists");
            drop(sender);
            assert_eq!(body.part().await.unwrap().as_deref(), Some(&b"begun"[..]));
            for _ in 0..2 {
                assert_eq!(body.part().await.unwrap_err(), BodyError::Incomplete);
            }
        });
    }

    #[test]
    fn a_body_of_another_length_than_declared_is_an_error() {
        run(async {
            for length in [0, 1, 4, 5, 6, u64::MAX] {
                let (mut sender, body) = Body::channel(10);
                let mut body = body.with_length(length);
                assert_eq!(body.length(), Some(length));
                sender.write("begun").await.expect("the reader exists");
                sender.finish();
                let expected = match length {
                    5 => Ok(b"begun".to_vec()),
                    _ => Err(BodyError::WrongLength),
                };
                assert_eq!(body.read(100).await, expected, "{length}");
            }
        });
    }

    #[test]
    fn a_sender_gets_an_error_once_the_reader_is_dropped() {
        run(async {
            let (mut sender, body) = Body::channel(5);
            sender.write("begun").await.expect("the reader exists");
            assert_eq!(sender.try_write("more"), Err(TryWriteError::Full));
            let gone = timeout(Duration::from_millis(1), sender.gone()).await;
            assert!(gone.is_err(), "the reader still exists");
            let writer = spawn(async move {
                // The reader is dropped while this waits for room.
                assert_eq!(sender.write("more").await, Err(Gone));
                assert_eq!(sender.try_write("more"), Err(TryWriteError::Gone));
                sender.gone().await;
            });
            sleep(Duration::from_millis(1)).await;
            drop(body);
            writer.await.expect("the writer does not panic");
        });
    }

    #[test]
    fn the_writer_of_a_body_that_is_too_long_learns_that_its_reader_is_gone() {
        for waits_for_room in [true, false] {
            run(async move {
                let (mut sender, body) = Body::channel(4);
                let mut body = body.with_length(5);
                sender.write("12345678").await.expect("the reader exists");
                let writer = spawn(async move {
                    if waits_for_room {
                        assert_eq!(sender.write("more").await, Err(Gone));
                    } else {
                        sender.gone().await;
                    }
                });
                yield_now().await;
                assert_eq!(body.part().await.unwrap_err(), BodyError::WrongLength);
                drop(body);
                let end = timeout(Duration::from_secs(1), writer).await;
                end.expect("the writer was woken").expect("no panic");
            });
        }
    }

    #[test]
    fn dropping_the_reader_frees_the_queued_parts() {
        run(async {
            let (mut sender, body) = Body::channel(100);
            let part = bytes::Bytes::from(vec![1; 50]);
            sender.write(part.clone()).await.expect("the reader exists");
            assert!(!part.is_unique());
            drop(body);
            assert!(part.is_unique());
            sender.gone().await;
        });
    }
}
