//! A connection that receives bytes and responds to each request as its policy says. It records
//! each event as a line of a report.

use coring::parts::h1::{BodyLength, Codec, Event, Framing, MessageLimits, ResponseHead, is_blank};
use coring::parts::{Fault, Head};
use http::{HeaderName, HeaderValue, StatusCode};

use super::{body, head};
use crate::input::exact;

const DATE: [u8; 29] = *b"Sun, 06 Nov 1994 08:49:37 GMT";
const NO_FIELDS: [(&HeaderName, &HeaderValue); 0] = [];

/// When a response is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponseTiming {
    /// At the end of the request.
    AtTheEnd,
    /// After the head of the request.
    AtTheHead,
    /// After the first bytes of the request's body.
    AtTheFirstData,
    /// At the end of the request, with a body of unknown length.
    Chunked,
}

impl ResponseTiming {
    pub(super) const ALL: &[Self] = &[
        Self::AtTheEnd,
        Self::AtTheHead,
        Self::AtTheFirstData,
        Self::Chunked,
    ];
}

/// How the connection responds to requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResponsePolicy {
    pub(super) timing: ResponseTiming,
    /// Each response has `Connection: close`.
    pub(super) closes: bool,
    /// A client that waits for `100 Continue` gets it.
    pub(super) continues: bool,
}

pub(super) struct Script<'a> {
    codec: Codec,
    limits: &'a MessageLimits,
    policy: ResponsePolicy,
    unread: Vec<u8>,
    report: Vec<String>,
    /// Lines about the responses. They are a part of the report only if there was no fault.
    responses: Vec<String>,
    /// The connection reads no further requests.
    over: bool,
    /// The current request has its response.
    answered: bool,
    /// The framing of the request body that is being received.
    body: Option<Framing>,
    /// The received bytes of that body, framing included.
    wire: Vec<u8>,
    /// The received content of that body.
    data: Vec<u8>,
    /// Calls of the parser.
    pub(super) calls: usize,
}

pub(super) fn is_fault(line: &str) -> bool {
    line.starts_with("fault ")
}

impl<'a> Script<'a> {
    pub(super) fn new(limits: &'a MessageLimits, policy: ResponsePolicy) -> Self {
        Self {
            codec: Codec::server(),
            limits,
            policy,
            unread: Vec::new(),
            report: Vec::new(),
            responses: Vec::new(),
            over: false,
            answered: false,
            body: None,
            wire: Vec::new(),
            data: Vec::new(),
            calls: 0,
        }
    }

    pub(super) fn receive(&mut self, piece: &[u8]) {
        if self.over {
            return;
        }
        self.unread.extend_from_slice(piece);
        loop {
            self.calls += 1;
            let mut head = Head::new();
            let shown = exact(&self.unread);
            match self.codec.next_event(&shown, self.limits, &mut head) {
                Ok((used, event)) => {
                    let needs_more = matches!(event, Event::NeedData);
                    self.take(used, event, &head);
                    if needs_more || self.over {
                        return;
                    }
                }
                Err(fault) => return self.fault(fault),
            }
        }
    }

    fn take(&mut self, used: usize, event: Event, head: &Head) {
        let bytes: Vec<u8> = self.unread.drain(..used).collect();
        if self.body.is_some() {
            self.wire.extend(&bytes);
        }
        match event {
            Event::NeedData => return,
            Event::Paused => return self.resume(used),
            Event::Request(framing) => self.begin(head, framing, &bytes),
            Event::Data(range) => {
                assert!(
                    self.body.is_some() && !range.is_empty(),
                    "data without a body"
                );
                self.data.extend(&bytes[range.clone()]);
                let text = bytes[range].escape_ascii().to_string();
                match self.report.last_mut() {
                    Some(line) if line.starts_with("data ") => line.push_str(&text),
                    _ => self.report.push(format!("data {text}")),
                }
                if self.policy.timing == ResponseTiming::AtTheFirstData && !self.answered {
                    self.respond();
                }
            }
            Event::Trailer(line) => assert!(bytes[line].contains(&b':'), "not a field"),
            Event::End => self.end(),
        }
        self.over |= self.codec.must_close() && self.body.is_none();
        if self.codec.is_idle() {
            self.answered = false;
        }
    }

    /// The parser has paused, because there are bytes behind a request without a response, or
    /// behind the last request.
    fn resume(&mut self, used: usize) {
        assert!(
            used == 0 && !self.unread.is_empty(),
            "paused without a reason"
        );
        if self.codec.must_close() {
            self.over = true;
            return;
        }
        assert!(!self.codec.is_idle(), "paused while idle");
        assert!(!self.answered, "paused after a complete exchange");
        self.respond();
    }

    fn begin(&mut self, head: &Head, framing: Framing, bytes: &[u8]) {
        assert!(
            !bytes.is_empty() && self.body.is_none(),
            "a request inside another"
        );
        head::check(&self.codec, head, framing, bytes, self.limits);
        let line = head::line(&self.codec, head, framing, bytes);
        self.report.push(line);
        self.answered = false;
        self.wire.clear();
        self.data.clear();
        self.body = Some(framing).filter(|framing| *framing != Framing::None);
        assert_eq!(self.codec.request_complete(), self.body.is_none());
        if self.policy.continues && self.codec.wants_continue() {
            let interim = self.codec.encode_continue();
            assert_eq!(interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if self.body.is_none() || self.policy.timing == ResponseTiming::AtTheHead {
            self.respond();
        }
    }

    fn end(&mut self) {
        match self.body.take() {
            None | Some(Framing::None) => panic!("the end of a body that did not begin"),
            Some(Framing::Length(len)) => {
                assert_eq!(self.data.len() as u64, len);
                assert_eq!(self.wire, self.data);
            }
            Some(Framing::Chunked) => body::check(&self.wire, &self.data, self.limits),
        }
        self.report.push("end".to_owned());
        if !self.answered {
            self.respond();
        }
    }

    fn respond(&mut self) {
        assert!(self.codec.can_respond());
        self.answered = true;
        if self.policy.closes {
            self.codec.close_after();
        }
        let length = match self.policy.timing {
            ResponseTiming::Chunked => BodyLength::Unknown,
            _ => BodyLength::Known(0),
        };
        let response = ResponseHead {
            status: StatusCode::OK,
            reason: None,
            shared: None,
            fields: NO_FIELDS,
            length,
        };
        let mut out = [0; 256];
        let len = self.codec.encode_head(&response, &DATE, &mut out);
        let text = out[..len].to_ascii_lowercase();
        assert!(text.starts_with(b"http/1.1 200 ok\r\n") && text.ends_with(b"\r\n\r\n"));
        let says_close = text.windows(17).any(|bytes| bytes == b"connection: close");
        if self.policy.timing == ResponseTiming::Chunked && self.codec.body_allowed() {
            assert!(self.codec.encode_data_prefix(5).is_ok());
        }
        let end = self.codec.encode_end().expect("the right length");
        assert!(end.is_empty() || end == b"0\r\n\r\n");
        self.responses
            .push(format!("response, closes: {says_close}"));
        if self.codec.request_complete() {
            assert_eq!(self.codec.is_idle(), !self.codec.must_close());
            assert_eq!(
                says_close,
                self.codec.must_close(),
                "the header and the state of the connection differ"
            );
        }
    }

    /// After a fault the connection reads nothing. It can send an error response exactly if the
    /// current request has no response.
    fn fault(&mut self, fault: Fault) {
        self.report.push(format!("fault {fault:?}"));
        self.over = true;
        assert!(fault.status().is_client_error() || fault.status().is_server_error());
        assert!(!fault.reason().is_empty());
        assert!(!self.codec.is_idle() && !self.codec.wants_continue());
        assert_eq!(self.codec.can_respond(), !self.answered);
        let more = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let more = self.codec.next_event(more, self.limits, &mut Head::new());
        assert_eq!(more, Ok((0, Event::Paused)));
        if self.codec.can_respond() {
            self.respond();
            assert!(self.codec.must_close());
        }
    }

    /// The client has sent everything. Returns the report.
    pub(super) fn finish(mut self) -> Vec<String> {
        if !self.over {
            if let Err(fault) = self.codec.receive_eof(&self.unread) {
                self.fault(fault);
            } else {
                let is_within = !self.unread.is_empty() && !is_blank(&self.unread);
                assert!(
                    !is_within || !self.codec.is_idle(),
                    "a cut head was not reported as a fault"
                );
            }
        }
        if !self.report.iter().any(|line| is_fault(line)) {
            self.report.append(&mut self.responses);
        }
        self.report
    }
}
