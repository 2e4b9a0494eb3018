//! Tests of the whole protocol through [`Connection`]: every input also arrives in two pieces, cut
//! at every place, and byte by byte, and must mean the same each time.

mod answers;
mod bodies;
mod heads;
mod hostile;
mod persistence;
mod requests;
mod trailers;

use super::{Answer, BodyLength, Connection, Event, Framing, Limits};
use crate::http::{Fault, Head};
use ::http::{HeaderName, HeaderValue, StatusCode};

const DATE: [u8; 29] = *b"Sun, 06 Nov 1994 08:49:37 GMT";

/// No fields of the answer's own.
const NO_FIELDS: [(&HeaderName, &HeaderValue); 0] = [];

/// A peer that sends pieces, and a server that answers each request with an empty 200.
struct Script<'a> {
    connection: Connection,
    limits: &'a Limits,
    unread: Vec<u8>,
    log: Vec<String>,
    is_over: bool,
}

impl<'a> Script<'a> {
    fn new(limits: &'a Limits) -> Self {
        let connection = Connection::server();
        Self {
            connection,
            limits,
            unread: Vec::new(),
            log: Vec::new(),
            is_over: false,
        }
    }

    /// Receives `piece` and reads events until more is needed.
    fn receive(&mut self, piece: &[u8]) {
        self.unread.extend_from_slice(piece);
        while !self.is_over {
            let mut head = Head::new();
            let step = self
                .connection
                .next_event(&self.unread, self.limits, &mut head);
            match step {
                Ok((used, event)) => {
                    if self.note(used, event, &head) {
                        break;
                    }
                }
                Err(fault) => self.end(fault),
            }
        }
    }

    /// Logs an event and consumes its bytes; returns whether more are needed.
    fn note(&mut self, used: usize, event: Event, head: &Head) -> bool {
        assert!(used <= self.unread.len());
        let bytes: Vec<u8> = self.unread.drain(..used).collect();
        match event {
            Event::NeedData => return true,
            Event::Paused => {
                assert!(self.connection.must_close() && used == 0 && !self.unread.is_empty());
                self.is_over = true;
            }
            Event::Request(framing) => {
                let line = describe(&self.connection, head, framing, &bytes);
                self.log.push(line);
                if framing == Framing::None {
                    self.answer();
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
                self.answer();
            }
        }
        false
    }

    fn answer(&mut self) {
        assert!(self.connection.request_complete() && self.connection.can_answer());
        let mut out = [0; 256];
        let status = StatusCode::OK;
        let answer = Answer {
            status,
            reason: None,
            shared: None,
            fields: NO_FIELDS,
            length: BodyLength::Known(0),
        };
        self.connection.send_head(&answer, &DATE, &mut out);
        assert_eq!(self.connection.send_end(), Ok(b"".as_slice()));
        assert_eq!(self.connection.is_idle(), !self.connection.must_close());
    }

    fn end(&mut self, fault: Fault) {
        self.log.push(format!("{fault:?}"));
        self.is_over = true;
        // A fault is final, and it can be answered unless the answer has begun.
        assert!(self.connection.can_answer());
        assert!(!self.connection.is_idle() && !self.connection.wants_continue());
        let more = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let again = self
            .connection
            .next_event(more, self.limits, &mut Head::new());
        assert_eq!(again, Ok((0, Event::Paused)));
    }

    /// The peer ends its side.
    fn finish(mut self) -> Vec<String> {
        if !self.is_over
            && let Err(fault) = self.connection.receive_eof(&self.unread)
        {
            self.log.push(format!("{fault:?}"));
        }
        self.log
    }
}

/// The next event of a connection, where its head does not matter.
fn next(
    connection: &mut Connection,
    bytes: &[u8],
    limits: &Limits,
) -> Result<(usize, Event), Fault> {
    connection.next_event(bytes, limits, &mut Head::new())
}

/// A head in one line: what it is and whatever is not ordinary about it.
fn describe(connection: &Connection, head: &Head, framing: Framing, bytes: &[u8]) -> String {
    let mut line = format!("{} {}", head.method, head.target(bytes));
    match framing {
        Framing::None => {}
        Framing::Length(length) => line += &format!(" length {length}"),
        Framing::Chunked => line += " chunked",
    }
    if connection.is_last_request() {
        line += " close";
    }
    if connection.wants_continue() {
        line += " continue";
    }
    line
}

fn replay<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, limits: &Limits) -> Vec<String> {
    let mut script = Script::new(limits);
    for piece in pieces {
        script.receive(piece);
    }
    script.finish()
}

/// What `input` must mean, however it is cut.
fn check_with(limits: &Limits, input: impl AsRef<[u8]>, expected: &[&str]) {
    let input = input.as_ref();
    let text = String::from_utf8_lossy(&input[..input.len().min(400)]);
    assert_eq!(replay([input], limits), expected, "in one piece: {text:?}");
    // Miri has little time: long inputs in 20 pieces, and few cuts.
    let (pieces_max, cuts_max) = if cfg!(miri) {
        (20, 3)
    } else {
        (usize::MAX, 500)
    };
    assert_eq!(
        replay(
            input.chunks(input.len().div_ceil(pieces_max).max(1)),
            limits
        ),
        expected,
        "byte by byte: {text:?}"
    );
    // Beyond a few hundred bytes each cut costs more than it can teach.
    for at in (1..input.len()).step_by(input.len().div_ceil(cuts_max).max(1)) {
        let (first, second) = input.split_at(at);
        assert_eq!(
            replay([first, second], limits),
            expected,
            "cut at {at}: {text:?}"
        );
    }
}

fn check(input: impl AsRef<[u8]>, expected: &[&str]) {
    check_with(&Limits::default(), input, expected);
}
