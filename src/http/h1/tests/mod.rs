//! Tests of the whole protocol through [`Codec`]. Every input is also passed in two fragments,
//! split at every offset, and byte by byte; it must yield the same events each time.

mod bodies;
mod hostile;
mod persistence;
mod received;
mod requests;
mod response_fields;
mod response_heads;
mod responses;
mod trailers;

use super::{BodyLength, Codec, Event, Framing, MessageLimits, ResponseHead};
use crate::http::{Fault, Head};
use ::http::{HeaderName, HeaderValue, StatusCode};

const DATE: [u8; 29] = *b"Sun, 06 Nov 1994 08:49:37 GMT";

/// A response without fields of its own.
const NO_FIELDS: [(&HeaderName, &HeaderValue); 0] = [];

/// A server that receives fragments and responds to each request with an empty 200. It logs what it
/// has received.
struct Script<'a> {
    codec: Codec,
    limits: &'a MessageLimits,
    unread: Vec<u8>,
    log: Vec<String>,
    is_over: bool,
}

impl<'a> Script<'a> {
    fn new(limits: &'a MessageLimits) -> Self {
        let codec = Codec::server();
        Self {
            codec,
            limits,
            unread: Vec::new(),
            log: Vec::new(),
            is_over: false,
        }
    }

    /// Receives `fragment` and decodes events until more bytes are needed.
    fn receive(&mut self, fragment: &[u8]) {
        self.unread.extend_from_slice(fragment);
        while !self.is_over {
            let mut head = Head::new();
            let step = self.codec.next_event(&self.unread, self.limits, &mut head);
            match step {
                Ok((used, event)) => {
                    if self.log_event(used, event, &head) {
                        break;
                    }
                }
                Err(fault) => self.log_fault(fault),
            }
        }
    }

    /// Logs an event and consumes its bytes. Returns whether more bytes are needed.
    fn log_event(&mut self, used: usize, event: Event, head: &Head) -> bool {
        assert!(used <= self.unread.len());
        let bytes: Vec<u8> = self.unread.drain(..used).collect();
        match event {
            Event::NeedData => return true,
            Event::Paused => {
                assert!(self.codec.must_close() && used == 0 && !self.unread.is_empty());
                self.is_over = true;
            }
            Event::Request(framing) => {
                let line = describe(&self.codec, head, framing, &bytes);
                self.log.push(line);
                if framing == Framing::None {
                    self.respond();
                }
            }
            Event::Data(range) => {
                assert!(!range.is_empty());
                let data = String::from_utf8_lossy(&bytes[range]);
                match self.log.last_mut() {
                    Some(line) if line.starts_with("data ") => line.push_str(&data),
                    _ => self.log.push(format!("data {data}")),
                }
            }
            Event::Trailer(line) => assert!(bytes[line].contains(&b':')),
            Event::End => {
                self.log.push(String::from("end"));
                self.respond();
            }
        }
        false
    }

    fn respond(&mut self) {
        assert!(self.codec.request_complete() && self.codec.can_respond());
        let mut out = [0; 256];
        let status = StatusCode::OK;
        let response = ResponseHead {
            status,
            reason: None,
            shared: None,
            fields: NO_FIELDS,
            length: BodyLength::Known(0),
        };
        self.codec.encode_head(&response, &DATE, &mut out);
        assert_eq!(self.codec.encode_end(), Ok(b"".as_slice()));
        assert_eq!(self.codec.is_idle(), !self.codec.must_close());
    }

    fn log_fault(&mut self, fault: Fault) {
        self.log.push(format!("{fault:?}"));
        self.is_over = true;
        // No event follows a fault. A response can still be sent, because none has begun.
        assert!(self.codec.can_respond());
        assert!(!self.codec.is_idle() && !self.codec.wants_continue());
        let more = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let again = self.codec.next_event(more, self.limits, &mut Head::new());
        assert_eq!(again, Ok((0, Event::Paused)));
    }

    /// The peer half-closes the connection. Returns the log.
    fn finish(mut self) -> Vec<String> {
        if !self.is_over
            && let Err(fault) = self.codec.receive_eof(&self.unread)
        {
            self.log.push(format!("{fault:?}"));
        }
        self.log
    }
}

/// The next event of a connection, for tests that do not need the head.
fn next(codec: &mut Codec, bytes: &[u8], limits: &MessageLimits) -> Result<(usize, Event), Fault> {
    codec.next_event(bytes, limits, &mut Head::new())
}

/// Describes a head in one line: method, target, and properties that are not the default.
fn describe(codec: &Codec, head: &Head, framing: Framing, bytes: &[u8]) -> String {
    let mut line = format!("{} {}", head.method, head.target(bytes));
    match framing {
        Framing::None => {}
        Framing::Length(length) => line += &format!(" length {length}"),
        Framing::Chunked => line += " chunked",
    }
    if codec.is_last_request() {
        line += " close";
    }
    if codec.wants_continue() {
        line += " continue";
    }
    line
}

/// Receives these fragments and half-closes. Returns the log.
fn replay<'p>(
    fragments: impl IntoIterator<Item = &'p [u8]>,
    limits: &MessageLimits,
) -> Vec<String> {
    let mut script = Script::new(limits);
    for fragment in fragments {
        script.receive(fragment);
    }
    script.finish()
}

/// Checks that `input` yields the log `expected`, however it is split.
fn check_with(limits: &MessageLimits, input: impl AsRef<[u8]>, expected: &[&str]) {
    let input = input.as_ref();
    let text = String::from_utf8_lossy(&input[..input.len().min(400)]);
    assert_eq!(
        replay([input], limits),
        expected,
        "in one fragment: {text:?}"
    );
    // Miri is slow: long inputs arrive in 20 fragments, and few splits are tried.
    let (fragments_max, splits_max) = if cfg!(miri) {
        (20, 3)
    } else {
        (usize::MAX, 500)
    };
    assert_eq!(
        replay(
            input.chunks(input.len().div_ceil(fragments_max).max(1)),
            limits
        ),
        expected,
        "byte by byte: {text:?}"
    );
    // A longer input is not split at every offset: that would take too long.
    for at in (1..input.len()).step_by(input.len().div_ceil(splits_max).max(1)) {
        let (first, second) = input.split_at(at);
        assert_eq!(
            replay([first, second], limits),
            expected,
            "split at {at}: {text:?}"
        );
    }
}

/// Like [`check_with`], with the default limits.
fn check(input: impl AsRef<[u8]>, expected: &[&str]) {
    check_with(&MessageLimits::default(), input, expected);
}
