//! A client and its one connection. It sends marked bytes, stores everything that it receives, and
//! checks it when the connection has ended.

use coring::Limits;
use coring::sim::{ClientEnd, Received};

use super::requests::{ParsedRequest, read};
use super::response::ParsedResponse;
use super::site::{FILES, INCOMPLETE, Kind, file_content};

/// Bytes from here on are marks: client N sends only the mark `MARKS + N`.
const MARKS: u8 = 0xf0;
/// With the feature `mutants`, freed blocks are filled with this byte.
const FREED: u8 = 0xdd;

pub(super) struct Client {
    number: u8,
    connection: ClientEnd,
    pub(super) read_max: usize,
    sent: Vec<u8>,
    received: Vec<u8>,
    /// For each read, the number of bytes received before it, and of bytes sent before it.
    reads: Vec<(usize, usize)>,
    /// The number of bytes sent before every worker knew of the drain.
    sent_before_drain: Option<usize>,
    pub(super) ended: bool,
    reset: bool,
    finished: bool,
}

/// Facts about the run that the checks need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    pub(super) kind: Kind,
    /// A connection may end early: the kernel injects faults, a deadline may have passed, or a
    /// drain has begun.
    pub(super) may_break: bool,
}

impl Client {
    pub(super) fn new(number: u8, connection: ClientEnd, read_max: usize) -> Self {
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

    /// Sends `bytes`, with every mark replaced by the client's own and no `FREED` byte.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        if self.finished || self.reset {
            return;
        }
        let own = |byte: &u8| match *byte {
            MARKS.. => MARKS + self.number,
            FREED => FREED - 1,
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

    /// Reads once. Returns whether there was something to read.
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

    /// Checks everything that was received.
    ///
    /// # Panics
    /// If a response is not the one that its request must get.
    pub(super) fn check(&self, limits: &Limits, circumstances: Circumstances) {
        assert!(self.ended, "client {} is left open", self.number);
        assert!(
            !self.received.contains(&FREED),
            "client {} got freed memory",
            self.number
        );
        let is_foreign = |byte: &&u8| **byte >= MARKS && **byte != MARKS + self.number;
        let foreign = self.received.iter().find(is_foreign);
        assert!(
            foreign.is_none(),
            "client {} got the mark {foreign:?} of another",
            self.number
        );
        let requests = read(&self.sent, limits);
        let may_break =
            circumstances.may_break || self.reset || self.connection.had_injected_error();
        let (mut at, mut number, mut closes) = (0, 0, false);
        let mut continued = None;
        while at < self.received.len() {
            assert!(
                !closes,
                "client {} got bytes after the last response",
                self.number
            );
            let request = requests.get(number);
            let Some(response) = ParsedResponse::read(&self.received[at..], request) else {
                assert!(may_break, "client {} got a cut head", self.number);
                return;
            };
            if response.is_interim() {
                assert_eq!(response.status, 100);
                assert!(request.is_some_and(|request| request.expects_continue));
                assert_ne!(
                    continued.replace(number),
                    Some(number),
                    "two 100 Continue for one request"
                );
                at += response.len;
                continue;
            }
            closes = response.closes();
            assert!(response.field("date").is_some_and(|date| date.len() == 29));
            let Some(request) = request else {
                assert!(
                    response.is_refusal() && closes,
                    "a response without a request"
                );
                at += response.len;
                continue;
            };
            self.check_farewell(request, &response, at);
            match circumstances.kind {
                Kind::Mixed => check_mixed(request, &response, may_break),
                Kind::Echo if response.status == 200 => {
                    assert!(request.body.starts_with(&response.body));
                }
                Kind::Echo => {}
                Kind::Files => check_file(request, &response),
            }
            (at, number) = (at + response.len, number + 1);
        }
    }

    /// The response to a request that was sent during a drain has `Connection: close`, unless the
    /// client had sent more behind that request before it read the response.
    fn check_farewell(&self, request: &ParsedRequest, response: &ParsedResponse, at: usize) {
        let Some(before) = self.sent_before_drain else {
            return;
        };
        let read = self
            .reads
            .iter()
            .rev()
            .find(|(received, _)| *received <= at);
        let (_, sent) = read.expect("a read that brought the response");
        let is_alone = request.begin >= before && *sent <= request.end;
        assert!(
            !is_alone || response.closes(),
            "client {} got a response without Connection: close during a drain",
            self.number
        );
    }
}

fn check_mixed(request: &ParsedRequest, response: &ParsedResponse, may_break: bool) {
    if response.status != 200 {
        assert!(
            response.is_refusal() && response.closes(),
            "{response:?} to {request:?}"
        );
        assert!(response.status != 500 || request.method == "TRACE");
        return;
    }
    if response.body == INCOMPLETE {
        assert!(!request.complete || may_break, "{request:?} was complete");
        return;
    }
    let expected = match request.method.as_str() {
        "HEAD" => Vec::new(),
        "POST" => request.body.clone(),
        "PUT" | "PATCH" => [b"read ", &request.body[..]].concat(),
        "DELETE" => b"deleted".to_vec(),
        "TRACE" => panic!("200 to a panic"),
        "X" => request.head_text.clone(),
        _ => request.large.as_ref().unwrap_or(&request.head_text).clone(),
    };
    assert!(
        expected.starts_with(&response.body),
        "{response:?} to {request:?}"
    );
    if response.complete {
        assert_eq!(
            expected.len(),
            response.body.len(),
            "{response:?} to {request:?}"
        );
        let needs_all = matches!(request.method.as_str(), "POST" | "PUT" | "PATCH");
        assert!(
            request.complete || !needs_all,
            "{response:?} to {request:?}"
        );
    }
}

fn check_file(request: &ParsedRequest, response: &ParsedResponse) {
    if !response.complete || request.method == "HEAD" {
        return;
    }
    let is_content = |part: &[u8], len: usize, at: usize| {
        let is_file = FILES.iter().any(|(_, file)| *file == len);
        is_file && file_content(len).get(at..at + part.len()) == Some(part)
    };
    match response.status {
        200 => {
            assert!(
                is_content(&response.body, response.body.len(), 0),
                "not the content of a file: {response:?}"
            );
            assert!(response.field("etag").is_some() && response.field("last-modified").is_some());
        }
        206 => {
            let range = response
                .field("content-range")
                .and_then(|range| range.strip_prefix("bytes "));
            let (part, len) = range
                .and_then(|range| range.split_once('/'))
                .expect("a range");
            let (first, last) = part.split_once('-').expect("a range");
            let [first, last, len] = [first, last, len].map(|text| text.parse().expect("a number"));
            assert_eq!(response.body.len(), last - first + 1);
            assert!(
                is_content(&response.body, len, first),
                "not the range of a file: {response:?}"
            );
        }
        _ => {}
    }
}
