//! The writer's end of a response's body that a coroutine generates.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;

use ::http::HeaderMap;

use super::body::BodyError;
use super::pipe::{BodyPipe, BodyReader};
use crate::buf::Part;

/// Writes a body that [`Body::channel`](crate::Body::channel) made, part by part, from any
/// coroutine of its worker.
///
/// Each part is sent without waiting for another. Dropping a sender without
/// [`finish`](BodySender::finish) breaks the body off: the connection ends there, and the client
/// can tell that the response is not whole.
pub struct BodySender(Rc<BodyPipe>);

/// Nobody reads the body any more: the connection has ended, the response was not wanted (a HEAD
/// request), or the [`Body`](crate::Body) was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// Why a part was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryWriteError {
    /// There is no room: the client reads more slowly than the body is written.
    Full,
    /// See [`Gone`].
    Gone,
}

impl BodySender {
    /// Both ends of a body that is still to be written.
    pub(super) fn new(bytes_max: usize) -> (Self, BodyReader) {
        let pipe = BodyPipe::new(None, bytes_max);
        (Self(pipe.clone()), BodyReader::new(pipe))
    }

    /// Writes a part, as soon as the queue has room for it. If the future is dropped before it is
    /// ready, the part was not written.
    ///
    /// # Errors
    /// When nobody reads the body any more. Parts that were written before may not have reached the
    /// client.
    pub async fn write(&mut self, part: impl Into<Part>) -> Result<(), Gone> {
        let part = part.into();
        let len = part.len();
        poll_fn(|context| self.0.poll_room(len, context)).await?;
        self.push(part);
        Ok(())
    }

    /// Writes a part if there is room for it now: for a program that would rather drop a part, or a
    /// client, than wait for the client.
    ///
    /// # Errors
    /// When there is no room, or nobody reads the body any more.
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

    /// Waits until nobody reads the body any more. A client that only half-closes its connection
    /// still reads, unless [`HalfClose::End`](crate::HalfClose::End) says otherwise: the server
    /// finds out that it has gone when it sends something.
    pub async fn gone(&mut self) {
        poll_fn(|context| self.0.poll_gone(context)).await;
    }

    /// Ends the body, which is whole.
    pub fn finish(self) {
        self.0.end(Ok(()));
    }

    /// Ends the body with fields that were not known before: a digest, a status, a measured time.
    ///
    /// A client of HTTP/1.1 gets them, unless the body's length was stated
    /// ([`Body::with_length`](crate::Body::with_length)); with HTTP/1.0 there is no place for them.
    /// Fields that must come before the content are left out: those about framing, routing,
    /// caching, authentication and the form of the content (RFC 9110 §6.5.1). A client may ignore
    /// any trailer; only one whose request has `TE: trailers` promises to look.
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
        f.write_str("nobody reads the body any more")
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
    fn a_queue_holds_its_bound_or_one_larger_part() {
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
        // Parts of no bytes take no room, and no reader sees them.
        assert_eq!(written_ahead(0, 0), 100);
    }

    #[test]
    fn a_writer_waits_until_its_part_is_due() {
        for bytes_max in [0, 1, 6, usize::MAX] {
            let (content, parts) = run(async move {
                let (mut sender, mut body) = Body::channel(bytes_max);
                let ahead = Rc::new(Cell::new(0));
                let count = ahead.clone();
                spawn(async move {
                    for part in ["one", "", "two", "three", "four"] {
                        sender.write(part).await.expect("a reader");
                        count.set(count.get() + part.len());
                    }
                    sender.finish();
                });
                let (mut content, mut parts) = (Vec::new(), 0);
                while let Some(part) = body.part().await.expect("a whole body") {
                    content.extend_from_slice(&part);
                    parts += 1;
                    yield_now().await;
                    let queued = ahead.get() - content.len();
                    assert!(queued <= bytes_max.max(5), "{queued} of {bytes_max}");
                }
                assert!(body.part().await.unwrap().is_none(), "the end stays");
                (content, parts)
            });
            assert_eq!((&content[..], parts), (&b"onetwothreefour"[..], 4));
        }
    }

    #[test]
    fn a_sender_that_is_dropped_breaks_the_body_off() {
        run(async {
            let (mut sender, mut body) = Body::channel(10);
            sender.write("begun").await.expect("a reader");
            drop(sender);
            assert_eq!(body.part().await.unwrap().as_deref(), Some(&b"begun"[..]));
            for _ in 0..2 {
                assert_eq!(body.part().await.unwrap_err(), BodyError::Incomplete);
            }
        });
    }

    #[test]
    fn a_body_has_the_length_that_was_stated() {
        run(async {
            for length in [0, 1, 4, 5, 6, u64::MAX] {
                let (mut sender, body) = Body::channel(10);
                let mut body = body.with_length(length);
                assert_eq!(body.length(), Some(length));
                sender.write("begun").await.expect("a reader");
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
    fn a_sender_learns_that_its_reader_is_gone() {
        run(async {
            let (mut sender, body) = Body::channel(5);
            sender.write("begun").await.expect("a reader");
            assert_eq!(sender.try_write("more"), Err(TryWriteError::Full));
            let gone = timeout(Duration::from_millis(1), sender.gone()).await;
            assert!(gone.is_err(), "the reader is there");
            let writer = spawn(async move {
                // Waits for room, and is told in the middle of that.
                assert_eq!(sender.write("more").await, Err(Gone));
                assert_eq!(sender.try_write("more"), Err(TryWriteError::Gone));
                sender.gone().await;
            });
            sleep(Duration::from_millis(1)).await;
            drop(body);
            writer.await.expect("an end");
        });
    }

    #[test]
    fn a_reader_that_leaves_frees_what_is_queued() {
        run(async {
            let (mut sender, body) = Body::channel(100);
            let part = bytes::Bytes::from(vec![1; 50]);
            sender.write(part.clone()).await.expect("a reader");
            assert!(!part.is_unique());
            drop(body);
            assert!(part.is_unique());
            sender.gone().await;
        });
    }
}
