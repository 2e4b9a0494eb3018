//! The cost of HTTP/1.1 without a socket: parsing a request head, and writing a response head.

use std::hint::black_box;

use coring::parts::Head;
use coring::parts::h1::{BodyLength, Codec, Event, Framing, MessageLimits, ResponseHead};
use coring::{HeaderName, HeaderValue, StatusCode};

use crate::measure::time;

const DATE: [u8; 29] = *b"Sun, 06 Nov 1994 08:49:37 GMT";
const BODY_BYTES: usize = 18;

/// The request of a load generator.
const SHORT: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n";

/// The request of a browser.
const LONG: &[u8] = b"GET /articles/2026/an-article-with-a-name?page=2&order=newest HTTP/1.1\r\n\
Host: www.example.org\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n\
Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Referer: https://www.example.org/articles/2026/\r\n\
Cookie: id=4f1f8a1b2c3d4e5f60718293a4b5c6d7; theme=dark; consent=necessary\r\n\
Connection: keep-alive\r\n\
Upgrade-Insecure-Requests: 1\r\n\
If-None-Match: \"5e-62a1b2c3d4e5f\"\r\n\
Priority: u=0, i\r\n\r\n";

pub(crate) fn measure() {
    let limits = MessageLimits::default();
    let name = HeaderName::from_static("content-type");
    let value = HeaderValue::from_static("text/html; charset=utf-8");
    let response = ResponseHead {
        status: StatusCode::OK,
        reason: None,
        shared: None,
        fields: [(&name, &value)],
        length: BodyLength::Known(BODY_BYTES as u64),
    };
    for (kind, bytes) in [("short", SHORT), ("long", LONG)] {
        time(&format!("http: parse a {kind} head"), || {
            read(&mut Codec::server(), bytes, &limits);
        });
        // All requests use one connection, as with keep-alive.
        let mut codec = Codec::server();
        let mut out = [0; 512];
        time(
            &format!("http: parse a {kind} head, write a response's"),
            || {
                read(&mut codec, bytes, &limits);
                let len = codec.encode_head(black_box(&response), &DATE, &mut out);
                black_box(&out[..len]);
                send_body(&mut codec);
            },
        );
    }
}

fn read(codec: &mut Codec, bytes: &[u8], limits: &MessageLimits) {
    let mut head = Head::new();
    let step = codec.next_event(black_box(bytes), limits, &mut head);
    assert_eq!(step, Ok((bytes.len(), Event::Request(Framing::None))));
    black_box(&head);
}

fn send_body(codec: &mut Codec) {
    let prefix = codec
        .encode_data_prefix(BODY_BYTES)
        .expect("the body has the declared length");
    assert!(
        prefix.is_none(),
        "a body of known length has no chunk prefix"
    );
    codec.encode_end().expect("the whole body has been sent");
}
