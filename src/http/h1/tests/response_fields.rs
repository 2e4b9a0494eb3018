//! Fields of a service's response that are left out.

use ::http::StatusCode;

use super::DATE;
use super::responses::{GET, HEAD, OLD, after, send, typed};
use crate::http::FieldLines;
use crate::http::h1::{BodyLength, ResponseHead};

#[test]
fn fields_that_connection_names_and_second_dates_are_left_out() {
    let fields = [
        ("x-hop", "1"),
        ("Connection", "X-Hop, te"),
        ("te", "x"),
        ("x-a", "1"),
    ];
    let head = send(&mut after(GET), 200, &fields, BodyLength::Known(0));
    assert_eq!(
        head,
        "HTTP/1.1 200 OK\r\nx-a: 1\r\nContent-Length: 0\r\n\r\n"
    );

    let fields = typed(&[
        ("date", "1"),
        ("connection", "x-hop"),
        ("date", "2"),
        ("server", "x"),
    ]);
    let shared = [("Date", "3"), ("X-Hop", "1"), ("Server", "y"), ("X-A", "1")];
    let shared = FieldLines::from_bytes(shared).expect("valid fields");
    let response = ResponseHead {
        status: StatusCode::OK,
        reason: None,
        shared: Some(&shared),
        fields: fields.iter().map(|(name, value)| (name, value)),
        length: BodyLength::Known(0),
    };
    let mut out = vec![0; response.head_bytes_max()];
    let len = after(GET).encode_head(&response, &DATE, &mut out);
    let expected = "HTTP/1.1 200 OK\r\ndate: 1\r\nserver: x\r\nx-a: 1\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(str::from_utf8(&out[..len]), Ok(expected));
}

#[test]
fn only_a_chunked_response_announces_trailers() {
    use BodyLength::{Known, Unknown};
    let fields = [("trailer", "x-sum")];
    for (request, status, length, is_sent) in [
        (GET, 200, Unknown, true),
        (HEAD, 200, Unknown, true),
        (GET, 200, Known(0), false),
        (OLD, 200, Unknown, false),
        (GET, 204, Unknown, false),
        (GET, 103, Unknown, false),
    ] {
        let fields = typed(&fields);
        let response = ResponseHead {
            status: StatusCode::from_u16(status).expect("a status"),
            reason: None,
            shared: None,
            fields: fields.iter().map(|(name, value)| (name, value)),
            length,
        };
        let mut out = vec![0; response.head_bytes_max()];
        let len = after(request).encode_head(&response, &DATE, &mut out);
        let head = str::from_utf8(&out[..len]).expect("text");
        assert_eq!(
            head.contains("trailer: x-sum\r\n"),
            is_sent,
            "{request} {status}"
        );
    }
}
