//! Plain exchanges over IPv4, IPv6 and Unix sockets: the embedded site, `coring respond` and
//! `coring echo`, persistent connections, pipelining, and requests that arrive in parts.

use std::thread;
use std::time::{Duration, SystemTime};

use crate::support::{
    Client, Coring, Family, GET, GET_AND_CLOSE, HELLO, ReceivedResponse, get, head_with_chunks,
    head_with_length, noise, request,
};

const NOT_FOUND: &str = "<h1>Not Found</h1>";

/// Long enough for the server to receive the bytes sent before it separately. The tests do not
/// depend on that.
const PAUSE: Duration = Duration::from_millis(2);

/// Asserts the status line and the fields that all responses of the embedded site have.
#[track_caller]
fn assert_html(response: &ReceivedResponse, status: &str, len: usize) {
    let head = &response.head;
    assert_eq!(
        head.lines().next(),
        Some(format!("HTTP/1.1 {status}").as_str())
    );
    assert_eq!(
        response.field("content-type"),
        Some("text/html; charset=utf-8"),
        "{head}"
    );
    assert_eq!(
        response.field("content-length"),
        Some(len.to_string().as_str()),
        "{head}"
    );
    assert!(
        response
            .field("server")
            .is_some_and(|name| name.starts_with("coring")),
        "{head}"
    );
    let date = response
        .field("date")
        .and_then(|date| httpdate::parse_http_date(date).ok());
    let age = SystemTime::now()
        .duration_since(date.expect("a date"))
        .unwrap_or_default();
    assert!(age < Duration::from_secs(10), "{head}");
}

#[test]
fn the_embedded_site_has_one_page() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &[]);
        let mut client = server.connect();
        for (request, status, body) in [
            (get("/"), "200 OK", HELLO),
            (get("/missing"), "404 Not Found", NOT_FOUND),
        ] {
            client.send(request);
            let response = client.response();
            assert_html(&response, status, body.len());
            assert_eq!(response.text(), body);
        }
        server.stop();
    }
}

#[test]
fn a_response_to_head_has_the_fields_of_get_and_no_body() {
    let server = Coring::start(&[]);
    let mut client = server.connect();
    client.send(request("HEAD", "/", &[]));
    assert_html(&client.head(), "200 OK", HELLO.len());
    client.send(request("HEAD", "/missing", &[]));
    assert_html(&client.head(), "404 Not Found", NOT_FOUND.len());
    client.send(GET);
    assert_eq!(
        client.response().text(),
        HELLO,
        "a response to HEAD had a body"
    );
}

#[test]
fn the_embedded_site_allows_only_get_and_head() {
    let server = Coring::start(&[]);
    let response = server.ask(request("DELETE", "/", &[]));
    assert_eq!(
        (response.status, response.field("allow")),
        (405, Some("GET, HEAD"))
    );
    let missing = server.ask(request("DELETE", "/missing", &[]));
    assert_eq!(missing.status, 404);
    let server_wide = server.ask(request("OPTIONS", "*", &[]));
    assert_eq!(
        (server_wide.status, server_wide.field("allow")),
        (204, Some("GET, HEAD"))
    );
    assert_eq!(server.ask(request("BREW", "/", &[])).status, 501);
}

#[test]
fn a_query_or_an_absolute_target_selects_the_same_page() {
    let server = Coring::start(&[]);
    let mut client = server.connect();
    for target in [
        "/?a=b",
        "http://coring/",
        "http://coring",
        "http://coring?x",
    ] {
        client.send(get(target));
        assert_eq!(client.response().text(), HELLO, "{target}");
    }
}

#[test]
fn a_connection_persists_as_the_client_asks() {
    let server = Coring::start(&[]);
    // The version, the Connection field of the request and of the response, whether it persists.
    let table = [
        ("1.1", None, None, true),
        ("1.1", Some("keep-alive"), None, true),
        ("1.1", Some("close"), Some("close"), false),
        ("1.1", Some("x, Close"), Some("close"), false),
        ("1.0", None, Some("close"), false),
        ("1.0", Some("Keep-Alive"), Some("keep-alive"), true),
        ("1.0", Some("keep-alive, close"), Some("close"), false),
    ];
    for (version, requested, responded, persists) in table {
        let row = format!("HTTP/{version}, Connection: {requested:?}");
        let field = requested
            .map(|value| format!("Connection: {value}\r\n"))
            .unwrap_or_default();
        let request = format!("GET / HTTP/{version}\r\nHost: coring\r\n{field}\r\n");
        let mut client = server.connect();
        client.send(&request);
        let response = client.response();
        assert_eq!(response.text(), HELLO, "{row}");
        assert_eq!(response.field("connection"), responded, "{row}");
        if persists {
            client.send(&request);
            assert_eq!(client.response().text(), HELLO, "{row}");
        } else {
            client.expect_fin();
        }
    }
}

#[test]
fn sixteen_pipelined_requests_are_answered_in_order() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &[]);
        let mut client = server.connect();
        client.send([get("/"), get("/missing")].concat().repeat(8));
        for _ in 0..8 {
            assert_eq!(client.response().text(), HELLO);
            assert_eq!(client.response().text(), NOT_FOUND);
        }
        client.half_close();
        client.expect_fin();
        assert_eq!(server.stop().stats()["requests"], 16);
    }
}

/// Three pipelined requests, one of each kind of framing.
const PIPELINED: &str = "POST /a HTTP/1.1\r\nHost: coring\r\nContent-Length: 5\r\n\r\nhello\
    GET /b HTTP/1.1\r\nHost: coring\r\n\r\n\
    PUT /c HTTP/1.1\r\nHost: coring\r\nTransfer-Encoding: chunked\r\n\r\n\
    3\r\none\r\n4;x=y\r\n two\r\n0\r\nTrailer: x\r\n\r\n";

/// Asserts that `coring echo` responds to [`PIPELINED`].
#[track_caller]
fn assert_pipelined_responses(client: &mut Client) {
    for body in ["hello", "", "one two"] {
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, body));
    }
}

#[test]
fn requests_may_be_split_anywhere() {
    let server = Coring::start(&["echo"]);
    for at in 1..PIPELINED.len() {
        let (first, second) = PIPELINED.split_at(at);
        let mut client = server.connect();
        client.send(first);
        thread::sleep(PAUSE);
        client.send(second);
        assert_pipelined_responses(&mut client);
    }
}

#[test]
fn requests_may_arrive_byte_by_byte() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &["echo"]);
        let mut client = server.connect();
        for byte in PIPELINED.bytes() {
            client.send([byte]);
            thread::sleep(PAUSE);
        }
        assert_pipelined_responses(&mut client);
    }
}

#[test]
fn a_half_closed_connection_still_gets_its_responses() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &["echo"]);
        let mut client = server.connect();
        client.send(PIPELINED);
        client.half_close();
        assert_pipelined_responses(&mut client);
        client.expect_fin();
    }
}

#[test]
fn connections_can_be_opened_one_after_the_other() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &[]);
        for _ in 0..500 {
            let mut client = server.connect();
            client.send(GET_AND_CLOSE);
            assert_eq!(client.response().text(), HELLO);
            client.expect_fin();
        }
        let ended = server.stop();
        let stats = ended.stats();
        assert_eq!(stats["connections_accepted"], 500);
        assert_eq!(stats["connections_open"], 0);
        assert_eq!(stats["closed_in_order"], 500);
    }
}

#[test]
fn respond_sends_the_given_status_type_and_text() {
    let server = Coring::start(&[
        "respond",
        "no tea",
        "--status",
        "418",
        "--type",
        "text/x-pot",
    ]);
    let mut client = server.connect();
    for target in ["/", "/any"] {
        client.send(get(target));
        let response = client.response();
        assert_eq!((response.status, response.text()), (418, "no tea"));
        assert_eq!(response.field("content-type"), Some("text/x-pot"));
    }
}

#[test]
fn a_status_without_content_has_no_body_and_no_chunks() {
    for status in ["204", "304"] {
        let server = Coring::start(&["respond", "--status", status]);
        let mut client = server.connect();
        client.send(GET.repeat(2));
        for _ in 0..2 {
            let response = client.response();
            assert_eq!(response.status.to_string(), status);
            assert_eq!(response.field("transfer-encoding"), None);
        }
        client.half_close();
        client.expect_fin();
    }
}

/// The rest of a body that the service does not read is received and dropped, up to 64 KiB, however
/// its end is found.
#[test]
fn a_short_rest_of_an_unread_body_keeps_the_connection() {
    let server = Coring::start(&[]);
    let chunked = request("POST", "/", &["Transfer-Encoding: chunked"]);
    for (begin, rest) in [
        (head_with_length("POST", "/", 5) + "hel", "lo"),
        (chunked.clone() + "5\r\nhel", "lo\r\n0\r\nA: b\r\n\r\n"),
        (chunked.clone(), "5;a=b\r\nhello\r\n0\r\n\r\n"),
    ] {
        let mut client = server.connect();
        client.send(begin);
        let response = client.response();
        assert_eq!((response.status, response.closes()), (405, false));
        client.send(format!("{rest}{GET}"));
        assert_eq!(client.response().status, 200, "{rest:?}");
    }
    let mut client = server.connect();
    client.send(chunked);
    assert!(!client.response().closes());
    for _ in 0..9 {
        client.send(format!("2000\r\n{}\r\n", "x".repeat(0x2000)));
    }
    client.send(format!("0\r\n\r\n{GET}"));
    client.half_close();
    client.expect_fin();
}

/// A fault in a body that nobody reads does not replace the response, however the bytes are cut.
#[test]
fn a_fault_in_an_unread_body_does_not_change_the_response() {
    let server = Coring::start(&["--max-body", "1m"]);
    let chunked = request("POST", "/", &["Transfer-Encoding: chunked"]);
    for fault in ["zz\r\n", "10000000\r\nx"] {
        let mut client = server.connect();
        client.send(format!("{chunked}{fault}"));
        assert_eq!(client.response().status, 405, "{fault:?}");
        client.expect_fin();
        let mut client = server.connect();
        client.send(&chunked);
        assert_eq!(client.response().status, 405, "{fault:?}");
        client.send(fault);
        client.expect_fin();
    }
}

#[test]
fn echo_returns_the_body_of_any_method_with_its_type() {
    let server = Coring::start(&["echo"]);
    let body = noise(300_000);
    for method in ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "X-OWN"] {
        let mut client = server.connect();
        let len = body.len();
        let length = format!("Content-Length: {len}");
        let fields = ["Content-Type: x/y", &length, "Connection: close"];
        client.send(request(method, "/any?q", &fields));
        let mut sender = client.twin();
        thread::scope(|scope| {
            scope.spawn(|| sender.send(&body));
            let response = client.response();
            assert_eq!(
                (response.status, response.field("content-type")),
                (200, Some("x/y"))
            );
            assert!(response.body == body, "{method}: the body differs");
        });
        client.expect_fin();
    }
}

#[test]
fn echo_sends_each_chunk_back_at_once() {
    let server = Coring::start(&["echo"]);
    let mut client = server.connect();
    client.send(head_with_chunks("POST", "/"));
    client.send("5\r\nfirst\r\n");
    let head = client.head();
    assert_eq!(
        (head.status, head.field("transfer-encoding")),
        (200, Some("chunked"))
    );
    assert_eq!(client.chunk().expect("the first chunk"), b"first");
    client.send("6\r\nsecond\r\n0\r\n\r\n");
    assert_eq!(client.chunk().expect("the second chunk"), b"second");
    assert_eq!(client.chunk().expect("the last chunk"), b"");
    client.send(GET);
    assert_eq!(client.response().status, 200);
}

#[test]
fn a_client_that_expects_continue_receives_it() {
    let server = Coring::start(&["echo"]);
    let mut client = server.connect();
    let fields = ["Content-Length: 4", "Expect: 100-continue"];
    let head = request("POST", "/", &fields);
    client.send(&head);
    assert_eq!(client.response().status, 100);
    client.send("body");
    assert_eq!(client.response().text(), "body");
    // If the client sends the body at once, the server may leave out the interim response.
    client.send(format!("{head}body"));
    let mut response = client.response();
    if response.status == 100 {
        response = client.response();
    }
    assert_eq!((response.status, response.text()), (200, "body"));
}
