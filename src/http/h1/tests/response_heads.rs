//! Heads of responses: the status line, and shared fields.

use ::http::{HeaderValue, StatusCode};

use super::responses::{GET, after, typed};
use super::{DATE, NO_FIELDS};
use crate::http::FieldLines;
use crate::http::h1::{BodyLength, ResponseHead};

#[test]
fn a_reason_phrase_replaces_the_standard_one() {
    for (status, reason, expected) in [
        (200, "Fine", "HTTP/1.1 200 Fine\r\n"),
        (404, "", "HTTP/1.1 404 \r\n"),
        (299, "Very\tGood", "HTTP/1.1 299 Very\tGood\r\n"),
        (
            500,
            &"x".repeat(1000),
            &format!("HTTP/1.1 500 {}\r\n", "x".repeat(1000)),
        ),
    ] {
        let reason = HeaderValue::from_str(reason).expect("no controls");
        let response = ResponseHead {
            status: StatusCode::from_u16(status).expect("a status"),
            reason: Some(&reason),
            shared: None,
            fields: NO_FIELDS,
            length: BodyLength::Unknown,
        };
        let mut out = vec![0; response.head_bytes_max()];
        let len = after(GET).encode_head(&response, &DATE, &mut out);
        let head = str::from_utf8(&out[..len]).expect("text");
        assert!(head.starts_with(expected), "{head}");
    }
}

#[test]
fn shared_fields_are_encoded_like_own_fields() {
    let head = |shared, own| {
        let own = typed(own);
        let shared = FieldLines::new(typed(shared));
        let response = ResponseHead {
            status: StatusCode::OK,
            reason: None,
            shared: Some(&shared),
            fields: own.iter().map(|(name, value)| (name, value)),
            length: BodyLength::Known(0),
        };
        let mut out = vec![0; response.head_bytes_max()];
        let len = after(GET).encode_head(&response, &DATE, &mut out);
        out.truncate(len);
        String::from_utf8(out).expect("text")
    };
    let all = [("a", "1"), ("b", ""), ("c-d", "x y")];
    let expected = head(&[], &all);
    assert!(expected.contains("\r\na: 1\r\nb: \r\nc-d: x y\r\nServer: "));
    for own in 0..=all.len() {
        assert_eq!(head(&all[own..], &all[..own]), expected);
    }
    // The same holds for fields that the server treats specially.
    let all = [
        ("date", "d"),
        ("content-length", "7"),
        ("server", "s"),
        ("connection", "close"),
    ];
    let expected = head(&[], &all);
    assert!(
        expected.contains("\r\ndate: d\r\nserver: s\r\nContent-Length: 0\r\nConnection: close")
    );
    for own in 0..=all.len() {
        assert_eq!(head(&all[own..], &all[..own]), expected);
    }
}

#[test]
fn any_number_of_upgrade_fields_gets_one_connection_field() {
    for status in [
        StatusCode::SWITCHING_PROTOCOLS,
        StatusCode::UPGRADE_REQUIRED,
    ] {
        for count in [0, 1, 2, 100] {
            let own = typed(&vec![("upgrade", "a/1"); count]);
            let response = ResponseHead {
                status,
                reason: None,
                shared: None,
                fields: own.iter().map(|(name, value)| (name, value)),
                length: BodyLength::Known(0),
            };
            let mut out = vec![0; response.head_bytes_max()];
            let len = after(GET).encode_head(&response, &DATE, &mut out);
            let head = str::from_utf8(&out[..len]).expect("text");
            assert_eq!(head.matches("\r\nUpgrade: a/1").count(), count, "{head}");
            let expected = count.min(1);
            assert_eq!(
                head.matches("\r\nConnection: upgrade").count(),
                expected,
                "{head}"
            );
        }
    }
}

#[test]
fn shared_fields_are_sent_with_the_letters_they_were_given() {
    let given = [
        ("X-Request-ID", "1"),
        ("DATE", "d"),
        ("sErver", "s"),
        ("Connection", "Close"),
    ];
    let shared = FieldLines::from_bytes(given).expect("valid fields");
    let response = ResponseHead {
        status: StatusCode::OK,
        reason: None,
        shared: Some(&shared),
        fields: NO_FIELDS,
        length: BodyLength::Known(0),
    };
    let mut out = vec![0; response.head_bytes_max()];
    let len = after(GET).encode_head(&response, &DATE, &mut out);
    let head = str::from_utf8(&out[..len]).expect("text");
    let own = "\r\nX-Request-ID: 1\r\nDATE: d\r\nsErver: s";
    let expected =
        format!("HTTP/1.1 200 OK{own}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(head, expected);
}
