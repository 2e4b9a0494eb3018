//! The server side of one connection: it decodes requests and encodes responses, one exchange after
//! the other. It stores no bytes. The order of events is checked by `state.rs`.

use std::borrow::Cow;
use std::ops::Range;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::body::{BodyEvent, Decoder};
use super::encode::{
    DataPrefix, HeadWriter, Persistence, ResponseFraming, ResponseHead, WrongLength, last_chunk,
};
use super::parse::{self, Framing, MessageLimits, RequestFlags, is_blank};
use super::state::{ExchangeState, Party, PartyState, Step};
use crate::http::date::DATE_LEN;
use crate::http::{Fault, Head, Version};

/// The result of [`Codec::next_event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// More bytes are needed. Framing bytes of a chunked body may be consumed with this event.
    NeedData,
    /// A request's head, which was written to the caller's [`Head`], and the framing of its body.
    /// A request without a body ([`Framing::None`]) is complete with this event: no
    /// [`Event::End`] follows.
    Request(Framing),
    /// Data of the request's body or, after a 101 response, of the other protocol. It is a range of
    /// the bytes consumed with this event.
    Data(Range<usize>),
    /// The line of a trailer field without its CR LF, as a range of the bytes consumed with this
    /// event. No more data follows, only further trailers and the end.
    Trailer(Range<usize>),
    /// The request's body is complete or, after a 101 response, the client has half-closed.
    End,
    /// The next bytes do not belong to this exchange. They are a pipelined request, which must
    /// wait for the response to the current one, or they follow a fault.
    Paused,
}

/// The protocol state of one connection. It is small, because every idle connection has one.
#[derive(Clone, Debug)]
pub struct Codec {
    body: Decoder,
    /// Bytes of the response's body that are not yet sent, by its Content-Length.
    response_left: u64,
    /// How many of the unconsumed bytes were searched for the end of a head or a trailer line.
    scanned: u32,
    exchange: ExchangeState,
    response_body: ResponseBody,
    /// Whether the request was HEAD.
    is_head: bool,
    version: Version,
}

const _: () = assert!(size_of::<Codec>() <= 48);

/// The bytes to send after the data of a chunk.
pub const DATA_SUFFIX: &[u8] = b"\r\n";

/// How the body of the current response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseBody {
    /// No final response has begun, or it has no body.
    None,
    /// After the bytes that Content-Length announced.
    Counted,
    Chunked,
    /// When the connection ends.
    UntilClose,
}

impl Codec {
    /// A new connection, before its first request.
    #[must_use]
    pub const fn server() -> Self {
        Self {
            body: Decoder::counted(0),
            response_left: 0,
            scanned: 0,
            exchange: ExchangeState::new(),
            response_body: ResponseBody::None,
            is_head: false,
            version: Version::Http11,
        }
    }

    /// Decodes the next event. `bytes` must be all bytes that were received and not yet consumed.
    /// Returns how many bytes to consume, and the event.
    ///
    /// Call it until it returns [`Event::NeedData`] or [`Event::Paused`]. Consumed bytes must not
    /// be passed again, whatever the event was. A request's head is written to `head` and not
    /// returned: moving it through the results costs as much as parsing it.
    ///
    /// # Errors
    /// A fault of the peer, which ends the request. If [`Codec::can_respond`], a response with
    /// the fault's status can still be sent. Then the connection must close.
    #[inline(always)]
    pub fn next_event(
        &mut self,
        bytes: &[u8],
        limits: &MessageLimits,
        head: &mut Head,
    ) -> Result<(usize, Event), Fault> {
        let step = match self.exchange.requester() {
            PartyState::Idle => self.next_head(bytes, limits, head),
            PartyState::Body | PartyState::Waiting => self.next_body_event(bytes, limits),
            PartyState::Switched if !bytes.is_empty() => {
                self.exchange.step(Party::Requester, Step::Data);
                Ok((bytes.len(), Event::Data(0..bytes.len())))
            }
            PartyState::Closed if self.exchange.responder() == PartyState::Switched => {
                Ok((0, Event::End))
            }
            _ if bytes.is_empty() => Ok((0, Event::NeedData)),
            _ => Ok((0, Event::Paused)),
        };
        if step.is_err() {
            self.fail_request(bytes);
        }
        step
    }

    /// Reports that the peer has half-closed the connection: no byte follows `unread`, the bytes
    /// that were received and not yet consumed.
    ///
    /// Call it after [`Codec::next_event`] has returned [`Event::NeedData`] or
    /// [`Event::Paused`]. Call it again if [`Event::NeedData`] is returned once the pipelined
    /// requests have been served.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if the bytes end inside a head or a body.
    pub fn receive_eof(&mut self, unread: &[u8]) -> Result<(), Fault> {
        match self.exchange.requester() {
            PartyState::Idle if is_blank(unread) => {
                self.exchange.close_requester();
                Ok(())
            }
            PartyState::Idle | PartyState::Body | PartyState::Waiting => {
                self.fail_request(unread);
                Err(Fault::Truncated)
            }
            PartyState::MustClose | PartyState::Closed | PartyState::Switched => {
                self.exchange.close_requester();
                Ok(())
            }
            // The request is over, and the client may still read the response. Unless `unread` is
            // a pipelined request, no request follows.
            _ => {
                if unread.is_empty() {
                    self.exchange.declare_last(Party::Requester);
                }
                Ok(())
            }
        }
    }

    /// Stops reading the request, because the caller has found a fault itself: a missed deadline,
    /// for example. The connection closes after the response. `unread` are the bytes that were
    /// received and not yet consumed.
    pub fn fail_request(&mut self, unread: &[u8]) {
        if self.exchange.is_idle() {
            // An error response to HEAD has no content either (RFC 9110 §9.3.2).
            self.is_head = unread.trim_ascii_start().starts_with(b"HEAD ");
        }
        self.exchange.fail(Party::Requester);
    }

    /// Whether no exchange is in progress.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.exchange.is_idle()
    }

    /// Whether the request has been received completely, or there is none. False after a fault.
    #[must_use]
    pub fn request_complete(&self) -> bool {
        !matches!(
            self.exchange.requester(),
            PartyState::Body | PartyState::Waiting | PartyState::Error
        )
    }

    /// The bytes of the request's body that are known to follow. If it is chunked, more may.
    #[must_use]
    pub fn known_body_left(&self) -> u64 {
        self.body.known_left()
    }

    /// Whether a 101 response can be sent: the request has been received completely, its version is
    /// HTTP/1.1, and no final response has begun.
    #[must_use]
    pub fn can_switch(&self) -> bool {
        self.version == Version::Http11
            && self.exchange.requester() == PartyState::Done
            && self.exchange.responder() == PartyState::Head
    }

    /// Whether the server sends data of another protocol, after a 101 response.
    #[must_use]
    pub fn is_switched(&self) -> bool {
        self.exchange.responder() == PartyState::Switched
    }

    /// Whether the head of a request was decoded, and no other exchange has begun since.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.exchange.responder() != PartyState::Idle
    }

    /// Whether the head of a final response can still be sent.
    #[must_use]
    pub fn can_respond(&self) -> bool {
        let responder = self.exchange.responder();
        matches!(responder, PartyState::Idle | PartyState::Head)
    }

    /// Whether the client waits for `100 Continue` and has not begun to send the body.
    #[must_use]
    pub fn wants_continue(&self) -> bool {
        self.exchange.requester() == PartyState::Waiting
    }

    /// Encodes `100 Continue`; returns no bytes if the client does not wait for it.
    pub fn encode_continue(&mut self) -> &'static [u8] {
        if !self.wants_continue() {
            return b"";
        }
        self.exchange.proceed();
        self.exchange.step(Party::Responder, Step::Interim);
        b"HTTP/1.1 100 Continue\r\n\r\n"
    }

    /// Whether the version of the request has interim responses (1xx).
    #[must_use]
    pub fn has_interim_responses(&self) -> bool {
        self.version != Version::Http10
    }

    /// Encodes the head of a response to the start of `out` and returns its length.
    ///
    /// Adds Date and Server if the response has none. Decides on framing and persistence: the
    /// response's own Content-Length, Transfer-Encoding and connection fields are left out, and
    /// those that Connection names, but `Connection: close` closes the connection after this
    /// response.
    ///
    /// A 1xx status is an interim response, and another response must follow. HTTP/1.0 has no
    /// interim responses: nothing is written, and the length is 0 (RFC 9110 §15.2). An exception is
    /// 101, which is the last response. The Upgrade fields of 101 and 426 are sent.
    ///
    /// # Panics
    /// If `out` is shorter than the head. [`ResponseHead::head_bytes_max`] bytes always suffice.
    pub fn encode_head<'f, F>(
        &mut self,
        response: &ResponseHead<'f, F>,
        date: &[u8; DATE_LEN],
        out: &mut [u8],
    ) -> usize
    where
        F: Clone + IntoIterator<Item = (&'f HeaderName, &'f HeaderValue)>,
    {
        let is_interim = response.status.is_informational();
        if is_interim && !self.has_interim_responses() {
            return 0;
        }
        let mut head = HeadWriter::new(&mut *out);
        head.status_line(response.status, response.reason);
        head.fields(response.fields.clone());
        if let Some(shared) = response.shared {
            head.shared(shared);
        }
        let wants_close = head.wants_close();
        if head.is_special() {
            let framing = response.framing(self.version, self.is_head);
            let may_have_trailers = framing == ResponseFraming::Chunked && !is_interim;
            head = HeadWriter::of_special(out, response, may_have_trailers);
        }
        if matches!(
            response.status,
            StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED
        ) {
            head.upgrade(response.fields.clone());
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            self.response_body = ResponseBody::UntilClose;
            self.exchange.switch();
            return head.finish(date, ResponseFraming::None, Persistence::Implied);
        }
        if is_interim {
            if response.status == StatusCode::CONTINUE {
                self.exchange.proceed();
            }
            self.exchange.step(Party::Responder, Step::Interim);
            return head.finish(date, ResponseFraming::None, Persistence::Implied);
        }
        let framing = self.frame(response);
        let has_end = self.response_body != ResponseBody::UntilClose;
        self.exchange.respond(has_end && !wants_close);
        let persistence = match self.version {
            _ if !self.exchange.persists() => Persistence::Close,
            Version::Http10 => Persistence::KeepAlive,
            Version::Http11 => Persistence::Implied,
        };
        head.finish(date, framing, persistence)
    }

    /// Whether the response whose head was encoded may have a body. It may not if the request is
    /// HEAD or the status is 204, 205 or 304.
    #[must_use]
    pub fn body_allowed(&self) -> bool {
        self.response_body != ResponseBody::None
    }

    /// Announces the next `len` bytes of the response's body. If the body is chunked, returns the
    /// bytes to send before them, and [`DATA_SUFFIX`] must be sent after them.
    ///
    /// # Errors
    /// [`WrongLength::Excess`] if the body would exceed its Content-Length, or the response has no
    /// body. The `len` bytes must not be sent.
    #[inline]
    pub fn encode_data_prefix(&mut self, len: usize) -> Result<Option<DataPrefix>, WrongLength> {
        // An empty chunk would end the body.
        if len == 0 {
            return Ok(None);
        }
        let prefix = match self.response_body {
            ResponseBody::None => Err(WrongLength::Excess),
            ResponseBody::UntilClose => Ok(None),
            ResponseBody::Chunked => Ok(Some(DataPrefix::chunk(len))),
            ResponseBody::Counted => match self.response_left.checked_sub(len as u64) {
                Some(left) => {
                    self.response_left = left;
                    Ok(None)
                }
                None => Err(WrongLength::Excess),
            },
        };
        match prefix {
            Ok(_) => self.exchange.step(Party::Responder, Step::Data),
            Err(_) => self.exchange.fail(Party::Responder),
        }
        prefix
    }

    /// Completes the response and encodes the end of its body, if it needs one. The connection can
    /// then continue with the rest of the request or the next one, or [`Codec::must_close`].
    ///
    /// # Errors
    /// [`WrongLength::Short`] if the body is shorter than its Content-Length. The connection must
    /// close, which is how the client learns of this.
    #[inline]
    pub fn encode_end(&mut self) -> Result<&'static [u8], WrongLength> {
        if self.response_body == ResponseBody::Counted && self.response_left > 0 {
            self.exchange.fail(Party::Responder);
            return Err(WrongLength::Short);
        }
        let end: &[u8] = match self.response_body {
            ResponseBody::Chunked => b"0\r\n\r\n",
            ResponseBody::None | ResponseBody::Counted | ResponseBody::UntilClose => b"",
        };
        self.end(Party::Responder);
        Ok(end)
    }

    /// Like [`Codec::encode_end`], and sends `trailers` if the body is chunked. Other bodies
    /// cannot have trailers.
    ///
    /// # Errors
    /// Those of [`Codec::encode_end`].
    pub fn encode_end_with_trailers(
        &mut self,
        trailers: &HeaderMap,
    ) -> Result<Cow<'static, [u8]>, WrongLength> {
        let is_chunked = self.response_body == ResponseBody::Chunked;
        let end = self.encode_end()?;
        Ok(match is_chunked {
            true => Cow::Owned(last_chunk(trailers)),
            false => Cow::Borrowed(end),
        })
    }

    /// Makes the current exchange the last one, or the next exchange if the connection is idle.
    pub fn close_after(&mut self) {
        self.exchange.declare_last(Party::Responder);
    }

    /// Whether the client has declared that it sends no request after the current one.
    #[must_use]
    pub fn is_last_request(&self) -> bool {
        self.exchange.is_last_request()
    }

    /// Whether the peer may still send something: the rest of its request, or another request.
    #[must_use]
    pub fn peer_may_send(&self) -> bool {
        !(self.is_last_request() && self.request_complete())
    }

    /// Whether no further response can be sent: the connection must be closed.
    #[must_use]
    pub fn must_close(&self) -> bool {
        matches!(
            self.exchange.responder(),
            PartyState::MustClose | PartyState::Closed | PartyState::Error
        )
    }

    /// Whether the connection must be reset instead of closed: the end of the connection is also
    /// the end of the response's body, and the response is incomplete or not all of it `is_sent`.
    /// The client would take an orderly close for the end of a complete body.
    #[must_use]
    pub fn must_reset(&self, is_sent: bool) -> bool {
        let is_cut = !is_sent
            || matches!(
                self.exchange.responder(),
                PartyState::Body | PartyState::Error | PartyState::Switched
            );
        self.response_body == ResponseBody::UntilClose && is_cut
    }

    /// Parses the head of the next request, and begins an exchange if it is complete.
    #[inline(always)]
    fn next_head(
        &mut self,
        bytes: &[u8],
        limits: &MessageLimits,
        head: &mut Head,
    ) -> Result<(usize, Event), Fault> {
        let mut flags = RequestFlags::default();
        let parsed = parse::parse(bytes, &mut self.scanned, limits, head, &mut flags)?;
        let Some((len, framing)) = parsed else {
            return Ok((0, Event::NeedData));
        };
        self.exchange.step(Party::Requester, Step::Request);
        self.exchange.step(Party::Responder, Step::Request);
        self.version = head.version;
        self.is_head = head.method == Method::HEAD;
        if !flags.keeps_alive {
            self.exchange.declare_last(Party::Requester);
        }
        match framing {
            Framing::None => self.exchange.step(Party::Requester, Step::End),
            Framing::Length(length) => self.body = Decoder::counted(length),
            Framing::Chunked => self.body = Decoder::chunked(),
        }
        if flags.expects_continue && framing != Framing::None {
            self.exchange.step(Party::Requester, Step::Expect);
        }
        Ok((len, Event::Request(framing)))
    }

    /// Decodes the next event of the request's body.
    fn next_body_event(
        &mut self,
        bytes: &[u8],
        limits: &MessageLimits,
    ) -> Result<(usize, Event), Fault> {
        if !bytes.is_empty() {
            self.exchange.proceed();
        }
        let (used, decoded) = self.body.decode(bytes, &mut self.scanned, limits)?;
        let event = match decoded {
            BodyEvent::NeedData => Event::NeedData,
            BodyEvent::Data(range) => {
                self.exchange.step(Party::Requester, Step::Data);
                Event::Data(range)
            }
            BodyEvent::Trailer(line) => Event::Trailer(line),
            BodyEvent::End => {
                self.end(Party::Requester);
                Event::End
            }
        };
        Ok((used, event))
    }

    /// Decides how the response's body ends (RFC 9112 §6.3), and which framing field the head has.
    fn frame<F>(&mut self, response: &ResponseHead<'_, F>) -> ResponseFraming {
        let framing = response.framing(self.version, self.is_head);
        self.response_body = match framing {
            _ if self.is_head || response.status == StatusCode::RESET_CONTENT => ResponseBody::None,
            ResponseFraming::None => ResponseBody::None,
            ResponseFraming::Length(length) => {
                self.response_left = length;
                ResponseBody::Counted
            }
            ResponseFraming::Chunked => ResponseBody::Chunked,
            ResponseFraming::UntilClose => ResponseBody::UntilClose,
        };
        framing
    }

    /// Completes the message of `party`. If this ends the exchange, prepares for the next one.
    fn end(&mut self, party: Party) {
        if self.exchange.end(party) {
            self.response_body = ResponseBody::None;
            self.is_head = false;
            self.version = Version::Http11;
        }
    }
}
