//! What carries an exchange: the little that an exchange asks of a protocol.
//!
//! One exchange has one carrier. Over HTTP/1 that is the whole connection, because exchanges come
//! one after the other; a protocol that interleaves them has a carrier for each.

use std::task::{Context, Poll, ready};

use ::http::{HeaderMap, HeaderName, HeaderValue};

use super::close_reason::CloseReason;
use super::connection::Connection;
use super::limits::{Bounds, HalfClose};
use crate::buf::Part;
use crate::http::field::split_line;
use crate::http::h1::Event;
use crate::http::{Fault, Head};
use crate::net::{Filled, Peer};
use crate::service::{Piece, Response};
use crate::sys::mutants::mutate;

/// A response's body is pulled while fewer bytes than this are owed.
const OWED_BYTES_MAX: usize = 128 << 10;

/// A part of a request's body that has arrived.
#[derive(Debug)]
pub(super) enum Arrived {
    /// The next bytes.
    Part(Part),
    /// A trailer field. More of them or the end follow.
    Trailer(HeaderName, HeaderValue),
    /// The end: the body is whole.
    End,
}

/// The client's side of one exchange. An error ends the exchange. Each function that leaves the
/// caller waiting has it woken at the next deadline.
pub(super) trait Carrier {
    /// The limits that the client is held to.
    fn limits(&self) -> &Bounds;

    /// Takes what has arrived of the request's body; none: more must be received first.
    fn take_body(&mut self) -> Result<Option<Arrived>, CloseReason>;

    /// Asks the client for more of the request's body, and receives it: how many bytes came. At
    /// `deadline_ms`, on the peers' clock, the client has failed.
    fn poll_receive(
        &mut self,
        deadline_ms: u64,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, CloseReason>>;

    /// Receives what is known to have arrived of the request's body: how many bytes.
    fn receive_arrived(&mut self, context: &mut Context<'_>) -> Result<usize, CloseReason>;

    /// Nothing is received at present. Fails when the client is gone; the caller is woken then.
    fn check_client(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason>;

    /// Asks the client to send the request's body, if it waits to be asked (`100 Continue`).
    fn ask_for_body(&mut self);

    /// The response comes before the end of the request's body, which `is_read` by somebody or
    /// not. What is left of it may be received and dropped if it `is_little`. False: the client
    /// need not send it any more.
    fn leave_body(&mut self, is_read: bool, is_little: bool) -> Result<bool, CloseReason>;

    /// Receives nothing more of the request's body, in which an error was found. The response goes
    /// on.
    fn refuse_body(&mut self);

    /// Queues an interim response, if the protocol's version has such.
    fn interim(&mut self, response: &Response);

    /// Queues the head of a response that agrees on another protocol. From then on the bodies of
    /// the request and of the response are what both sides send.
    fn switch(&mut self, response: &Response) -> Result<(), CloseReason>;

    /// Queues the response's head. False: no body follows, whatever the response has.
    fn head(&mut self, response: &Response) -> bool;

    /// Queues a piece of the response's body.
    fn piece(&mut self, piece: Piece) -> Result<(), CloseReason>;

    /// Queues the end of the response, with trailers where the protocol has a place for them.
    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), CloseReason>;

    /// Bytes that are queued.
    fn queued(&self) -> usize;

    /// Whether more of the response's body can be queued, of which `owed_bytes_max` may wait to be
    /// sent. Where that is 0, or memory is short, only if all before it is sent: a client that does
    /// not read gets no more memory, and every client that reads makes progress.
    fn has_room(&self, owed_bytes_max: usize) -> bool;

    /// Sends what is queued; ready when nothing is left of it.
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
                    let field = split_line(&self.transport.recv_buf.unread()[line]);
                    let (name, value) = field.expect("a line that was checked");
                    let name = HeaderName::from_bytes(name).expect("a token");
                    let value = HeaderValue::from_bytes(value).expect("no control characters");
                    self.transport.recv_buf.consume(used);
                    return Ok(Some(Arrived::Trailer(name, value)));
                }
                Event::End => {
                    self.transport.recv_buf.consume(used);
                    return Ok(Some(Arrived::End));
                }
                // A chunk's framing, but no content yet.
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
        Poll::Ready(match ready!(self.transport.poll_fill(context))? {
            Filled::Bytes(bytes) => Ok(bytes),
            Filled::Fin => {
                let ended = self.http.receive_eof(self.transport.recv_buf.unread());
                ended.map(|()| 0).map_err(CloseReason::Fault)
            }
            Filled::Overdue => Err(CloseReason::Fault(Fault::BodyTimeout)),
        })
    }

    fn receive_arrived(&mut self, context: &mut Context<'_>) -> Result<usize, CloseReason> {
        if self.http.request_complete() || !self.transport.has_more() {
            return Ok(0);
        }
        match self.transport.poll_fill(context) {
            Poll::Ready(filled) => match filled? {
                Filled::Bytes(bytes) => Ok(bytes),
                Filled::Fin | Filled::Overdue => Ok(0),
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

    fn leave_body(&mut self, is_read: bool, is_little: bool) -> Result<bool, CloseReason> {
        while !is_read && !self.http.request_complete() {
            match self.next_of_body()? {
                (0, _) => break,
                (used, _) => self.transport.recv_buf.consume(used),
            }
        }
        if !self.http.request_complete() && !is_little {
            self.http.close_after();
        }
        // A client that was not told to go on need not send the body.
        Ok(!self.http.wants_continue())
    }

    fn refuse_body(&mut self) {
        self.http.refuse();
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

    fn piece(&mut self, piece: Piece) -> Result<(), CloseReason> {
        match piece {
            Piece::Part(part) => self.encode_part(part),
            Piece::Span(span) => self.encode_span(span),
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

    fn has_room(&self, owed_bytes_max: usize) -> bool {
        match owed_bytes_max == 0 || self.shared.is_memory_scarce() {
            true => !self.transport.has_unsent(),
            false => self.transport.unsent_bytes() < OWED_BYTES_MAX.min(owed_bytes_max),
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        self.transport
            .poll_flush(context)
            .map_err(CloseReason::from)
    }
}

impl Connection {
    /// The received part of the request's body, and how many bytes that are: no head before the
    /// response is out.
    fn next_of_body(&mut self) -> Result<(usize, Event), CloseReason> {
        let unread = self.transport.recv_buf.unread();
        let step = self
            .http
            .next_event(unread, &self.shared.limits.h1, &mut Head::new());
        step.map_err(CloseReason::Fault)
    }
}
