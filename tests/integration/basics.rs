//! What every answer looks like, over IPv4, IPv6 and a Unix socket: the embedded site, the two
//! fixtures, persistence, pipelining, and requests that arrive in pieces.

use std::thread;
use std::time::{Duration, SystemTime};

use crate::support::{Answer, Client, Coring, Family, GET, HELLO, noise};

const MISSING: &str = "GET /missing HTTP/1.1\r\nHost: coring\r\n\r\n";
const NOT_FOUND: &str = "<h1>Not Found</h1>";

/// Long enough for the server to see a piece on its own; nothing depends on whether it did.
const PAUSE: Duration = Duration::from_millis(2);

/// The fields that an answer of the embedded site has, whatever was asked.
#[track_caller]
fn is_html(answer: &Answer, status: &str, len: usize) {
    let head = &answer.head;
    assert_eq!(
        head.lines().next(),
        Some(format!("HTTP/1.1 {status}").as_str())
    );
    assert_eq!(
        answer.field("content-type"),
        Some("text/html; charset=utf-8"),
        "{head}"
    );
    assert_eq!(
        answer.field("content-length"),
        Some(len.to_string().as_str()),
        "{head}"
    );
    assert!(
        answer
            .field("server")
            .is_some_and(|name| name.starts_with("coring")),
        "{head}"
    );
    let date = answer
        .field("date")
        .and_then(|date| httpdate::parse_http_date(date).ok());
    let age = SystemTime::now()
        .duration_since(date.expect("a date"))
        .unwrap_or_default();
    assert!(age < Duration::from_secs(10), "{head}");
}

#[test]
fn the_site_answers_hello_world_and_not_found() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &[]);
        let mut client = server.connect();
        for (request, status, body) in [
            (GET, "200 OK", HELLO),
            (MISSING, "404 Not Found", NOT_FOUND),
        ] {
            client.send(request);
            let answer = client.answer();
            is_html(&answer, status, body.len());
            assert_eq!(answer.text(), body);
        }
        server.stop();
    }
}

#[test]
fn head_has_the_fields_of_get_and_no_body() {
    let server = Coring::start(&[]);
    let mut client = server.connect();
    client.send(GET.replace("GET", "HEAD"));
    is_html(&client.head(), "200 OK", HELLO.len());
    client.send(MISSING.replace("GET", "HEAD"));
    is_html(&client.head(), "404 Not Found", NOT_FOUND.len());
    client.send(GET);
    assert_eq!(
        client.answer().text(),
        HELLO,
        "a body of HEAD's was in the way"
    );
}

#[test]
fn the_page_can_only_be_read() {
    let server = Coring::start(&[]);
    let answer = server.ask(GET.replace("GET", "DELETE"));
    assert_eq!(
        (answer.status, answer.field("allow")),
        (405, Some("GET, HEAD"))
    );
    assert_eq!(server.ask(MISSING.replace("GET", "DELETE")).status, 404);
}

#[test]
fn a_query_and_an_absolute_target_find_the_same_page() {
    let server = Coring::start(&[]);
    let mut client = server.connect();
    for target in [
        "/?a=b",
        "http://coring/",
        "http://coring",
        "http://coring?x",
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: coring\r\n\r\n"));
        assert_eq!(client.answer().text(), HELLO, "{target}");
    }
}

#[test]
fn connections_persist_as_the_client_wishes() {
    let server = Coring::start(&[]);
    // The version, what the request says of the connection, what the answer says; whether it stays.
    let table = [
        ("1.1", None, None, true),
        ("1.1", Some("keep-alive"), None, true),
        ("1.1", Some("close"), Some("close"), false),
        ("1.1", Some("x, Close"), Some("close"), false),
        ("1.0", None, Some("close"), false),
        ("1.0", Some("Keep-Alive"), Some("keep-alive"), true),
        ("1.0", Some("keep-alive, close"), Some("close"), false),
    ];
    for (version, asked, answered, stays) in table {
        let row = format!("HTTP/{version}, Connection: {asked:?}");
        let field = asked
            .map(|value| format!("Connection: {value}\r\n"))
            .unwrap_or_default();
        let request = format!("GET / HTTP/{version}\r\nHost: coring\r\n{field}\r\n");
        let mut client = server.connect();
        client.send(&request);
        let answer = client.answer();
        assert_eq!(answer.text(), HELLO, "{row}");
        assert_eq!(answer.field("connection"), answered, "{row}");
        if stays {
            client.send(&request);
            assert_eq!(client.answer().text(), HELLO, "{row}");
        } else {
            client.ends();
        }
    }
}

#[test]
fn sixteen_pipelined_requests_are_answered_in_order() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &[]);
        let mut client = server.connect();
        client.send(format!("{GET}{MISSING}").repeat(8));
        for _ in 0..8 {
            assert_eq!(client.answer().text(), HELLO);
            assert_eq!(client.answer().text(), NOT_FOUND);
        }
        client.half_close();
        client.ends();
        assert_eq!(server.stop().stats()["requests"], 16);
    }
}

/// Three requests of each kind of framing in a row, and what `echo` answers to them.
const PIPELINED: &str = "POST /a HTTP/1.1\r\nHost: coring\r\nContent-Length: 5\r\n\r\nhello\
    GET /b HTTP/1.1\r\nHost: coring\r\n\r\n\
    PUT /c HTTP/1.1\r\nHost: coring\r\nTransfer-Encoding: chunked\r\n\r\n\
    3\r\none\r\n4;x=y\r\n two\r\n0\r\nTrailer: x\r\n\r\n";

#[track_caller]
fn answers_pipelined(client: &mut Client) {
    for body in ["hello", "", "one two"] {
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (200, body));
    }
}

#[test]
fn requests_may_be_cut_anywhere() {
    let server = Coring::start(&["echo"]);
    for at in 1..PIPELINED.len() {
        let (first, second) = PIPELINED.split_at(at);
        let mut client = server.connect();
        client.send(first);
        thread::sleep(PAUSE);
        client.send(second);
        answers_pipelined(&mut client);
    }
}

#[test]
fn requests_may_come_byte_by_byte() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &["echo"]);
        let mut client = server.connect();
        for byte in PIPELINED.bytes() {
            client.send([byte]);
            thread::sleep(PAUSE);
        }
        answers_pipelined(&mut client);
    }
}

#[test]
fn a_half_closed_connection_is_still_answered() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &["echo"]);
        let mut client = server.connect();
        client.send(PIPELINED);
        client.half_close();
        answers_pipelined(&mut client);
        client.ends();
    }
}

#[test]
fn many_connections_come_one_after_the_other() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &[]);
        for _ in 0..500 {
            let mut client = server.connect();
            client.send("GET / HTTP/1.1\r\nHost: coring\r\nConnection: close\r\n\r\n");
            assert_eq!(client.answer().text(), HELLO);
            client.ends();
        }
        let ended = server.stop();
        let stats = ended.stats();
        assert_eq!(stats["connections_accepted"], 500);
        assert_eq!(stats["connections_open"], 0);
        assert_eq!(stats["closed_in_order"], 500);
    }
}

#[test]
fn respond_answers_as_it_was_told() {
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
        client.send(format!("GET {target} HTTP/1.1\r\nHost: coring\r\n\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (418, "no tea"));
        assert_eq!(answer.field("content-type"), Some("text/x-pot"));
    }
}

#[test]
fn respond_without_content_has_no_body_and_no_length() {
    for status in ["204", "304"] {
        let server = Coring::start(&["respond", "--status", status]);
        let mut client = server.connect();
        client.send(GET.repeat(2));
        for _ in 0..2 {
            let answer = client.answer();
            assert_eq!(answer.status.to_string(), status);
            assert_eq!(answer.field("transfer-encoding"), None);
        }
        client.half_close();
        client.ends();
    }
}

#[test]
fn echo_returns_any_body_with_its_type() {
    let server = Coring::start(&["echo"]);
    let body = noise(300_000);
    for method in ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "X-OWN"] {
        let mut client = server.connect();
        let len = body.len();
        client.send(format!(
            "{method} /any?q HTTP/1.1\r\nHost: coring\r\nContent-Type: x/y\r\n\
             Content-Length: {len}\r\nConnection: close\r\n\r\n"
        ));
        let mut sender = client.twin();
        thread::scope(|scope| {
            scope.spawn(|| sender.send(&body));
            let answer = client.answer();
            assert_eq!(
                (answer.status, answer.field("content-type")),
                (200, Some("x/y"))
            );
            assert!(answer.body == body, "{method}: another body came back");
        });
        client.ends();
    }
}

#[test]
fn echo_streams_as_it_comes() {
    let server = Coring::start(&["echo"]);
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: coring\r\nTransfer-Encoding: chunked\r\n\r\n");
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
    assert_eq!(client.answer().status, 200);
}

#[test]
fn a_client_that_waits_for_continue_is_told_to() {
    let server = Coring::start(&["echo"]);
    let mut client = server.connect();
    let head = "POST / HTTP/1.1\r\nHost: coring\r\nContent-Length: 4\r\n\
        Expect: 100-continue\r\n\r\n";
    client.send(head);
    assert_eq!(client.answer().status, 100);
    client.send("body");
    assert_eq!(client.answer().text(), "body");
    // Who does not wait need not be told, but may be.
    client.send(format!("{head}body"));
    let mut answer = client.answer();
    if answer.status == 100 {
        answer = client.answer();
    }
    assert_eq!((answer.status, answer.text()), (200, "body"));
}
