//! One connection as its server sees it: requests come in, answers go out, one exchange after the
//! other. It refuses to hold bytes, and it leaves to `state.rs` what may follow what.

use std::borrow::Cow;
use std::ops::Range;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::body::{Decoder, Piece};
use super::encode::{
    Answer, AnswerFraming, BodyLength, DataPrefix, HeadWriter, Persistence, WrongLength, last_chunk,
};
use super::parse::{self, Framing, Limits, Wishes};
use super::state::{Exchange, Party, State, Step};
use crate::http::date::DATE_LEN;
use crate::http::{Fault, Head, Version};

/// What the received bytes mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing yet; more bytes have to come. Framing of a chunked body is consumed with it.
    NeedData,
    /// A request's head, which is now in the [`Head`] that was given for it, and how its body
    /// ends. Without a body ([`Framing::None`]) it is the whole request, and no [`Event::End`]
    /// follows.
    Request(Framing),
    /// A stretch of the request's body, in the bytes consumed with this event.
    Data(Range<usize>),
    /// The line of a trailer field, without its end, in the bytes consumed with this event. The end
    /// of the body follows.
    Trailer(Range<usize>),
    /// The request's body is complete.
    End,
    /// Bytes have come that do not belong to this exchange: a pipelined request, which has to
    /// wait for the answer to the one before, or what follows a fault.
    Paused,
}

/// The protocol state of one connection. It is small, for idle connections keep one each.
#[derive(Clone, Debug)]
pub struct Connection {
    body: Decoder,
    /// Bytes of the answer's body that its Content-Length still promises.
    answer_left: u64,
    /// How many of the unread bytes were searched for the end of a head or a trailer line.
    scanned: u32,
    exchange: Exchange,
    answer: AnswerBody,
    /// Whether the request was HEAD.
    is_head: bool,
    version: Version,
}

const _: () = assert!(size_of::<Connection>() <= 48);

/// What ends a chunk.
pub const DATA_SUFFIX: &[u8] = b"\r\n";

/// How far the answer's body is, and how its end will be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerBody {
    None,
    Counted,
    Chunked,
    UntilClose,
}

impl Connection {
    /// A new connection, before its first request.
    #[must_use]
    pub const fn server() -> Self {
        Self {
            body: Decoder::counted(0),
            answer_left: 0,
            scanned: 0,
            exchange: Exchange::new(),
            answer: AnswerBody::None,
            is_head: false,
            version: Version::Http11,
        }
    }

    /// Reads `bytes`, which are all that was received and not yet consumed: how many to consume,
    /// and what they mean. To be called until it says [`Event::NeedData`] or [`Event::Paused`].
    /// What is to be consumed must not be shown again, whatever the event. A request's head is
    /// written to `head`, for moving it from one result into the next costs as much as finding it.
    ///
    /// # Errors
    /// What the peer did wrong. The request is over then; the connection can still answer with
    /// the fault's status if [`Connection::can_answer`], and must close.
    #[inline(always)]
    pub fn next_event(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        head: &mut Head,
    ) -> Result<(usize, Event), Fault> {
        let step = match self.exchange.requester() {
            State::Idle => self.next_head(bytes, limits, head),
            State::Body | State::Waiting => self.next_piece(bytes, limits),
            State::Switched if !bytes.is_empty() => {
                self.exchange.step(Party::Requester, Step::Data);
                Ok((bytes.len(), Event::Data(0..bytes.len())))
            }
            State::Closed if self.exchange.responder() == State::Switched => Ok((0, Event::End)),
            _ if bytes.is_empty() => Ok((0, Event::NeedData)),
            _ => Ok((0, Event::Paused)),
        };
        if step.is_err() {
            self.refuse();
        }
        step
    }

    /// The peer has ended its side; `unread` is what was received and not consumed. To be called
    /// after [`Connection::next_event`] has asked for more or paused, and again if it asks for more
    /// after the answers to pipelined requests.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if it ended inside a head or a body.
    pub fn receive_eof(&mut self, unread: &[u8]) -> Result<(), Fault> {
        match self.exchange.requester() {
            State::Idle if is_blank(unread) => {
                self.exchange.close_requester();
                Ok(())
            }
            State::Idle | State::Body | State::Waiting => {
                self.refuse();
                Err(Fault::Truncated)
            }
            State::MustClose | State::Closed | State::Switched => {
                self.exchange.close_requester();
                Ok(())
            }
            // A half-close: the answer is still wanted, and no request can follow it.
            _ => {
                if unread.is_empty() {
                    self.exchange.declare_last(Party::Requester);
                }
                Ok(())
            }
        }
    }

    /// The request will not be read any further: the caller found a fault of its own, a deadline
    /// for one. The connection closes after the answer.
    pub fn refuse(&mut self) {
        self.exchange.fail(Party::Requester);
    }

    /// Whether the connection is between two exchanges, or before its first.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.exchange.is_idle()
    }

    /// Whether the whole request has been received; also while there is none.
    #[must_use]
    pub fn request_complete(&self) -> bool {
        !matches!(
            self.exchange.requester(),
            State::Body | State::Waiting | State::Error
        )
    }

    /// Whether an answer of status 101 can be sent: to a whole request of HTTP/1.1.
    #[must_use]
    pub fn can_switch(&self) -> bool {
        self.version == Version::Http11
            && self.exchange.requester() == State::Done
            && self.exchange.responder() == State::Head
    }

    /// Whether another protocol has taken the place of HTTP.
    #[must_use]
    pub fn is_switched(&self) -> bool {
        self.exchange.responder() == State::Switched
    }

    /// Whether an answer's head can still be sent.
    #[must_use]
    pub fn can_answer(&self) -> bool {
        matches!(self.exchange.responder(), State::Idle | State::Head)
    }

    /// Whether the client waits for `100 Continue` and has sent nothing of the body.
    #[must_use]
    pub fn wants_continue(&self) -> bool {
        self.exchange.requester() == State::Waiting
    }

    /// The bytes of `100 Continue`; none where nobody waits for it.
    pub fn send_continue(&mut self) -> &'static [u8] {
        if !self.wants_continue() {
            return b"";
        }
        self.exchange.proceed();
        self.exchange.step(Party::Responder, Step::Interim);
        b"HTTP/1.1 100 Continue\r\n\r\n"
    }

    /// Writes the head of `answer` to the start of `out` and returns its length.
    ///
    /// Date and Server are added unless the answer has its own. Framing and persistence are decided
    /// here: the answer's own Content-Length, Transfer-Encoding and connection fields are left
    /// out, though `Connection: close` among them is heeded. A status of 1xx is an interim answer,
    /// which another must follow; HTTP/1.0 has none, and nothing is written (RFC 9110 §15.2). 101
    /// is the last answer, and its Upgrade field is sent, as is that of 426.
    ///
    /// # Panics
    /// If `out` is shorter than the head; [`Answer::head_bytes_max`] bytes are always enough.
    pub fn send_head<'f, F>(
        &mut self,
        answer: &Answer<'f, F>,
        date: &[u8; DATE_LEN],
        out: &mut [u8],
    ) -> usize
    where
        F: Clone + IntoIterator<Item = (&'f HeaderName, &'f HeaderValue)>,
    {
        let is_interim = answer.status.is_informational();
        if is_interim && self.version == Version::Http10 {
            return 0;
        }
        let mut head = HeadWriter::new(out);
        head.status_line(answer.status, answer.reason);
        head.fields(answer.fields.clone());
        if let Some(shared) = answer.shared {
            head.shared(shared);
        }
        if matches!(
            answer.status,
            StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED
        ) {
            head.upgrade(answer.fields.clone());
        }
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            self.answer = AnswerBody::UntilClose;
            self.exchange.switch();
            return head.finish(date, AnswerFraming::None, Persistence::Implied);
        }
        if is_interim {
            if answer.status == StatusCode::CONTINUE {
                self.exchange.proceed();
            }
            self.exchange.step(Party::Responder, Step::Interim);
            return head.finish(date, AnswerFraming::None, Persistence::Implied);
        }
        let framing = self.frame(answer);
        let has_end = self.answer != AnswerBody::UntilClose;
        self.exchange.respond(has_end && !head.wants_close());
        let persistence = match self.version {
            _ if !self.exchange.persists() => Persistence::Close,
            Version::Http10 => Persistence::KeepAlive,
            Version::Http11 => Persistence::Implied,
        };
        head.finish(date, framing, persistence)
    }

    /// Whether the answer whose head was sent has a body: not to HEAD, nor with 204, 205 or 304.
    #[must_use]
    pub fn body_allowed(&self) -> bool {
        self.answer != AnswerBody::None
    }

    /// The bytes to send before the next `len` bytes of the answer's body, where it is chunked;
    /// then [`DATA_SUFFIX`] follows them.
    ///
    /// # Errors
    /// [`WrongLength::Excess`] if the body would grow beyond its Content-Length, or there is none;
    /// the bytes must not be sent.
    pub fn send_data(&mut self, len: usize) -> Result<Option<DataPrefix>, WrongLength> {
        // A chunk of no bytes would end the body.
        if len == 0 {
            return Ok(None);
        }
        let prefix = match self.answer {
            AnswerBody::None => Err(WrongLength::Excess),
            AnswerBody::UntilClose => Ok(None),
            AnswerBody::Chunked => Ok(Some(DataPrefix::chunk(len))),
            AnswerBody::Counted => match self.answer_left.checked_sub(len as u64) {
                Some(left) => {
                    self.answer_left = left;
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

    /// The answer is complete, with or without a body: the bytes that end it. The connection is
    /// ready for the next request, or [`Connection::must_close`].
    ///
    /// # Errors
    /// [`WrongLength::Short`] if its Content-Length promised more: only closing tells the client.
    pub fn send_end(&mut self) -> Result<&'static [u8], WrongLength> {
        if self.answer == AnswerBody::Counted && self.answer_left > 0 {
            self.exchange.fail(Party::Responder);
            return Err(WrongLength::Short);
        }
        let end: &[u8] = match self.answer {
            AnswerBody::Chunked => b"0\r\n\r\n",
            AnswerBody::None | AnswerBody::Counted | AnswerBody::UntilClose => b"",
        };
        self.end(Party::Responder);
        Ok(end)
    }

    /// As [`Connection::send_end`], with `trailers` where the body is chunked. Otherwise there is
    /// no place for them.
    ///
    /// # Errors
    /// As there.
    pub fn send_end_with(
        &mut self,
        trailers: &HeaderMap,
    ) -> Result<Cow<'static, [u8]>, WrongLength> {
        let is_chunked = self.answer == AnswerBody::Chunked;
        let end = self.send_end()?;
        Ok(match is_chunked {
            true => Cow::Owned(last_chunk(trailers)),
            false => Cow::Borrowed(end),
        })
    }

    /// No other exchange after this one, or after the next if the connection is idle.
    pub fn close_after(&mut self) {
        self.exchange.declare_last(Party::Responder);
    }

    /// Whether the client has said that it sends no request after the one at hand.
    #[must_use]
    pub fn is_last_request(&self) -> bool {
        self.exchange.is_last_request()
    }

    /// Whether the peer may be sending, for all it has said: the rest of its request, or another.
    #[must_use]
    pub fn peer_may_send(&self) -> bool {
        !(self.is_last_request() && self.request_complete())
    }

    /// Whether nothing more can be sent: the connection is to be closed.
    #[must_use]
    pub fn must_close(&self) -> bool {
        matches!(
            self.exchange.responder(),
            State::MustClose | State::Closed | State::Error
        )
    }

    /// Whether an answer whose end is told only by closing was begun and is cut short: in the
    /// middle, or because not all of it `is_sent`. An end in order would make it look whole.
    #[must_use]
    pub fn must_reset(&self, is_sent: bool) -> bool {
        let is_cut = !is_sent
            || matches!(
                self.exchange.responder(),
                State::Body | State::Error | State::Switched
            );
        self.answer == AnswerBody::UntilClose && is_cut
    }

    #[inline(always)]
    fn next_head(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        head: &mut Head,
    ) -> Result<(usize, Event), Fault> {
        let mut wishes = Wishes::default();
        let parsed = parse::parse(bytes, &mut self.scanned, limits, head, &mut wishes);
        if parsed.is_err() {
            // Whatever is wrong with it, an answer to HEAD has no content (RFC 9110 §9.3.2).
            self.is_head = bytes.trim_ascii_start().starts_with(b"HEAD ");
        }
        let Some((len, framing)) = parsed? else {
            return Ok((0, Event::NeedData));
        };
        self.exchange.step(Party::Requester, Step::Request);
        self.exchange.step(Party::Responder, Step::Request);
        self.version = head.version;
        self.is_head = head.method == Method::HEAD;
        if !wishes.keeps_alive {
            self.exchange.declare_last(Party::Requester);
        }
        match framing {
            Framing::None => self.exchange.step(Party::Requester, Step::End),
            Framing::Length(length) => self.body = Decoder::counted(length),
            Framing::Chunked => self.body = Decoder::chunked(),
        }
        if wishes.expects_continue && framing != Framing::None {
            self.exchange.step(Party::Requester, Step::Expect);
        }
        Ok((len, Event::Request(framing)))
    }

    fn next_piece(&mut self, bytes: &[u8], limits: &Limits) -> Result<(usize, Event), Fault> {
        if !bytes.is_empty() {
            self.exchange.proceed();
        }
        let (used, piece) = self.body.decode(bytes, &mut self.scanned, limits)?;
        let event = match piece {
            Piece::NeedData => Event::NeedData,
            Piece::Data(range) => {
                self.exchange.step(Party::Requester, Step::Data);
                Event::Data(range)
            }
            Piece::Trailer(line) => Event::Trailer(line),
            Piece::End => {
                self.end(Party::Requester);
                Event::End
            }
        };
        Ok((used, event))
    }

    /// How the end of the answer's body is told (RFC 9112 §6.3), and what the head says of it.
    fn frame<F>(&mut self, answer: &Answer<'_, F>) -> AnswerFraming {
        let framing = match (answer.status, answer.length) {
            // RFC 9110 §8.6: no length with 204; with 304 it would be that of the 200.
            (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) => AnswerFraming::None,
            // RFC 9110 §15.3.6: it has no content, and says so.
            (StatusCode::RESET_CONTENT, _) => AnswerFraming::Length(0),
            // RFC 9110 §9.3.2: whoever leaves out the content may not know its length.
            (_, BodyLength::Known(0)) if self.is_head => AnswerFraming::None,
            (_, BodyLength::Known(length)) => AnswerFraming::Length(length),
            (_, BodyLength::Unknown) if self.version == Version::Http10 => {
                AnswerFraming::UntilClose
            }
            (_, BodyLength::Unknown) => AnswerFraming::Chunked,
        };
        self.answer = match framing {
            _ if self.is_head || answer.status == StatusCode::RESET_CONTENT => AnswerBody::None,
            AnswerFraming::None => AnswerBody::None,
            AnswerFraming::Length(length) => {
                self.answer_left = length;
                AnswerBody::Counted
            }
            AnswerFraming::Chunked => AnswerBody::Chunked,
            AnswerFraming::UntilClose => AnswerBody::UntilClose,
        };
        framing
    }

    /// `party` has said all of its message: on to the next exchange, if there is one.
    fn end(&mut self, party: Party) {
        if self.exchange.end(party) {
            self.answer = AnswerBody::None;
            self.is_head = false;
            self.version = Version::Http11;
        }
    }
}

/// Whether these bytes are no more than empty lines, which belong to no request (RFC 9112 §2.2):
/// some clients send one after a body.
#[must_use]
pub fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}
