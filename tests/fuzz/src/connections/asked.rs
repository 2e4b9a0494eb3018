//! The requests in all that a client has sent, as the parser reads them at once. What it reads is
//! checked by another target.

use coring::Limits;
use coring::parts::h1::{self, Answer, BodyLength, Connection, Event, Framing};
use coring::parts::{Head, Version};
use http::{HeaderName, HeaderValue, StatusCode};

use super::site;

const NO_FIELDS: [(&HeaderName, &HeaderValue); 0] = [];

/// A request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) is_http10: bool,
    pub(super) expects_continue: bool,
    /// Its body has come whole.
    pub(super) complete: bool,
    pub(super) body: Vec<u8>,
    /// The answer that tells what its head was.
    pub(super) of_head: Vec<u8>,
    pub(super) large: Option<Vec<u8>>,
    /// Where it begins and ends in all that was sent.
    pub(super) begin: usize,
    pub(super) end: usize,
}

/// The requests up to the first fault.
pub(super) fn read(sent: &[u8], limits: &Limits) -> Vec<Asked> {
    let limits = h1::Limits {
        head_bytes_max: limits.head_bytes_max,
        target_bytes_max: limits.target_bytes_max,
        fields_max: limits.fields_max,
        body_bytes_max: limits.body_bytes_max.unwrap_or(u64::MAX),
    };
    let mut connection = Connection::server();
    let mut asked: Vec<Asked> = Vec::new();
    let mut at = 0;
    loop {
        let mut head = Head::new();
        let event = connection.next_event(&sent[at..], &limits, &mut head);
        let Ok((used, event)) = event else {
            return asked;
        };
        let bytes = &sent[at..at + used];
        at += used;
        match event {
            Event::NeedData | Event::Paused => return asked,
            Event::Request(framing) => {
                asked.push(request(&connection, &head, bytes, at));
                if framing == Framing::None {
                    answer(&mut connection);
                    asked.last_mut().expect("a request").complete = true;
                }
            }
            Event::Data(range) => {
                let last = asked.last_mut().expect("a request");
                last.body.extend(&bytes[range]);
                last.end = at;
            }
            Event::Trailer(_) => {}
            Event::End => {
                let last = asked.last_mut().expect("a request");
                (last.complete, last.end) = (true, at);
                answer(&mut connection);
            }
        }
    }
}

fn request(connection: &Connection, head: &Head, bytes: &[u8], end: usize) -> Asked {
    let (method, path) = (head.method.as_str(), head.path(bytes));
    let (query, host) = (head.query(bytes), head.host(bytes));
    Asked {
        method: method.to_owned(),
        is_http10: head.version == Version::Http10,
        expects_continue: connection.wants_continue(),
        complete: false,
        body: Vec::new(),
        of_head: site::of_head(method, path, query, host, head.fields(bytes)),
        large: site::large(path),
        begin: end - bytes.len(),
        end,
    }
}

/// Answers, so that the next request is read.
fn answer(connection: &mut Connection) {
    let answer = Answer {
        status: StatusCode::OK,
        reason: None,
        shared: None,
        fields: NO_FIELDS,
        length: BodyLength::Known(0),
    };
    connection.send_continue();
    connection.send_head(&answer, b"Sun, 06 Nov 1994 08:49:37 GMT", &mut [0; 256]);
    connection.send_end().expect("the right length");
}
