//! [`Carrier`]: the operations that an exchange needs of a protocol.
//!
//! Each exchange has one carrier. In HTTP/1 that is the whole connection, because exchanges follow
//! one another. A protocol that interleaves them would have a carrier for each.

use std::task::{Context, Poll, ready};

use ::http::{HeaderMap, HeaderName, HeaderValue};

use super::close_reason::CloseReason;
use super::connection::Connection;
use super::limits::{Bounds, HalfClose, Limits};
use crate::buf::Part;
use crate::http::field::split_line;
use crate::http::h1::Event;
use crate::http::{Fault, Head};
use crate::net::{Peer, RecvOutcome};
use crate::service::{BodyPart, Response};
use crate::sys::mutants::mutate;

/// A response's body is pulled while fewer bytes than this are queued or being sent.
const UNSENT_BYTES_MAX: usize = 128 << 10;

/// A received part of a request's body.
#[derive(Debug)]
pub(super) enum Arrived {
    /// The next bytes.
    Part(Part),
    /// A trailer field. More trailers or the end follow.
    Trailer(HeaderName, HeaderValue),
    /// The body is complete.
    End,
}

/// The client's side of one exchange. An error of any function ends the exchange. A function that
/// gets a `Context`, and leaves its caller waiting, also wakes it at the next deadline.
pub(super) trait Carrier {
    /// The limits that the client is held to.
    fn limits(&self) -> &Bounds;

    /// Takes the next received part of the request's body. `None`: more must be received first.
    fn take_body(&mut self) -> Result<Option<Arrived>, CloseReason>;

    /// Asks the client for the request's body (`100 Continue`), and receives more of it. Returns
    /// the number of bytes received. Fails at `deadline_ms`, on the clock of `peer_now_ms`.
    fn poll_receive(
        &mut self,
        deadline_ms: u64,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, CloseReason>>;

    /// Receives bytes of the request's body that are known to have arrived, without waiting.
    /// Returns their number.
    fn receive_arrived(&mut self, context: &mut Context<'_>) -> Result<usize, CloseReason>;

    /// Fails if the client is gone, and wakes the caller when it leaves later. For the time in
    /// which nothing is received from the client.
    fn check_client(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason>;

    /// Queues `100 Continue`, if the client waits for it before it sends the request's body.
    fn ask_for_body(&mut self);

    /// Begins the response before the whole request body has arrived. `is_read`: the body has a
    /// reader, which gets the rest. `is_rest_small`: as far as is known, the rest is small enough
    /// to be received and dropped; if it is not, the connection closes after the response.
    fn leave_body(&mut self, is_read: bool, is_rest_small: bool);

    /// Stops receiving the request's body, because it contains an error. The response continues.
    fn refuse_body(&mut self);

    /// Queues an interim response (1xx), if the protocol version has them.
    fn interim(&mut self, response: &Response);

    /// Queues the head of a response that switches to another protocol (101). From then on the
    /// request's body is the client's byte stream, and the response's body the one to the client.
    fn switch(&mut self, response: &Response) -> Result<(), CloseReason>;

    /// Queues the response's head. Returns false if no body may follow (HEAD, 204, 304).
    fn head(&mut self, response: &Response) -> bool;

    /// Queues a part of the response's body.
    fn body_part(&mut self, body_part: BodyPart) -> Result<(), CloseReason>;

    /// Queues the end of the response, with trailers if the protocol has a place for them.
    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), CloseReason>;

    /// The number of queued bytes.
    fn queued(&self) -> usize;

    /// Whether more of the response's body can be queued: fewer than `unsent_bytes_max` bytes are
    /// unsent. If that is 0, or memory is scarce, all queued bytes must have been sent. So a client
    /// that does not read gets no more memory, and every client that reads makes progress.
    fn has_room(&self, unsent_bytes_max: usize) -> bool;

    /// Sends the queued bytes. Ready when all of them are sent.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>>;
}

impl Carrier for Connection {
    fn limits(&self) -> &Bounds {
        &self.shared.limits
    }

    fn take_body(&mut self) -> Result<Option<Arrived>, CloseReason> {
        loop {
            let (used, event) = self.next_of_body()?;
            match event {
                Event::Data(range) => {
                    let mut part = Part::Static(b"");
                    self.transport.recv_buf.take(used, &mut part);
                    part.truncate(range.end);
                    part.advance(range.start);
                    return Ok(Some(Arrived::Part(part)));
                }
                Event::Trailer(line) => {
                    // The parser has checked the line.
                    let field = split_line(&self.transport.recv_buf.unread()[line]);
                    let (name, value) = field.expect("a name and a value");
                    let name = HeaderName::from_bytes(name).expect("a token");
                    let value = HeaderValue::from_bytes(value).expect("no control characters");
                    self.transport.recv_buf.consume(used);
                    return Ok(Some(Arrived::Trailer(name, value)));
                }
                Event::End => {
                    self.transport.recv_buf.consume(used);
                    return Ok(Some(Arrived::End));
                }
                // Chunk framing was consumed; there is no content yet.
                Event::NeedData if used > 0 => self.transport.recv_buf.consume(used),
                _ => return Ok(None),
            }
        }
    }

    fn poll_receive(
        &mut self,
        deadline_ms: u64,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, CloseReason>> {
        self.encode_continue();
        self.transport.set_recv_deadline(deadline_ms);
        Poll::Ready(match ready!(self.transport.poll_recv(context))? {
            RecvOutcome::Bytes(bytes) => Ok(bytes),
            RecvOutcome::Fin => {
                let ended = self.http.receive_eof(self.transport.recv_buf.unread());
                ended.map(|()| 0).map_err(CloseReason::Fault)
            }
            RecvOutcome::Overdue => Err(CloseReason::Fault(Fault::BodyTimeout)),
        })
    }

    fn receive_arrived(&mut self, context: &mut Context<'_>) -> Result<usize, CloseReason> {
        if self.http.request_complete() || !self.transport.has_more() {
            return Ok(0);
        }
        match self.transport.poll_recv(context) {
            Poll::Ready(filled) => match filled? {
                RecvOutcome::Bytes(bytes) => Ok(bytes),
                RecvOutcome::Fin | RecvOutcome::Overdue => Ok(0),
            },
            Poll::Pending => Ok(0),
        }
    }

    fn check_client(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason> {
        self.transport.clear_recv_deadline();
        let ends_call = self.shared.limits.half_close == HalfClose::End && !self.http.is_switched();
        match self.transport.poll_peer(context) {
            Peer::Gone => Err(CloseReason::Reset),
            Peer::HalfClosed if ends_call => Err(CloseReason::HalfClosed),
            Peer::HalfClosed | Peer::Present => Ok(()),
        }
    }

    fn ask_for_body(&mut self) {
        self.encode_continue();
    }

    fn leave_body(&mut self, is_read: bool, is_rest_small: bool) {
        while !is_read && !self.http.request_complete() {
            match self.next_of_body() {
                Ok((0, _)) => break,
                Ok((used, _)) => self.transport.recv_buf.consume(used),
                // The response is made. It must not depend on whether the fault came with the head
                // or later.
                Err(_) => {
                    self.refuse_body();
                    break;
                }
            }
        }
        self.discard_left = Limits::DISCARD_BYTES_MAX;
        if !self.http.request_complete()
            && (!is_rest_small
                || self.http.known_body_left() > u64::from(Limits::DISCARD_BYTES_MAX))
        {
            self.http.close_after();
        }
    }

    fn refuse_body(&mut self) {
        self.http.fail_request(self.transport.recv_buf.unread());
    }

    fn interim(&mut self, response: &Response) {
        self.encode_interim(response);
    }

    fn switch(&mut self, response: &Response) -> Result<(), CloseReason> {
        if !self.http.can_switch() {
            return Err(CloseReason::ServiceFailed);
        }
        self.encode_head(response);
        Ok(())
    }

    fn head(&mut self, response: &Response) -> bool {
        self.encode_head(response);
        self.http.body_allowed()
    }

    fn body_part(&mut self, body_part: BodyPart) -> Result<(), CloseReason> {
        match body_part {
            BodyPart::Part(part) => self.encode_part(part),
            BodyPart::Span(span) => self.encode_span(span),
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), CloseReason> {
        self.transport.clear_recv_deadline();
        match mutate!(ForgetTrailers, None, trailers) {
            Some(trailers) => self.encode_end_with(&trailers),
            None => self.encode_end(),
        }
    }

    fn queued(&self) -> usize {
        self.transport.send_queue.len()
    }

    fn has_room(&self, unsent_bytes_max: usize) -> bool {
        match unsent_bytes_max == 0 || self.shared.is_memory_scarce() {
            true => !self.transport.has_unsent(),
            false => self.transport.unsent_bytes() < UNSENT_BYTES_MAX.min(unsent_bytes_max),
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let flushed = self.transport.poll_flush(context);
        self.write_sent_lines();
        flushed.map_err(CloseReason::from)
    }
}

impl Connection {
    /// Decodes the next event of the request's body. Returns it with the number of bytes to
    /// consume. It is never another request: decoding pauses before the next head until the
    /// response is complete.
    fn next_of_body(&mut self) -> Result<(usize, Event), CloseReason> {
        let unread = self.transport.recv_buf.unread();
        let step = self
            .http
            .next_event(unread, &self.shared.limits.h1, &mut Head::new());
        step.map_err(CloseReason::Fault)
    }
}
