//! Malformed requests: each is answered with an error status and the end of its connection, and
//! bytes smuggled behind it are never parsed as a request.

use std::thread;
use std::time::Duration;

use crate::support::{
    Coring, GET, GET_AND_CLOSE, HALF_A_HEAD, head_with_chunks, head_with_length, request,
};

/// The fault, the request, and the status of the response.
type Row = (&'static str, &'static str, u16);

const FAULTS: &[Row] = &[
    ("no request line", "nonsense\r\n\r\n", 400),
    ("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (
        "a space in the target",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
    ),
    ("no version", "GET /\r\n\r\n", 400),
    (
        "a relative target",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
    ),
    ("a fragment", "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("* for GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("bare line feeds", "GET / HTTP/1.1\nHost: a\n\n", 400),
    (
        "one bare line feed",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        400,
    ),
    (
        "a bare return",
        "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        400,
    ),
    (
        "a zero byte",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        400,
    ),
    ("no Host", "GET / HTTP/1.1\r\n\r\n", 400),
    (
        "two Hosts",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        400,
    ),
    (
        "an invalid Host",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        400,
    ),
    (
        "an invalid Host beside an absolute target",
        "GET http://a/ HTTP/1.1\r\nHost: b/\r\n\r\n",
        400,
    ),
    (
        "a space before the colon",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        400,
    ),
    ("no colon", "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
    (
        "a folded line",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
        400,
    ),
    (
        "a folded first line",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        400,
    ),
    ("version 0.9", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    ("version 2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    (
        "a version with two digits",
        "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
        400,
    ),
    (
        "CONNECT",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        501,
    ),
    (
        "an unknown expectation",
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n",
        417,
    ),
    (
        "a body too long",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
        413,
    ),
];

#[test]
fn a_malformed_request_gets_its_status_and_ends_the_connection() {
    let server = Coring::start(&[]);
    for (what, request, status) in FAULTS {
        let mut client = server.connect();
        client.send(request);
        let response = client.response();
        assert_eq!(response.status, *status, "{what}: {}", response.head);
        assert!(response.closes(), "{what}: {}", response.head);
        client.expect_fin();
    }
    assert_eq!(server.ask(GET).status, 200);
    assert_eq!(
        server.stop().stats()["closed_by_fault"],
        FAULTS.len() as u64
    );
}

/// Framings that a proxy and the server behind it may interpret differently. A request is hidden
/// behind each. There must be only one response; the row has its status.
const SMUGGLED: &[Row] = &[
    (
        "CL and TE",
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE and CL",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "two lengths",
        "Content-Length: 0\r\nContent-Length: 50\r\n\r\n",
        400,
    ),
    (
        "the same length twice",
        "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
        400,
    ),
    ("a list of lengths", "Content-Length: 0, 0\r\n\r\n", 400),
    ("a signed length", "Content-Length: +0\r\n\r\n", 400),
    ("a negative length", "Content-Length: -1\r\n\r\n", 400),
    ("a hexadecimal length", "Content-Length: 0x0\r\n\r\n", 400),
    ("an empty length", "Content-Length: \r\n\r\n", 400),
    ("a length of two words", "Content-Length: 0 50\r\n\r\n", 400),
    (
        "a length beyond 64 bits",
        "Content-Length: 18446744073709551616\r\n\r\n",
        400,
    ),
    ("an unknown coding", "Transfer-Encoding: gzip\r\n\r\n", 400),
    (
        "two codings",
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "chunked, but not last",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "a coding that ends with chunked",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunked in quotes",
        "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunked after a vertical tab",
        "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE with a space",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE on a folded line",
        "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE behind a bare line feed",
        "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
];

#[test]
fn a_request_smuggled_behind_a_fault_is_not_parsed() {
    let server = Coring::start(&["echo"]);
    for (what, framing, status) in SMUGGLED {
        let mut client = server.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}{GET}"));
        assert_eq!(client.response().status, *status, "{what}");
        // A second response would arrive before the FIN.
        client.expect_fin();
    }
    assert_eq!(
        server.stop().stats()["closed_by_fault"],
        SMUGGLED.len() as u64
    );
}

/// HTTP/1.0 has no `Transfer-Encoding`. The request may have passed through a proxy that ignored
/// the field (RFC 9112 §6.1).
#[test]
fn a_transfer_encoding_in_http_1_0_is_refused() {
    let server = Coring::start(&["echo"]);
    let framing = "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let response = server.ask(format!("POST / HTTP/1.0\r\nHost: a\r\n{framing}{GET}"));
    assert_eq!((response.status, response.closes()), (400, true));
}

const BAD_CHUNKS: &[&str] = &[
    "x\r\n",
    "\r\n",
    "-1\r\n",
    "0x1\r\na\r\n",
    " 1\r\na\r\n",
    "1 \r\na\r\n",
    "1\na\r\n",
    "1\r\nab\r\n",
    "1\r\na\n0\r\n\r\n",
    "10000000000000000\r\na",
    "1;a\nb\r\na\r\n",
    "0\r\nContent-Length: 5\r\n\r\n",
    "0\r\nX: y\n\r\n",
];

/// If the response has begun before the malformed chunk arrives, the server cuts the response
/// short, so that the client does not take it for complete.
#[test]
fn a_malformed_chunk_ends_the_connection() {
    let server = Coring::start(&["echo"]);
    for chunks in BAD_CHUNKS {
        let mut client = server.connect();
        client.send(head_with_chunks("POST", "/"));
        client.send(format!("{chunks}{GET}"));
        match client.try_response() {
            Ok(Some(response)) => assert_eq!(response.status, 400, "{chunks:?}: {}", response.head),
            Ok(None) => panic!("{chunks:?}: no response"),
            Err(error) => assert_eq!(
                error.kind(),
                std::io::ErrorKind::UnexpectedEof,
                "{chunks:?}"
            ),
        }
        let rest = client.expect_fin_or_reset();
        assert!(
            rest.is_empty(),
            "{chunks:?}: {}",
            String::from_utf8_lossy(&rest)
        );
    }
    assert_eq!(
        server.stop().stats()["closed_by_fault"],
        BAD_CHUNKS.len() as u64
    );
}

#[test]
fn a_request_cut_short_ends_only_its_connection() {
    let server = Coring::start(&["echo"]);
    let half_a_body = head_with_length("POST", "/", 5) + "hell";
    let cuts = ["GET / HT", &half_a_body];
    for request in cuts {
        let mut client = server.connect();
        client.send(request);
        client.half_close();
        // A 400, a response that is cut short, or no response: all are allowed.
        if let Ok(Some(response)) = client.try_response() {
            assert_eq!(response.status, 400, "{request}: {}", response.head);
        }
        client.expect_fin_or_reset();
    }
    assert_eq!(server.ask(GET).status, 200);
}

/// A client that sends its whole body before it reads must get the response, not a reset: after
/// the response the server continues to receive for a while.
#[test]
fn pitfall_22_a_client_that_still_sends_gets_the_response() {
    const LEN: usize = 10 << 20;
    let length = format!("Content-Length: {LEN}");
    let chunked = "Transfer-Encoding: chunked".to_owned();
    // The flag, the framing, the first bytes of the body, the status.
    let refused = ("--max-body=1024", &length, String::new(), 413);
    let unread = ("--max-body=0", &length, String::new(), 405);
    let unread_chunk = ("--max-body=0", &chunked, format!("{LEN:x}\r\n"), 405);
    for (flag, framing, first, status) in [refused, unread, unread_chunk] {
        let server = Coring::start(&[flag]);
        let mut client = server.connect();
        client.send(request("POST", "/", &[framing]) + &first);
        client
            .try_send(vec![b'a'; LEN])
            .expect("a server that continues to receive");
        let response = client.response();
        assert_eq!(
            (response.status, response.closes()),
            (status, true),
            "{}",
            response.head
        );
        client.half_close();
        client.expect_fin();
        server.stop();
    }
}

/// Bytes behind the last request of a connection are ignored. They must not cost the client the
/// response: closing a socket with unread bytes resets the connection, and the client's kernel
/// then discards received bytes.
#[test]
fn bytes_behind_the_last_request_do_not_destroy_its_response() {
    let server = Coring::start(&["--head-timeout", "1s"]);
    let garbage = "G".repeat(20_000);
    for _ in 0..20 {
        let mut client = server.connect();
        client.send(format!("{GET_AND_CLOSE}{garbage}"));
        for _ in 0..20 {
            client.send(&garbage);
        }
        assert_eq!(client.response().status, 200);
        client.expect_fin();
    }
    let mut late = server.connect();
    late.send(HALF_A_HEAD);
    assert_eq!(late.head().status, 408);
    for _ in 0..20 {
        late.send(&garbage);
        thread::sleep(Duration::from_millis(10));
    }
    late.expect_fin_or_reset();
}
