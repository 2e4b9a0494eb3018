//! A client and its one connection. It marks what it sends, keeps all that it gets, and judges it
//! when the connection has ended.

use coring::Limits;
use coring::sim::{Connection, Received};

use super::answer::Answer;
use super::asked::{Asked, read};
use super::site::{FILES, INCOMPLETE, Kind, file_content};

/// Bytes from here on are marks: each client sends only its own.
const MARKS: u8 = 0xf0;
/// The byte that memory is filled with when it is given back.
const SPOILT: u8 = 0xdd;

pub(super) struct Client {
    number: u8,
    connection: Connection,
    pub(super) read_max: usize,
    sent: Vec<u8>,
    received: Vec<u8>,
    /// How much was received before each read, and how much had been sent by then.
    reads: Vec<(usize, usize)>,
    /// How much had been sent when the workers knew of the drain.
    sent_before_drain: Option<usize>,
    pub(super) ended: bool,
    reset: bool,
    finished: bool,
}

/// What excuses a connection that breaks off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    pub(super) kind: Kind,
    /// The kernel makes errors, a deadline may have passed, or a drain has begun.
    pub(super) may_break: bool,
}

impl Client {
    pub(super) fn new(number: u8, connection: Connection, read_max: usize) -> Self {
        Self {
            number,
            connection,
            read_max,
            sent: Vec::new(),
            received: Vec::new(),
            reads: Vec::new(),
            sent_before_drain: None,
            ended: false,
            reset: false,
            finished: false,
        }
    }

    /// Sends, with marks of its own in place of those of others.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        if self.finished || self.reset {
            return;
        }
        let own = |byte: &u8| match *byte {
            MARKS.. => MARKS + self.number,
            SPOILT => SPOILT - 1,
            byte => byte,
        };
        let bytes: Vec<u8> = bytes.iter().map(own).collect();
        self.connection.send(&bytes);
        self.sent.extend(bytes);
    }

    pub(super) fn finish(&mut self) {
        if !self.finished && !self.reset {
            self.connection.finish();
            self.finished = true;
        }
    }

    pub(super) fn reset(&mut self) {
        if !self.reset {
            self.connection.reset();
            (self.reset, self.ended) = (true, true);
        }
    }

    pub(super) fn drain_begins(&mut self) {
        self.sent_before_drain.get_or_insert(self.sent.len());
    }

    /// Reads once; whether there was something.
    pub(super) fn read(&mut self) -> bool {
        if self.ended || !self.connection.is_readable() {
            return false;
        }
        match self.connection.read(self.read_max) {
            Received::Nothing => return false,
            Received::Bytes(bytes) => {
                self.reads.push((self.received.len(), self.sent.len()));
                self.received.extend(bytes);
            }
            Received::End => self.ended = true,
            Received::Reset => (self.ended, self.reset) = (true, true),
        }
        true
    }

    /// Judges all that was received.
    ///
    /// # Panics
    /// When something is not the answer to what was sent.
    pub(super) fn judge(&self, limits: &Limits, circumstances: Circumstances) {
        assert!(self.ended, "client {} is left open", self.number);
        assert!(
            !self.received.contains(&SPOILT),
            "memory that was given back is sent"
        );
        let is_foreign = |byte: &&u8| **byte >= MARKS && **byte != MARKS + self.number;
        let foreign = self.received.iter().find(is_foreign);
        assert!(foreign.is_none(), "client {} got {foreign:?}", self.number);
        let asked = read(&self.sent, limits);
        let may_break = circumstances.may_break || self.reset || self.connection.is_excused();
        let (mut at, mut number, mut closes) = (0, 0, false);
        let mut continued = None;
        while at < self.received.len() {
            assert!(
                !closes,
                "client {} got bytes after the last answer",
                self.number
            );
            let request = asked.get(number);
            let Some(answer) = Answer::read(&self.received[at..], request) else {
                assert!(may_break, "client {} got half a head", self.number);
                return;
            };
            if answer.is_interim() {
                assert_eq!(answer.status, 100);
                assert!(request.is_some_and(|request| request.expects_continue));
                assert_ne!(
                    continued.replace(number),
                    Some(number),
                    "two of 100 Continue"
                );
                at += answer.len;
                continue;
            }
            closes = answer.closes();
            assert!(answer.field("date").is_some_and(|date| date.len() == 29));
            let Some(request) = request else {
                assert!(answer.is_refusal() && closes, "an answer to nothing");
                at += answer.len;
                continue;
            };
            self.judge_farewell(request, &answer, at);
            match circumstances.kind {
                Kind::Mixed => judge_mixed(request, &answer, may_break),
                Kind::Echo if answer.status == 200 => {
                    assert!(request.body.starts_with(&answer.body));
                }
                Kind::Echo => {}
                Kind::Files => judge_file(request, &answer),
            }
            (at, number) = (at + answer.len, number + 1);
        }
    }

    /// A request that was sent in a drain has an answer that is the last one, unless the client
    /// had sent more behind it by then.
    fn judge_farewell(&self, request: &Asked, answer: &Answer, at: usize) {
        let Some(before) = self.sent_before_drain else {
            return;
        };
        let read = self
            .reads
            .iter()
            .rev()
            .find(|(received, _)| *received <= at);
        let (_, sent) = read.expect("a read that brought the answer");
        let is_alone = request.begin >= before && *sent <= request.end;
        assert!(
            !is_alone || answer.closes(),
            "client {} was not told in a drain that its answer is the last",
            self.number
        );
    }
}

fn judge_mixed(request: &Asked, answer: &Answer, may_break: bool) {
    if answer.status != 200 {
        assert!(
            answer.is_refusal() && answer.closes(),
            "{answer:?} to {request:?}"
        );
        assert!(answer.status != 500 || request.method == "TRACE");
        return;
    }
    if answer.body == INCOMPLETE {
        assert!(!request.complete || may_break, "{request:?} was complete");
        return;
    }
    let expected = match request.method.as_str() {
        "HEAD" => Vec::new(),
        "POST" => request.body.clone(),
        "PUT" | "PATCH" => [b"read ", &request.body[..]].concat(),
        "DELETE" => b"deleted".to_vec(),
        "TRACE" => panic!("200 to a panic"),
        "X" => request.of_head.clone(),
        _ => request.large.as_ref().unwrap_or(&request.of_head).clone(),
    };
    assert!(
        expected.starts_with(&answer.body),
        "{answer:?} to {request:?}"
    );
    if answer.whole {
        assert_eq!(
            expected.len(),
            answer.body.len(),
            "{answer:?} to {request:?}"
        );
        let needs_all = matches!(request.method.as_str(), "POST" | "PUT" | "PATCH");
        assert!(request.complete || !needs_all, "{answer:?} to {request:?}");
    }
}

fn judge_file(request: &Asked, answer: &Answer) {
    if !answer.whole || request.method == "HEAD" {
        return;
    }
    let is_content = |part: &[u8], len: usize, at: usize| {
        let is_file = FILES.iter().any(|(_, file)| *file == len);
        is_file && file_content(len).get(at..at + part.len()) == Some(part)
    };
    match answer.status {
        200 => {
            assert!(
                is_content(&answer.body, answer.body.len(), 0),
                "no file: {answer:?}"
            );
            assert!(answer.field("etag").is_some() && answer.field("last-modified").is_some());
        }
        206 => {
            let range = answer
                .field("content-range")
                .and_then(|range| range.strip_prefix("bytes "));
            let (part, len) = range
                .and_then(|range| range.split_once('/'))
                .expect("a range");
            let (first, last) = part.split_once('-').expect("a range");
            let [first, last, len] = [first, last, len].map(|text| text.parse().expect("a number"));
            assert_eq!(answer.body.len(), last - first + 1);
            assert!(
                is_content(&answer.body, len, first),
                "no part of a file: {answer:?}"
            );
        }
        _ => {}
    }
}
