//! Trailers: those of a request become events; those of a response are sent if the body is chunked
//! and the field is allowed as a trailer.

use super::{BodyLength, Codec, DATE, Event, Head, MessageLimits, NO_FIELDS, ResponseHead};
use crate::http::h1::encode::WrongLength;
use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// The encoded end of a response to `request` whose body has this length, with these trailers.
fn end(
    request: &str,
    length: BodyLength,
    trailers: &[(&str, &str)],
) -> Result<String, WrongLength> {
    let mut codec = Codec::server();
    let step = codec.next_event(
        request.as_bytes(),
        &MessageLimits::default(),
        &mut Head::new(),
    );
    step.expect("a request");
    let response = ResponseHead {
        status: StatusCode::OK,
        reason: None,
        shared: None,
        fields: NO_FIELDS,
        length,
    };
    let mut head = vec![0; response.head_bytes_max()];
    codec.encode_head(&response, &DATE, &mut head);
    let mut map = HeaderMap::new();
    for (name, value) in trailers {
        let name: HeaderName = name.parse().expect("a name");
        map.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    let end = codec.encode_end_with_trailers(&map)?;
    assert!(codec.is_idle() || codec.must_close());
    Ok(String::from_utf8(end.into_owned()).expect("text"))
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn trailers_follow_the_last_chunk() {
    for (trailers, expected) in [
        (&[][..], "0\r\n\r\n"),
        (&[("Digest", "abc")], "0\r\ndigest: abc\r\n\r\n"),
        (
            &[("etag", "\"1\""), ("x-many", "1"), ("x-many", "2")],
            "0\r\netag: \"1\"\r\nx-many: 1\r\nx-many: 2\r\n\r\n",
        ),
    ] {
        assert_eq!(
            end(GET, BodyLength::Unknown, trailers).as_deref(),
            Ok(expected)
        );
    }
}

#[test]
fn fields_that_are_needed_before_the_content_are_not_sent_as_trailers() {
    for name in [
        "Content-Length",
        "Transfer-Encoding",
        "Trailer",
        "TE",
        "Connection",
        "Keep-Alive",
        "Upgrade",
        "Host",
        "If-None-Match",
        "Range",
        "Authorization",
        "Set-Cookie",
        "WWW-Authenticate",
        "Cache-Control",
        "Date",
        "Location",
        "Vary",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
    ] {
        let trailers = [(name, "1"), ("x-last", "2")];
        assert_eq!(
            end(GET, BodyLength::Unknown, &trailers).as_deref(),
            Ok("0\r\nx-last: 2\r\n\r\n"),
            "{name}"
        );
    }
}

#[test]
fn only_chunked_bodies_have_trailers() {
    let trailers = [("digest", "abc")];
    for (request, length) in [
        (GET.replace("1.1", "1.0"), BodyLength::Unknown),
        (GET.replace("GET", "HEAD"), BodyLength::Unknown),
        (GET.to_owned(), BodyLength::Known(0)),
    ] {
        assert_eq!(
            end(&request, length, &trailers).as_deref(),
            Ok(""),
            "{request}"
        );
    }
    assert_eq!(
        end(GET, BodyLength::Known(1), &trailers),
        Err(WrongLength::Short)
    );
}

#[test]
fn the_trailers_of_a_request_become_events() {
    let body = "1\r\nx\r\n0\r\nX-A: 1\r\nx-b:\t\u{e9} \r\nC:\r\n\r\n";
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    for split in 1..=request.len() {
        let mut codec = Codec::server();
        let (mut at, mut shown, mut lines) = (0, split, Vec::new());
        loop {
            let bytes = &request.as_bytes()[at..shown];
            let step = codec.next_event(bytes, &MessageLimits::default(), &mut Head::new());
            let (used, event) = step.expect("a valid request");
            match event {
                Event::Trailer(line) => lines.push(&bytes[line]),
                Event::NeedData => shown = request.len(),
                Event::End => break,
                _ => {}
            }
            at += used;
        }
        let expected: [&[u8]; 3] = [b"X-A: 1", "x-b:\t\u{e9} ".as_bytes(), b"C:"];
        assert_eq!(lines, expected, "split at {split}");
    }
}
