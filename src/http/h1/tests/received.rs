//! Received responses. Every input is also passed in two fragments, split at every offset, and byte
//! by byte; it must yield the same events each time.

use ::http::{HeaderMap, Method};

use super::{BodyLength, MessageLimits};
use crate::http::Fault;
use crate::http::h1::{RequestHead, Requester, ResponseEvent};

/// A client that has sent a request, and receives fragments. It logs what it has received.
struct Script<'a> {
    requester: Requester,
    limits: &'a MessageLimits,
    unread: Vec<u8>,
    log: Vec<String>,
    is_over: bool,
}

fn request(method: &Method, length: BodyLength) -> Requester {
    let mut requester = Requester::new();
    let head = RequestHead {
        method,
        target: "/",
        authority: "a",
        fields: &HeaderMap::new(),
        length,
    };
    requester.encode_request(&head).expect("a valid head");
    requester
}

impl<'a> Script<'a> {
    fn new(method: &Method, limits: &'a MessageLimits) -> Self {
        Self {
            requester: request(method, BodyLength::Known(0)),
            limits,
            unread: Vec::new(),
            log: Vec::new(),
            is_over: false,
        }
    }

    fn receive(&mut self, fragment: &[u8]) {
        self.unread.extend_from_slice(fragment);
        while !self.is_over {
            match self.requester.next_event(&self.unread, self.limits) {
                Ok((used, event)) => {
                    assert!(used <= self.unread.len());
                    let bytes: Vec<u8> = self.unread.drain(..used).collect();
                    match event {
                        ResponseEvent::NeedData => return,
                        ResponseEvent::Excess => {
                            self.log.push("excess".to_owned());
                            self.is_over = true;
                        }
                        ResponseEvent::Interim(head) => {
                            self.log.push(format!("interim {}", head.status.as_u16()));
                        }
                        ResponseEvent::Response(head) => {
                            let length = self.requester.response_length();
                            let fields = head.fields(&bytes).count();
                            let status = head.status.as_u16();
                            self.log.push(format!("{status} {fields} {length:?}"));
                        }
                        ResponseEvent::Data(range) => {
                            let data = String::from_utf8_lossy(&bytes[range]);
                            match self.log.last_mut() {
                                Some(line) if line.starts_with("data ") => line.push_str(&data),
                                _ => self.log.push(format!("data {data}")),
                            }
                        }
                        ResponseEvent::Trailer(line) => {
                            let line = String::from_utf8_lossy(&bytes[line]);
                            self.log.push(format!("trailer {line}"));
                        }
                        ResponseEvent::End => self.log.push("end".to_owned()),
                    }
                }
                Err(fault) => {
                    self.log.push(format!("{fault:?}"));
                    self.is_over = true;
                    assert!(!self.requester.is_idle());
                }
            }
        }
    }

    /// The peer half-closes the connection. Returns the log.
    fn finish(mut self) -> Vec<String> {
        if !self.is_over {
            let is_idle = self.requester.is_idle();
            match self.requester.receive_eof() {
                Ok(true) => self.log.push("end by close".to_owned()),
                Ok(false) => {}
                Err(fault) => self.log.push(format!("{fault:?}")),
            }
            let end = if is_idle { "persists" } else { "closes" };
            self.log.push(end.to_owned());
        }
        self.log
    }
}

/// The log of `input`, however it is split.
fn log_with(method: &Method, limits: &MessageLimits, input: &str) -> Vec<String> {
    let input = input.as_bytes();
    let replay = |fragments: &mut dyn Iterator<Item = &[u8]>| {
        let mut script = Script::new(method, limits);
        fragments.for_each(|fragment| script.receive(fragment));
        script.finish()
    };
    let whole = replay(&mut [input].into_iter());
    let step = if cfg!(miri) { 7 } else { 1 };
    for at in (0..=input.len()).step_by(step) {
        let (left, right) = input.split_at(at);
        let split = replay(&mut [left, right].into_iter());
        assert_eq!(split, whole, "split at {at}");
    }
    assert_eq!(replay(&mut input.chunks(1)), whole, "byte by byte");
    whole
}

#[track_caller]
fn check(input: &str, expected: &[&str]) {
    assert_eq!(
        log_with(&Method::GET, &MessageLimits::default(), input),
        expected,
        "{input:?}"
    );
}

#[test]
fn the_framing_follows_from_status_method_and_fields() {
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n";
    check(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
        &["200 1 Some(2)", "data ab", "end", "persists"],
    );
    check(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        &["200 1 Some(0)", "persists"],
    );
    check(
        "HTTP/1.1 200 OK\r\n\r\nab",
        &["200 0 None", "data ab", "end by close", "closes"],
    );
    check(
        &format!("HTTP/1.1 200 OK\r\n{CHUNKED}1\r\na\r\n1;x\r\nb\r\n0\r\nX: y\r\n\r\n"),
        &["200 1 None", "data ab", "trailer X: y", "end", "persists"],
    );
    for status in ["204 No Content", "304 Not Modified"] {
        for fields in ["\r\n", "Content-Length: 5\r\n\r\n", CHUNKED] {
            let log = log_with(
                &Method::GET,
                &MessageLimits::default(),
                &format!("HTTP/1.1 {status}\r\n{fields}"),
            );
            assert!(
                log[0].ends_with(" Some(0)") && log[1] == "persists",
                "{log:?}"
            );
        }
    }
    for fields in ["\r\n", "Content-Length: 5\r\n\r\n", CHUNKED] {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}");
        let log = log_with(&Method::HEAD, &MessageLimits::default(), &head);
        assert!(
            log[0].ends_with(" Some(0)") && log[1] == "persists",
            "{log:?}"
        );
    }
    check(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n\
           HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        &[
            "interim 100",
            "interim 103",
            "200 1 Some(1)",
            "data x",
            "end",
            "persists",
        ],
    );
}

#[test]
fn the_connection_persists_only_if_both_parties_say_so() {
    const LENGTH: &str = "Content-Length: 0\r\n\r\n";
    check(
        &format!("HTTP/1.0 200 OK\r\n{LENGTH}"),
        &["200 1 Some(0)", "closes"],
    );
    check(
        &format!("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n{LENGTH}"),
        &["200 2 Some(0)", "persists"],
    );
    check(
        &format!("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n{LENGTH}"),
        &["200 2 Some(0)", "closes"],
    );
    check(
        &format!("HTTP/1.1 200 OK\r\n{LENGTH}HTTP/1.1 200 OK\r\n{LENGTH}"),
        &["200 1 Some(0)", "excess"],
    );
}

#[test]
fn doubtful_heads_are_refused() {
    for (head, fault) in [
        ("HTTP/1.1 200 OK\n\n", Fault::BareLineFeed),
        ("HTTP/1.1 200 OK\r\nA: b\n\r\n", Fault::BareLineFeed),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", Fault::BadStatusLine),
        ("HTTP/2 200\r\n\r\n", Fault::UnsupportedVersion),
        ("HTTP/1.2 200 OK\r\n\r\n", Fault::UnsupportedVersion),
        ("HTTP/1.x 200 OK\r\n\r\n", Fault::BadStatusLine),
        ("HTTP/1.1200 OK\r\n\r\n", Fault::BadStatusLine),
        ("HTTP/1.1 2000 OK\r\n\r\n", Fault::BadStatusLine),
        ("HTTP/1.1 099 OK\r\n\r\n", Fault::BadStatusLine),
        (
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            Fault::UnexpectedSwitch,
        ),
        ("http/1.1 200 OK\r\n\r\n", Fault::BadStatusLine),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Fault::BadField),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", Fault::BadField),
        ("HTTP/1.1 200 OK\r\nA\r\n\r\n", Fault::BadField),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
            Fault::BadContentLength,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            Fault::BadContentLength,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
            Fault::BadContentLength,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            Fault::UnsupportedTransferCoding,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Fault::UnsupportedTransferCoding,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
            Fault::ConflictingFraming,
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Fault::ConflictingFraming,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Le", Fault::Truncated),
        ("", Fault::Truncated),
    ] {
        let log = log_with(&Method::GET, &MessageLimits::default(), head);
        assert_eq!(log[0], format!("{fault:?}"), "{head:?}");
    }
}

#[test]
fn incomplete_bodies_are_not_taken_for_complete() {
    check(
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        &["200 1 Some(3)", "data ab", "Truncated", "closes"],
    );
    for end in [
        "1\r\na",
        "1\r\na\r\n",
        "1\r\na\r\n0\r\n",
        "1\r\na\r\n0\r\nX: y\r\n",
    ] {
        let input = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{end}");
        let log = log_with(&Method::GET, &MessageLimits::default(), &input);
        assert!(log.contains(&"Truncated".to_owned()), "{log:?}");
    }
}

#[test]
fn responses_have_limits() {
    let limits = MessageLimits {
        head_bytes_max: 60,
        fields_max: 2,
        body_bytes_max: 3,
        ..MessageLimits::default()
    };
    for (input, fault) in [
        (
            "HTTP/1.1 200 OK\r\nA: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n\r\n",
            Fault::HeadTooLarge,
        ),
        (
            "HTTP/1.1 200 OK\r\nA:\r\nB:\r\nC:\r\n\r\n",
            Fault::TooManyFields,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
            Fault::BodyTooLarge,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nfour", Fault::BodyTooLarge),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n",
            Fault::BodyTooLarge,
        ),
    ] {
        let mut script = Script::new(&Method::GET, &limits);
        script.receive(input.as_bytes());
        let log = script.finish();
        assert_eq!(log.last(), Some(&format!("{fault:?}")), "{input:?}");
    }
}

#[test]
fn a_request_may_end_before_or_after_its_response() {
    let limits = MessageLimits::default();
    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let mut early = request(&Method::PUT, BodyLength::Unknown);
    let (used, _) = early.next_event(response, &limits).expect("a response");
    assert!(used == response.len() && early.response_complete() && !early.is_idle());
    let prefix = early
        .encode_data_prefix(26)
        .expect("room")
        .expect("a chunk");
    assert_eq!(prefix.as_bytes(), b"1a\r\n");
    assert_eq!(early.encode_end(None).as_deref(), Ok(&b"0\r\n\r\n"[..]));
    assert!(early.is_idle(), "both messages are complete");
    let mut short = request(&Method::PUT, BodyLength::Known(2));
    assert!(short.encode_data_prefix(1).expect("room").is_none());
    assert!(short.encode_end(None).is_err());
    let mut long = request(&Method::PUT, BodyLength::Known(2));
    assert!(long.encode_data_prefix(3).is_err());
    for mut failed in [short, long] {
        failed.next_event(response, &limits).expect("a response");
        assert!(failed.response_complete() && !failed.is_idle());
    }
}
