//! Requests that break the protocol: each gets its status and the end of its connection, and what
//! was smuggled behind it is never taken for a request.

use std::thread;
use std::time::Duration;

use crate::support::{Coring, GET};

/// What is wrong, the request, and the status that answers it.
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
    ("no valid Host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    (
        "another Host",
        "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
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
    ("an old version", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    ("a later version", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    (
        "a longer version",
        "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
        400,
    ),
    (
        "CONNECT",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        501,
    ),
    (
        "an expectation",
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
fn a_fault_is_answered_with_its_status_and_the_end() {
    let server = Coring::start(&[]);
    for (what, request, status) in FAULTS {
        let mut client = server.connect();
        client.send(request);
        let answer = client.answer();
        assert_eq!(answer.status, *status, "{what}: {}", answer.head);
        assert!(answer.closes(), "{what}: {}", answer.head);
        client.ends();
    }
    assert_eq!(server.ask(GET).status, 200);
    assert_eq!(
        server.stop().stats()["closed_by_fault"],
        FAULTS.len() as u64
    );
}

/// Framings that two servers in a row may read differently, each with a request hidden behind. The
/// status is that of the only answer.
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
    ("another coding", "Transfer-Encoding: gzip\r\n\r\n", 501),
    (
        "two codings",
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "chunked within",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "chunked, almost",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "chunked in quotes",
        "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "chunked with a tab",
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
fn what_is_smuggled_behind_a_fault_is_not_a_request() {
    let server = Coring::start(&["echo"]);
    for (what, framing, status) in SMUGGLED {
        let mut client = server.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}{GET}"));
        assert_eq!(client.answer().status, *status, "{what}");
        client.ends();
    }
    assert_eq!(
        server.stop().stats()["closed_by_fault"],
        SMUGGLED.len() as u64
    );
}

/// `Transfer-Encoding` is of HTTP/1.1; who sends it in 1.0 may be a proxy that does not know it.
#[test]
fn chunks_in_http_1_0_are_refused() {
    let server = Coring::start(&["echo"]);
    let framing = "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = server.ask(format!("POST / HTTP/1.0\r\nHost: a\r\n{framing}{GET}"));
    assert_eq!((answer.status, answer.closes()), (400, true));
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

/// The answer may have begun before the bad chunk came. It is then cut short, so that nobody takes
/// it for whole.
#[test]
fn a_malformed_chunk_ends_the_connection() {
    let server = Coring::start(&["echo"]);
    for chunks in BAD_CHUNKS {
        let mut client = server.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(format!("{chunks}{GET}"));
        match client.try_answer() {
            Ok(Some(answer)) => assert_eq!(answer.status, 400, "{chunks:?}: {}", answer.head),
            Ok(None) => panic!("{chunks:?}: no answer"),
            Err(error) => assert_eq!(
                error.kind(),
                std::io::ErrorKind::UnexpectedEof,
                "{chunks:?}"
            ),
        }
        let rest = client.broken();
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
fn a_request_cut_short_costs_only_its_connection() {
    let server = Coring::start(&["echo"]);
    let cuts = [
        "GET / HT",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell",
    ];
    for request in cuts {
        let mut client = server.connect();
        client.send(request);
        client.half_close();
        // Nobody may be there to read it, but a 400 does no harm; neither does a cut answer.
        if let Ok(Some(answer)) = client.try_answer() {
            assert_eq!(answer.status, 400, "{request}: {}", answer.head);
        }
        client.broken();
    }
    assert_eq!(server.ask(GET).status, 200);
}

/// A client that sends all of its body before it reads must find the answer, not a reset: the
/// server reads on for a while after it has answered.
#[test]
fn pitfall_22_an_answer_is_not_lost_to_a_client_that_still_sends() {
    const LEN: usize = 10 << 20;
    let length = format!("Content-Length: {LEN}");
    let chunked = "Transfer-Encoding: chunked".to_owned();
    // The server, the framing, the first bytes of the body, the status.
    let refused = ("--max-body=1024", &length, String::new(), 413);
    let unread = ("--max-body=0", &length, String::new(), 405);
    let unread_chunk = ("--max-body=0", &chunked, format!("{LEN:x}\r\n"), 405);
    for (flag, framing, first, status) in [refused, unread, unread_chunk] {
        let server = Coring::start(&[flag]);
        let mut client = server.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{first}"
        ));
        client
            .try_send(vec![b'a'; LEN])
            .expect("a server that still reads");
        let answer = client.answer();
        assert_eq!(
            (answer.status, answer.closes()),
            (status, true),
            "{}",
            answer.head
        );
        client.half_close();
        client.ends();
        server.stop();
    }
}

/// Nobody can keep the server reading without end.
#[test]
fn reading_on_after_an_answer_is_bounded() {
    let server = Coring::start(&["--max-body", "1024"]);
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n");
    assert_eq!(client.answer().status, 413);
    let refused = (0..120).find_map(|_| {
        thread::sleep(Duration::from_millis(500));
        client.try_send("a").err()
    });
    refused.expect("the server to leave within a minute");
    assert_eq!(server.stop().stats()["connections_open"], 0);
}

/// What follows the last request of a connection is not answered, and must not take the answer with
/// it: a close with bytes unread is a reset, which makes the peer forget what it has received.
#[test]
fn an_answer_survives_what_is_sent_behind_it() {
    let server = Coring::start(&["--head-timeout", "1s"]);
    let garbage = "G".repeat(20_000);
    for _ in 0..20 {
        let mut client = server.connect();
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        client.send(format!("{request}{garbage}"));
        for _ in 0..20 {
            client.send(&garbage);
        }
        assert_eq!(client.answer().status, 200);
        client.ends();
    }
    let mut late = server.connect();
    late.send("GET / HTTP/1.1\r\nHo");
    assert_eq!(late.head().status, 408);
    for _ in 0..20 {
        late.send(&garbage);
        thread::sleep(Duration::from_millis(10));
    }
    late.broken();
}
