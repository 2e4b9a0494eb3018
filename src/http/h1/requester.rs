//! The client side of one connection: it encodes requests and decodes responses, one exchange after
//! the other. It stores no bytes. The order of events is checked by `state.rs`.

use std::borrow::Cow;
use std::ops::Range;

use ::http::{HeaderMap, StatusCode};

use super::body::{BodyEvent, Decoder};
use super::encode::{BodyLength, DataPrefix, ResponseFraming, WrongLength, last_chunk};
use super::encode_request::RequestHead;
use super::parse::MessageLimits;
use super::parse_response::{self, ReceivedHead};
use super::state::{ExchangeState, Party, PartyState, Step};
use crate::http::Fault;

/// The result of [`Requester::next_event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseEvent {
    /// More bytes are needed. Framing bytes of a chunked body may be consumed with this event.
    NeedData,
    /// The head of an interim response (1xx). The final response follows.
    Interim(ReceivedHead),
    /// The head of the final response. A response without a body is complete with this event: no
    /// [`ResponseEvent::End`] follows.
    Response(ReceivedHead),
    /// Data of the response's body, as a range of the bytes consumed with this event.
    Data(Range<usize>),
    /// The line of a trailer field without its CR LF, as a range of the bytes consumed with this
    /// event.
    Trailer(Range<usize>),
    /// The response's body is complete.
    End,
    /// The next bytes belong to no request: the peer has sent too much.
    Excess,
}

/// The protocol state of one connection to a server.
#[derive(Clone, Debug)]
pub struct Requester {
    body: Decoder,
    /// Bytes of the request's body that are not yet sent, by its Content-Length.
    request_left: u64,
    /// Bytes of a response's body that ends with the connection, so far.
    received: u64,
    /// How many of the unconsumed bytes were searched for the end of a head or a trailer line.
    scanned: u32,
    exchange: ExchangeState,
    request_length: BodyLength,
    response_framing: ResponseFraming,
    /// Whether the request is HEAD.
    is_head: bool,
}

impl Default for Requester {
    fn default() -> Self {
        Self::new()
    }
}

impl Requester {
    /// A new connection, before its first request.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            body: Decoder::counted(0),
            request_left: 0,
            received: 0,
            scanned: 0,
            exchange: ExchangeState::new(),
            request_length: BodyLength::Known(0),
            response_framing: ResponseFraming::None,
            is_head: false,
        }
    }

    /// Begins an exchange, on a connection that is idle, and encodes the request's head.
    ///
    /// # Errors
    /// The fault that a strict server would find in the head. Nothing must be sent.
    pub fn encode_request(&mut self, head: &RequestHead<'_>) -> Result<Vec<u8>, Fault> {
        let encoded = head.encode()?;
        self.exchange.step(Party::Requester, Step::Request);
        self.exchange.step(Party::Responder, Step::Request);
        self.is_head = head.method == ::http::Method::HEAD;
        self.request_length = head.length;
        self.response_framing = ResponseFraming::None;
        if head.wants_close() {
            self.exchange.declare_last(Party::Requester);
        }
        match head.length {
            BodyLength::Known(0) | BodyLength::Omitted => {
                self.exchange.step(Party::Requester, Step::End);
            }
            BodyLength::Known(length) => self.request_left = length,
            BodyLength::Unknown => {}
        }
        if head.expects_continue() {
            self.exchange.step(Party::Requester, Step::Expect);
        }
        Ok(encoded)
    }

    /// Announces the next `len` bytes of the request's body. If the body is chunked, returns the
    /// bytes to send before them, and [`DATA_SUFFIX`](super::DATA_SUFFIX) must be sent after them.
    ///
    /// # Errors
    /// [`WrongLength::Excess`] if the body would exceed its Content-Length. The `len` bytes must
    /// not be sent.
    pub fn encode_data_prefix(&mut self, len: usize) -> Result<Option<DataPrefix>, WrongLength> {
        // An empty chunk would end the body.
        if len == 0 {
            return Ok(None);
        }
        let prefix = match self.request_length {
            BodyLength::Unknown => Some(DataPrefix::chunk(len)),
            _ => match self.request_left.checked_sub(len as u64) {
                Some(left) => {
                    self.request_left = left;
                    None
                }
                None => {
                    self.fail_request();
                    return Err(WrongLength::Excess);
                }
            },
        };
        self.exchange.step(Party::Requester, Step::Data);
        Ok(prefix)
    }

    /// Completes the request and encodes the end of its body, with `trailers` if it is chunked.
    ///
    /// # Errors
    /// [`WrongLength::Short`] if the body is shorter than its Content-Length. The connection must
    /// close.
    pub fn encode_end(
        &mut self,
        trailers: Option<&HeaderMap>,
    ) -> Result<Cow<'static, [u8]>, WrongLength> {
        let end = match (self.request_length, trailers) {
            (BodyLength::Unknown, Some(trailers)) => Cow::Owned(last_chunk(trailers)),
            (BodyLength::Unknown, None) => Cow::Borrowed(&b"0\r\n\r\n"[..]),
            _ if self.request_left > 0 => {
                self.fail_request();
                return Err(WrongLength::Short);
            }
            _ => Cow::Borrowed(&b""[..]),
        };
        self.exchange.end(Party::Requester);
        Ok(end)
    }

    /// Stops sending the request: its body cannot be read, the connection takes no more, or the
    /// response came first. No other exchange follows.
    pub fn fail_request(&mut self) {
        self.exchange.fail(Party::Requester);
    }

    /// Whether the body waits for `100 Continue`.
    #[must_use]
    pub fn awaits_continue(&self) -> bool {
        self.exchange.requester() == PartyState::Waiting
    }

    /// Begins to send the body, although no `100 Continue` has come (RFC 9110 §10.1.1).
    pub fn proceed(&mut self) {
        self.exchange.proceed();
    }

    /// Whether data of the request's body can be sent.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.exchange.requester() == PartyState::Body
    }

    /// Whether the connection is ready for another request.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.exchange.is_idle()
    }

    /// Decodes the next event. `bytes` must be all bytes that were received and not yet consumed.
    /// Returns how many bytes to consume, and the event.
    ///
    /// # Errors
    /// A fault of the peer. The connection must close.
    pub fn next_event(
        &mut self,
        bytes: &[u8],
        limits: &MessageLimits,
    ) -> Result<(usize, ResponseEvent), Fault> {
        let step = match self.exchange.responder() {
            PartyState::Head => self.next_head(bytes, limits),
            PartyState::Body => self.next_body_event(bytes, limits),
            _ if bytes.is_empty() => Ok((0, ResponseEvent::NeedData)),
            _ => Ok((0, ResponseEvent::Excess)),
        };
        if step.is_err() {
            self.exchange.fail(Party::Responder);
        }
        step
    }

    /// Reports that the peer has half-closed the connection, after `next_event` has asked for more
    /// bytes. Returns true if this completes the response's body.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if a response is missing or incomplete.
    pub fn receive_eof(&mut self) -> Result<bool, Fault> {
        match self.exchange.responder() {
            PartyState::Body if self.response_framing == ResponseFraming::UntilClose => {
                self.exchange.end(Party::Responder);
                Ok(true)
            }
            PartyState::Head | PartyState::Body => {
                self.exchange.fail(Party::Responder);
                Err(Fault::Truncated)
            }
            _ => Ok(false),
        }
    }

    /// Whether the final response is complete.
    #[must_use]
    pub fn response_complete(&self) -> bool {
        !matches!(
            self.exchange.responder(),
            PartyState::Head | PartyState::Body | PartyState::Error
        )
    }

    /// The length of the response's body by its Content-Length, or 0 if it has none; `None` if only
    /// its end will tell.
    #[must_use]
    pub fn response_length(&self) -> Option<u64> {
        match self.response_framing {
            ResponseFraming::None => Some(0),
            ResponseFraming::Length(length) => Some(length),
            ResponseFraming::Chunked | ResponseFraming::UntilClose => None,
        }
    }

    fn next_head(
        &mut self,
        bytes: &[u8],
        limits: &MessageLimits,
    ) -> Result<(usize, ResponseEvent), Fault> {
        let parsed = parse_response::parse(bytes, &mut self.scanned, limits, self.is_head)?;
        let Some(parsed) = parsed else {
            return Ok((0, ResponseEvent::NeedData));
        };
        let status = parsed.head.status;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Fault::UnexpectedSwitch);
        }
        if status.is_informational() {
            if status == StatusCode::CONTINUE {
                self.exchange.proceed();
            }
            self.exchange.step(Party::Responder, Step::Interim);
            return Ok((parsed.len, ResponseEvent::Interim(parsed.head)));
        }
        self.response_framing = parsed.framing;
        let has_end = parsed.framing != ResponseFraming::UntilClose;
        self.exchange.respond(parsed.keeps_alive && has_end);
        self.received = 0;
        match parsed.framing {
            ResponseFraming::None => {
                self.exchange.end(Party::Responder);
            }
            ResponseFraming::Length(length) => self.body = Decoder::counted(length),
            ResponseFraming::Chunked => self.body = Decoder::chunked(),
            ResponseFraming::UntilClose => {}
        }
        Ok((parsed.len, ResponseEvent::Response(parsed.head)))
    }

    fn next_body_event(
        &mut self,
        bytes: &[u8],
        limits: &MessageLimits,
    ) -> Result<(usize, ResponseEvent), Fault> {
        if self.response_framing == ResponseFraming::UntilClose {
            if bytes.is_empty() {
                return Ok((0, ResponseEvent::NeedData));
            }
            // What fits is data first, however the bytes were split.
            let left = limits.body_bytes_max.saturating_sub(self.received);
            let len = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            if len == 0 {
                return Err(Fault::BodyTooLarge);
            }
            self.received += len as u64;
            self.exchange.step(Party::Responder, Step::Data);
            return Ok((len, ResponseEvent::Data(0..len)));
        }
        let (used, decoded) = self.body.decode(bytes, &mut self.scanned, limits)?;
        let event = match decoded {
            BodyEvent::NeedData => ResponseEvent::NeedData,
            BodyEvent::Data(range) => {
                self.exchange.step(Party::Responder, Step::Data);
                ResponseEvent::Data(range)
            }
            BodyEvent::Trailer(line) => ResponseEvent::Trailer(line),
            BodyEvent::End => {
                self.exchange.end(Party::Responder);
                ResponseEvent::End
            }
        };
        Ok((used, event))
    }
}
