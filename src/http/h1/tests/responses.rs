//! Responses: heads, the framing of bodies, and whether the connection persists.

use ::http::{HeaderName, HeaderValue, StatusCode};

use super::{DATE, NO_FIELDS, next};
use crate::http::Fault;
use crate::http::h1::DATA_SUFFIX;
use crate::http::h1::encode::{DataPrefix, WrongLength};
use crate::http::h1::{BodyLength, Codec, Event, MessageLimits, ResponseHead};

pub(super) const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub(super) const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
const GET_AND_CLOSE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
pub(super) const OLD: &str = "GET / HTTP/1.0\r\n\r\n";
const OLD_KEEP_ALIVE: &str = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
const EXPECT: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";

/// A connection that has read `request`.
pub(super) fn after(request: &str) -> Codec {
    let mut codec = Codec::server();
    let event = next(&mut codec, request.as_bytes(), &MessageLimits::default());
    assert!(matches!(event, Ok((_, Event::Request(_)))), "{event:?}");
    codec
}

/// Converts fields to the types that a service uses.
pub(super) fn typed(fields: &[(&str, &str)]) -> Vec<(HeaderName, HeaderValue)> {
    let typed = |&(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        (name, HeaderValue::from_str(value).expect("a value"))
    };
    fields.iter().map(typed).collect()
}

/// Encodes a head and returns it without Server and Date, which it must have.
pub(super) fn send(
    codec: &mut Codec,
    status: u16,
    fields: &[(&str, &str)],
    length: BodyLength,
) -> String {
    let fields = typed(fields);
    let fields = fields.iter().map(|(name, value)| (name, value));
    let status = StatusCode::from_u16(status).expect("a status");
    let response = ResponseHead {
        status,
        reason: None,
        shared: None,
        fields,
        length,
    };
    let mut out = vec![0; response.head_bytes_max()];
    let len = codec.encode_head(&response, &DATE, &mut out);
    let text = str::from_utf8(&out[..len]).expect("text").to_owned();
    let common = "Server: coring\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    assert!(text.contains(common), "{text}");
    text.replace(common, "")
}

/// Checks the head of the response to `request`, and whether the connection persists after it.
fn check(request: &str, status: u16, length: BodyLength, expected: &str, persists: bool) {
    let mut codec = after(request);
    let head = send(&mut codec, status, &[], length);
    assert_eq!(head, expected, "{request}");
    if let BodyLength::Known(length) = length
        && codec.body_allowed()
    {
        codec
            .encode_data_prefix(usize::try_from(length).expect("64 bits"))
            .expect("the announced length");
    }
    codec.encode_end().expect("an end");
    let after = (codec.is_idle(), codec.must_close());
    assert_eq!(after, (persists, !persists), "{request}");
}

#[test]
fn frames_by_version_and_method() {
    use BodyLength::{Known, Omitted, Unknown};
    let check_ok = |request, length, rest: &[&str], persists| {
        let expected = format!("HTTP/1.1 200 OK\r\n{}\r\n", rest.concat());
        check(request, 200, length, &expected, persists);
    };
    let (chunked, counted) = ("Transfer-Encoding: chunked\r\n", "Content-Length: 10\r\n");
    let (close, keep) = ("Connection: close\r\n", "Connection: keep-alive\r\n");
    check_ok(GET, Known(10), &[counted], true);
    check_ok(GET, Unknown, &[chunked], true);
    check_ok(GET_AND_CLOSE, Known(10), &[counted, close], false);
    check_ok(GET_AND_CLOSE, Unknown, &[chunked, close], false);
    check_ok(OLD, Known(10), &[counted, close], false);
    check_ok(OLD, Unknown, &[close], false);
    check_ok(OLD_KEEP_ALIVE, Known(10), &[counted, keep], true);
    check_ok(OLD_KEEP_ALIVE, Unknown, &[close], false);
    check_ok(HEAD, Known(10), &[counted], true);
    check_ok(HEAD, Unknown, &[chunked], true);
    check_ok(GET, Known(0), &["Content-Length: 0\r\n"], true);
    check_ok(HEAD, Known(0), &["Content-Length: 0\r\n"], true);
    check_ok(GET, Omitted, &["Content-Length: 0\r\n"], true);
    check_ok(HEAD, Omitted, &[], true);
    check_ok(
        GET,
        Known(u64::MAX),
        &["Content-Length: 18446744073709551615\r\n"],
        true,
    );
}

#[test]
fn frames_by_status() {
    use BodyLength::{Known, Unknown};
    for request in [GET, HEAD] {
        for length in [Known(0), Known(5), Unknown] {
            check(
                request,
                204,
                length,
                "HTTP/1.1 204 No Content\r\n\r\n",
                true,
            );
            check(
                request,
                304,
                length,
                "HTTP/1.1 304 Not Modified\r\n\r\n",
                true,
            );
        }
    }
    for (status, line) in [(404, "404 Not Found"), (599, "599 ")] {
        let expected = format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n");
        check(GET, status, Known(0), &expected, true);
    }
    let expected = "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n";
    for length in [Known(0), Known(5), Unknown] {
        check(GET, 205, length, expected, true);
    }
}

#[test]
fn every_head_fits_head_bytes_max() {
    for status in (200..=599).step_by(if cfg!(miri) { 57 } else { 1 }) {
        let mut codec = after(OLD_KEEP_ALIVE);
        send(
            &mut codec,
            status,
            &[("X-A", "b"), ("C", "")],
            BodyLength::Known(u64::MAX),
        );
    }
}

#[test]
fn framing_and_connection_fields_are_left_out() {
    let fields = [
        ("Content-Type", "text/html"),
        ("Content-Length", "7"),
        ("transfer-encoding", "gzip"),
        ("Connection", "x"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "x"),
        ("Upgrade", "h2c"),
        ("X-Empty", ""),
    ];
    let mut codec = after(GET);
    let head = send(&mut codec, 200, &fields, BodyLength::Known(3));
    let expected = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nx-empty: \r\n\
        Content-Length: 3\r\n\r\n";
    assert_eq!(head, expected);
}

#[test]
fn a_response_may_set_close_date_and_server() {
    let mut codec = after(GET);
    let head = send(
        &mut codec,
        200,
        &[("connection", "Close")],
        BodyLength::Known(0),
    );
    assert_eq!(
        head,
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    codec.encode_end().expect("an end");
    assert!(codec.must_close());

    let fields = typed(&[("date", "never"), ("Server", "x")]);
    let response = ResponseHead {
        status: StatusCode::OK,
        reason: None,
        shared: None,
        fields: fields.iter().map(|(name, value)| (name, value)),
        length: BodyLength::Known(0),
    };
    let mut out = [0; 300];
    let len = after(GET).encode_head(&response, &DATE, &mut out);
    let expected = "HTTP/1.1 200 OK\r\ndate: never\r\nserver: x\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(str::from_utf8(&out[..len]), Ok(expected));
}

#[test]
fn the_error_response_to_a_head_request_has_no_content() {
    for (request, has_content) in [
        ("HEAD / HTTP/1.1\r\n\r\n", false),
        ("GET / HTTP/1.1\r\n\r\n", true),
    ] {
        let mut codec = Codec::server();
        let step = next(&mut codec, request.as_bytes(), &MessageLimits::default());
        assert_eq!(step, Err(Fault::MissingHost));
        let head = send(&mut codec, 400, &[], BodyLength::Known(5));
        assert!(head.contains("Content-Length: 5\r\n"), "{head}");
        assert_eq!(codec.body_allowed(), has_content);
    }
}

#[test]
fn chunks_a_body_of_unknown_length() {
    let mut codec = after(GET);
    send(&mut codec, 200, &[], BodyLength::Unknown);
    let mut body = Vec::new();
    for data in ["hello", "", &"x".repeat(0x1f40)] {
        let prefix = codec
            .encode_data_prefix(data.len())
            .expect("no wrong length");
        assert_eq!(prefix.is_some(), !data.is_empty());
        if let Some(prefix) = prefix {
            body.extend_from_slice(prefix.as_bytes());
            body.extend_from_slice(data.as_bytes());
            body.extend_from_slice(DATA_SUFFIX);
        }
    }
    body.extend_from_slice(codec.encode_end().expect("an end"));
    let expected = format!("5\r\nhello\r\n1f40\r\n{}\r\n0\r\n\r\n", "x".repeat(0x1f40));
    assert_eq!(String::from_utf8(body), Ok(expected));
    assert!(codec.is_idle());

    let mut codec = after(GET);
    send(&mut codec, 200, &[], BodyLength::Unknown);
    assert_eq!(codec.encode_end(), Ok(b"0\r\n\r\n".as_slice()));
    let longest = DataPrefix::chunk(usize::MAX);
    assert_eq!(longest.as_bytes(), b"ffffffffffffffff\r\n");
}

#[test]
fn counts_a_body_of_known_length() {
    let ready = || {
        let mut codec = after(GET);
        send(&mut codec, 200, &[], BodyLength::Known(5));
        codec.encode_data_prefix(3).expect("three of five");
        codec
    };
    let mut codec = ready();
    assert!(codec.encode_data_prefix(2).expect("the rest").is_none());
    assert_eq!(codec.encode_end(), Ok(b"".as_slice()));
    assert!(codec.is_idle());

    let mut codec = ready();
    assert_eq!(codec.encode_end(), Err(WrongLength::Short));
    assert!(codec.must_close() && !codec.can_respond());

    let mut codec = ready();
    assert_eq!(
        codec.encode_data_prefix(3).map(|_| ()),
        Err(WrongLength::Excess)
    );
    assert!(codec.must_close());

    let mut codec = after(HEAD);
    send(&mut codec, 200, &[], BodyLength::Known(5));
    assert!(!codec.body_allowed());
    assert_eq!(codec.encode_end(), Ok(b"".as_slice()));
    assert!(codec.is_idle());
}

#[test]
fn a_100_continue_is_sent_once_and_only_to_a_waiting_client() {
    let mut codec = after(EXPECT);
    assert!(codec.wants_continue());
    assert_eq!(codec.encode_continue(), b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(!codec.wants_continue());
    assert_eq!(codec.encode_continue(), b"");
    let limits = MessageLimits::default();
    assert_eq!(next(&mut codec, b"hi", &limits), Ok((2, Event::Data(0..2))));
    assert_eq!(next(&mut codec, b"", &limits), Ok((0, Event::End)));
    send(&mut codec, 200, &[], BodyLength::Known(0));
    codec.encode_end().expect("an end");
    assert!(codec.is_idle());

    // The client sends the body without 100 Continue, so it no longer waits.
    let mut codec = after(EXPECT);
    assert_eq!(next(&mut codec, b"", &limits), Ok((0, Event::NeedData)));
    assert!(codec.wants_continue());
    assert_eq!(next(&mut codec, b"h", &limits), Ok((1, Event::Data(0..1))));
    assert!(!codec.wants_continue());

    assert!(!after(POST).wants_continue());
    let empty = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n";
    assert!(!after(empty).wants_continue());
}

#[test]
fn a_final_response_instead_of_100_continue_closes_the_connection() {
    let mut codec = after(EXPECT);
    let head = send(&mut codec, 403, &[], BodyLength::Known(0));
    assert!(head.ends_with("Connection: close\r\n\r\n"), "{head}");
    codec.encode_end().expect("an end");
    assert!(codec.must_close() && !codec.wants_continue());
}

#[test]
fn interim_responses_precede_the_final_one() {
    let mut codec = after(GET);
    let link = [("Link", "</a.css>; rel=preload")];
    let head = send(&mut codec, 103, &link, BodyLength::Known(0));
    assert_eq!(
        head,
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
    );
    assert!(codec.can_respond());
    send(&mut codec, 200, &[], BodyLength::Known(0));
    codec.encode_end().expect("an end");
    assert!(codec.is_idle());

    let status = StatusCode::EARLY_HINTS;
    let response = ResponseHead {
        status,
        reason: None,
        shared: None,
        fields: NO_FIELDS,
        length: BodyLength::Known(0),
    };
    assert_eq!(after(OLD).encode_head(&response, &DATE, &mut []), 0);
}

#[test]
fn a_response_may_precede_the_request_body() {
    let limits = MessageLimits::default();
    // The body is then read, and the next request can follow.
    let mut codec = after(POST);
    send(&mut codec, 200, &[], BodyLength::Known(0));
    codec.encode_end().expect("an end");
    assert!(!codec.is_idle() && !codec.must_close() && !codec.request_complete());
    assert_eq!(next(&mut codec, b"hi", &limits), Ok((2, Event::Data(0..2))));
    assert_eq!(next(&mut codec, b"", &limits), Ok((0, Event::End)));
    assert!(codec.is_idle());

    // With `close_after` the connection closes instead.
    let mut codec = after(POST);
    codec.close_after();
    let head = send(&mut codec, 413, &[], BodyLength::Known(0));
    assert!(head.ends_with("Connection: close\r\n\r\n"), "{head}");
    codec.encode_end().expect("an end");
    assert!(codec.must_close());
}

#[test]
fn a_pipelined_request_waits_for_the_current_response() {
    let mut codec = after(GET);
    let limits = MessageLimits::default();
    assert_eq!(next(&mut codec, b"", &limits), Ok((0, Event::NeedData)));
    assert_eq!(
        next(&mut codec, GET.as_bytes(), &limits),
        Ok((0, Event::Paused))
    );
    send(&mut codec, 200, &[], BodyLength::Known(0));
    assert_eq!(
        next(&mut codec, GET.as_bytes(), &limits),
        Ok((0, Event::Paused))
    );
    codec.encode_end().expect("an end");
    let next = next(&mut codec, GET.as_bytes(), &limits);
    assert!(matches!(next, Ok((27, Event::Request(_)))), "{next:?}");
}

#[test]
fn close_after_on_an_idle_connection_affects_the_next_response() {
    let mut codec = Codec::server();
    codec.close_after();
    assert!(codec.is_idle());
    let event = next(&mut codec, GET.as_bytes(), &MessageLimits::default());
    assert!(matches!(event, Ok((_, Event::Request(_)))));
    let head = send(&mut codec, 200, &[], BodyLength::Known(0));
    assert!(head.ends_with("Connection: close\r\n\r\n"), "{head}");
    codec.encode_end().expect("an end");
    assert!(codec.must_close());
}

#[test]
fn the_connection_closes_after_an_error_response() {
    let limits = MessageLimits::default();
    let refused = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    // A head misses its deadline. The exchange before it, with HEAD and HTTP/1.0, must not affect
    // the error response.
    let head = "HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let mut codec = after(head);
    send(&mut codec, 200, &[], BodyLength::Known(9));
    codec.encode_end().expect("an end");
    assert!(codec.is_idle());
    codec.fail_request(b"");
    let length = BodyLength::Known(0);
    assert_eq!(
        send(
            &mut codec,
            Fault::HeadTimeout.status().as_u16(),
            &[],
            length
        ),
        refused
    );
    assert!(codec.body_allowed());
    codec.encode_end().expect("an end");
    assert!(codec.must_close());

    // The head of a HEAD request does so: the error response has no content.
    for unread in ["HEAD / HT", "\r\nHEAD /"] {
        let mut codec = Codec::server();
        codec.fail_request(unread.as_bytes());
        send(&mut codec, 408, &[], BodyLength::Known(9));
        assert!(!codec.body_allowed());
    }

    // A body misses its deadline, before and after the response has begun.
    let mut codec = after(POST);
    codec.fail_request(b"");
    assert!(codec.can_respond());
    assert_eq!(send(&mut codec, 408, &[], length), refused);
    let mut codec = after(POST);
    send(&mut codec, 200, &[], length);
    codec.fail_request(b"");
    assert!(!codec.can_respond());
    codec.encode_end().expect("an end");
    assert!(codec.must_close());
    assert_eq!(next(&mut codec, b"hi", &limits), Ok((0, Event::Paused)));
}

#[test]
fn a_half_close_is_distinguished_from_a_truncated_request() {
    let mut codec = Codec::server();
    assert_eq!(codec.receive_eof(b""), Ok(()));
    assert!(codec.must_close());
    assert_eq!(Codec::server().receive_eof(b"GET"), Err(Fault::Truncated));
    assert_eq!(after(POST).receive_eof(b""), Err(Fault::Truncated));

    // The request is complete: it still gets its response, which is the last one.
    let mut codec = after(GET);
    assert_eq!(codec.receive_eof(b""), Ok(()));
    let head = send(&mut codec, 200, &[], BodyLength::Known(0));
    assert!(head.ends_with("Connection: close\r\n\r\n"), "{head}");
    codec.encode_end().expect("an end");
    assert!(codec.must_close());
    assert_eq!(codec.receive_eof(GET.as_bytes()), Ok(()));

    // A pipelined request is still served.
    let mut codec = after(GET);
    assert_eq!(codec.receive_eof(GET.as_bytes()), Ok(()));
    send(&mut codec, 200, &[], BodyLength::Known(0));
    codec.encode_end().expect("an end");
    assert!(codec.is_idle());
}
