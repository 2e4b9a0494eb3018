//! The requests of a client, parsed from everything that the client has sent. This uses the parser
//! under test: the target `h1` checks it.

use coring::Limits;
use coring::parts::h1::{self, BodyLength, Codec, Event, Framing, ResponseHead};
use coring::parts::{Head, Version};
use http::{HeaderName, HeaderValue, StatusCode};

use super::site;

const NO_FIELDS: [(&HeaderName, &HeaderValue); 0] = [];

/// A request, of which the body may be incomplete.
#[derive(Debug)]
pub(super) struct ParsedRequest {
    pub(super) method: String,
    pub(super) is_http10: bool,
    pub(super) expects_continue: bool,
    /// The client has sent the whole body.
    pub(super) complete: bool,
    pub(super) body: Vec<u8>,
    /// The response body that `site::describe_head` makes from this head.
    pub(super) head_text: Vec<u8>,
    /// The response body of `site::large`, if the path asks for one.
    pub(super) large: Option<Vec<u8>>,
    /// The offsets of its begin and end in the sent bytes.
    pub(super) begin: usize,
    pub(super) end: usize,
}

/// The requests in `sent`, up to the first fault.
pub(super) fn read(sent: &[u8], limits: &Limits) -> Vec<ParsedRequest> {
    let limits = h1::MessageLimits {
        head_bytes_max: limits.head_bytes_max,
        target_bytes_max: limits.target_bytes_max,
        fields_max: limits.fields_max,
        body_bytes_max: limits.body_bytes_max.unwrap_or(u64::MAX),
    };
    let mut codec = Codec::server();
    let mut requests: Vec<ParsedRequest> = Vec::new();
    let mut at = 0;
    loop {
        let mut head = Head::new();
        let event = codec.next_event(&sent[at..], &limits, &mut head);
        let Ok((used, event)) = event else {
            return requests;
        };
        let bytes = &sent[at..at + used];
        at += used;
        match event {
            Event::NeedData | Event::Paused => return requests,
            Event::Request(framing) => {
                requests.push(request(&codec, &head, bytes, at));
                if framing == Framing::None {
                    respond(&mut codec);
                    requests.last_mut().expect("a request").complete = true;
                }
            }
            Event::Data(range) => {
                let last = requests.last_mut().expect("a request");
                last.body.extend(&bytes[range]);
                last.end = at;
            }
            Event::Trailer(_) => {}
            Event::End => {
                let last = requests.last_mut().expect("a request");
                (last.complete, last.end) = (true, at);
                respond(&mut codec);
            }
        }
    }
}

fn request(codec: &Codec, head: &Head, bytes: &[u8], end: usize) -> ParsedRequest {
    let (method, path) = (head.method.as_str(), head.path(bytes));
    let (query, host) = (head.query(bytes), head.host(bytes));
    ParsedRequest {
        method: method.to_owned(),
        is_http10: head.version == Version::Http10,
        expects_continue: codec.wants_continue(),
        complete: false,
        body: Vec::new(),
        head_text: site::describe_head(method, path, query, host, head.fields(bytes)),
        large: site::large(path),
        begin: end - bytes.len(),
        end,
    }
}

/// Sends an empty response to nowhere, so that the connection reads the next request.
fn respond(codec: &mut Codec) {
    let response = ResponseHead {
        status: StatusCode::OK,
        reason: None,
        shared: None,
        fields: NO_FIELDS,
        length: BodyLength::Known(0),
    };
    codec.encode_continue();
    codec.encode_head(&response, b"Sun, 06 Nov 1994 08:49:37 GMT", &mut [0; 256]);
    codec.encode_end().expect("the right length");
}
