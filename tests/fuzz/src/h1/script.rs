//! One connection that is given bytes and answers each request in one manner. It reports each
//! event as a line.

use coring::parts::h1::{Answer, BodyLength, Connection, Event, Framing, Limits, is_blank};
use coring::parts::{Fault, Head};
use http::{HeaderName, HeaderValue, StatusCode};

use super::{body, head};
use crate::input::exact;

const DATE: [u8; 29] = *b"Sun, 06 Nov 1994 08:49:37 GMT";
const NO_FIELDS: [(&HeaderName, &HeaderValue); 0] = [];

/// When requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answers {
    AtTheEnd,
    AtTheHead,
    AtTheFirstData,
    /// At the end, with a body of unknown length.
    Chunked,
}

impl Answers {
    pub(super) const ALL: &[Self] = &[
        Self::AtTheEnd,
        Self::AtTheHead,
        Self::AtTheFirstData,
        Self::Chunked,
    ];
}

/// How requests are answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) answers: Answers,
    /// Each answer is the last one.
    pub(super) closes: bool,
    /// Clients that wait for `100 Continue` get it.
    pub(super) continues: bool,
}

pub(super) struct Script<'a> {
    connection: Connection,
    limits: &'a Limits,
    manner: Manner,
    unread: Vec<u8>,
    report: Vec<String>,
    /// The answers so far, which are reported where there was no fault.
    answers: Vec<String>,
    /// The connection reads no more.
    over: bool,
    answered: bool,
    /// The framing of the body that is being received.
    body: Option<Framing>,
    /// The body as it was framed.
    wire: Vec<u8>,
    data: Vec<u8>,
    pub(super) calls: usize,
}

pub(super) fn is_fault(line: &str) -> bool {
    line.starts_with("fault ")
}

impl<'a> Script<'a> {
    pub(super) fn new(limits: &'a Limits, manner: Manner) -> Self {
        Self {
            connection: Connection::server(),
            limits,
            manner,
            unread: Vec::new(),
            report: Vec::new(),
            answers: Vec::new(),
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
            match self.connection.next_event(&shown, self.limits, &mut head) {
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
                assert!(self.body.is_some() && !range.is_empty(), "data of nothing");
                self.data.extend(&bytes[range.clone()]);
                let text = bytes[range].escape_ascii().to_string();
                match self.report.last_mut() {
                    Some(line) if line.starts_with("data ") => line.push_str(&text),
                    _ => self.report.push(format!("data {text}")),
                }
                if self.manner.answers == Answers::AtTheFirstData && !self.answered {
                    self.answer();
                }
            }
            Event::Trailer(line) => assert!(bytes[line].contains(&b':'), "no field"),
            Event::End => self.end(),
        }
        self.over |= self.connection.must_close() && self.body.is_none();
        if self.connection.is_idle() {
            self.answered = false;
        }
    }

    /// Bytes wait behind a request that is not answered yet, or behind the last one.
    fn resume(&mut self, used: usize) {
        assert!(used == 0 && !self.unread.is_empty(), "paused for nothing");
        if self.connection.must_close() {
            self.over = true;
            return;
        }
        assert!(!self.connection.is_idle(), "paused while idle");
        assert!(!self.answered, "paused with a complete exchange");
        self.answer();
    }

    fn begin(&mut self, head: &Head, framing: Framing, bytes: &[u8]) {
        assert!(
            !bytes.is_empty() && self.body.is_none(),
            "a request within another"
        );
        head::check(&self.connection, head, framing, bytes, self.limits);
        let line = head::line(&self.connection, head, framing, bytes);
        self.report.push(line);
        self.answered = false;
        self.wire.clear();
        self.data.clear();
        self.body = Some(framing).filter(|framing| *framing != Framing::None);
        assert_eq!(self.connection.request_complete(), self.body.is_none());
        if self.manner.continues && self.connection.wants_continue() {
            let interim = self.connection.send_continue();
            assert_eq!(interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if self.body.is_none() || self.manner.answers == Answers::AtTheHead {
            self.answer();
        }
    }

    fn end(&mut self) {
        match self.body.take() {
            None | Some(Framing::None) => panic!("an end without a body"),
            Some(Framing::Length(len)) => {
                assert_eq!(self.data.len() as u64, len);
                assert_eq!(self.wire, self.data);
            }
            Some(Framing::Chunked) => body::check(&self.wire, &self.data, self.limits),
        }
        self.report.push("end".to_owned());
        if !self.answered {
            self.answer();
        }
    }

    fn answer(&mut self) {
        assert!(self.connection.can_answer());
        self.answered = true;
        if self.manner.closes {
            self.connection.close_after();
        }
        let length = match self.manner.answers {
            Answers::Chunked => BodyLength::Unknown,
            _ => BodyLength::Known(0),
        };
        let answer = Answer {
            status: StatusCode::OK,
            reason: None,
            shared: None,
            fields: NO_FIELDS,
            length,
        };
        let mut out = [0; 256];
        let len = self.connection.send_head(&answer, &DATE, &mut out);
        let text = out[..len].to_ascii_lowercase();
        assert!(text.starts_with(b"http/1.1 200 ok\r\n") && text.ends_with(b"\r\n\r\n"));
        let says_close = text.windows(17).any(|bytes| bytes == b"connection: close");
        if self.manner.answers == Answers::Chunked && self.connection.body_allowed() {
            assert!(self.connection.send_data(5).is_ok());
        }
        let end = self.connection.send_end().expect("the right length");
        assert!(end.is_empty() || end == b"0\r\n\r\n");
        self.answers.push(format!("answered, closes: {says_close}"));
        if self.connection.request_complete() {
            assert_eq!(self.connection.is_idle(), !self.connection.must_close());
            assert_eq!(
                says_close,
                self.connection.must_close(),
                "it does not do what it says"
            );
        }
    }

    /// After a fault nothing is read, and it can be answered exactly if nothing was.
    fn fault(&mut self, fault: Fault) {
        self.report.push(format!("fault {fault:?}"));
        self.over = true;
        assert!(fault.status().is_client_error() || fault.status().is_server_error());
        assert!(!fault.reason().is_empty());
        assert!(!self.connection.is_idle() && !self.connection.wants_continue());
        assert_eq!(self.connection.can_answer(), !self.answered);
        let more = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let more = self
            .connection
            .next_event(more, self.limits, &mut Head::new());
        assert_eq!(more, Ok((0, Event::Paused)));
        if self.connection.can_answer() {
            self.answer();
            assert!(self.connection.must_close());
        }
    }

    /// The client has sent all; the report.
    pub(super) fn finish(mut self) -> Vec<String> {
        if !self.over {
            if let Err(fault) = self.connection.receive_eof(&self.unread) {
                self.fault(fault);
            } else {
                let is_within = !self.unread.is_empty() && !is_blank(&self.unread);
                assert!(
                    !is_within || !self.connection.is_idle(),
                    "half a head is no fault"
                );
            }
        }
        if !self.report.iter().any(|line| is_fault(line)) {
            self.report.append(&mut self.answers);
        }
        self.report
    }
}
