//! Interim responses from a service (100 and 103), reason phrases, and pre-encoded field lines.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use coring::sync::channel;
use coring::time::sleep;
use coring::{FieldLines, HeaderName, HeaderValue, Request, Response, StatusCode};

use crate::support::{GET_HTTP_1_0, Local, get, request};

const LINK: HeaderName = HeaderName::from_static("link");

/// A `103 Early Hints` with this `Link`.
fn hints(link: &'static str) -> Response {
    Response::new(StatusCode::EARLY_HINTS).with_header(LINK, HeaderValue::from_static(link))
}

#[test]
fn an_interim_response_arrives_while_the_service_works() {
    let server = Local::start(|| {
        let waiting = Rc::new(RefCell::new(None));
        async move |request: Request| {
            if request.path() == "/go" {
                drop(waiting.take());
                return Response::text("gone");
            }
            let (sender, mut receiver) = channel::<()>(1);
            waiting.replace(Some(sender));
            hints("</a.css>").with_body("no content").then(async move {
                receiver.recv().await;
                hints("</b.css>").then(async { Response::text("done") })
            })
        }
    });
    let (mut client, mut other) = (server.connect(), server.connect());
    for _ in 0..2 {
        client.send(get("/"));
        let first = client.head();
        assert_eq!((first.status, first.field("link")), (103, Some("</a.css>")));
        assert_eq!(first.field("content-length"), None);
        other.send(get("/go"));
        assert_eq!(other.response().text(), "gone");
        let second = client.head();
        assert_eq!(
            (second.status, second.field("link")),
            (103, Some("</b.css>"))
        );
        let last = client.response();
        assert_eq!((last.status, last.text()), (200, "done"));
        assert_eq!(last.field("link"), None);
    }
    assert_eq!(server.count("responses_1xx"), 4);
    assert_eq!(server.stop_and_count("responses_2xx"), 4);
}

#[test]
fn pipelined_responses_keep_their_order_around_interim_ones() {
    let server = Local::start(|| {
        async |request: Request| match request.path() {
            "/hint" => hints("</a.css>").then(async { Response::text("hinted") }),
            "/slow" => hints("</a.css>").then(async {
                sleep(Duration::from_millis(20)).await;
                Response::text("slow")
            }),
            _ => Response::text("plain"),
        }
    });
    let mut client = server.connect();
    client.send(["/", "/hint", "/", "/slow", "/hint", "/"].map(get).concat());
    let mut seen = Vec::new();
    for _ in 0..9 {
        let response = client.head();
        if response.status == 103 {
            seen.push("103".to_owned());
            continue;
        }
        let len = response.field("content-length").expect("a length").parse();
        let body = client.take(len.expect("a number")).expect("a body");
        seen.push(String::from_utf8(body).expect("text"));
    }
    let expected = [
        "plain", "103", "hinted", "plain", "103", "slow", "103", "hinted", "plain",
    ];
    assert_eq!(seen, expected);
    server.stop();
}

#[test]
fn an_http_1_0_client_gets_no_interim_responses() {
    let server = Local::start(|| {
        async |_: Request| hints("</a.css>").then(async { Response::text("done") })
    });
    let mut client = server.connect();
    client.send(GET_HTTP_1_0);
    let response = client.response();
    assert_eq!((response.status, response.text()), (200, "done"));
    assert_eq!(server.stop_and_count("responses_1xx"), 0);
}

#[test]
fn a_service_that_sends_continue_itself_sends_it_once() {
    let server = Local::start(|| {
        async |mut request: Request| {
            let mut body = std::mem::take(request.body());
            Response::new(StatusCode::CONTINUE).then(async move {
                let content = body.read(100).await.expect("a body");
                Response::new(StatusCode::OK).with_body(content)
            })
        }
    });
    let mut client = server.connect();
    let fields = ["Content-Length: 5", "Expect: 100-continue"];
    for _ in 0..2 {
        client.send(request("POST", "/", &fields));
        assert_eq!(client.head().status, 100);
        client.send("hello");
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, "hello"));
    }
    assert_eq!(server.stop_and_count("responses_1xx"), 2);
}

#[test]
fn endless_interim_responses_do_not_block_other_clients() {
    fn another() -> Response {
        hints("</a.css>").then(async { another() })
    }
    let server = Local::start(|| {
        async |request: Request| match request.path() {
            "/endless" => another(),
            _ => Response::text("done"),
        }
    });
    let mut client = server.connect();
    client.send(get("/endless"));
    for _ in 0..1000 {
        assert_eq!(client.head().status, 103);
    }
    // From here on this client does not read.
    let mut other = server.connect();
    other.send(get("/"));
    assert_eq!(other.response().text(), "done");
    drop(client);
    server.stop();
}

#[test]
fn a_panic_after_an_interim_response_is_answered_with_500() {
    let server = Local::start(|| {
        async |_: Request| {
            hints("</a.css>").then(async {
                sleep(Duration::from_millis(1)).await;
                panic!("planted")
            })
        }
    });
    let mut client = server.connect();
    client.send(get("/"));
    assert_eq!(client.head().status, 103);
    assert_eq!(client.response().status, 500);
    assert_eq!(server.stop_and_count("service_panics"), 1);
}

/// HTTP has no such status (RFC 9110 §15).
#[test]
fn a_response_with_a_status_above_599_is_invalid() {
    let server = Local::start(|| {
        async |request: Request| {
            if request.path() == "/later" {
                sleep(Duration::from_millis(1)).await;
            }
            let status = StatusCode::from_u16(600).expect("a number of three digits");
            Response::text("x").with_status(status)
        }
    });
    for path in ["/", "/later"] {
        let mut client = server.connect();
        client.send(get(path));
        assert_eq!(client.response().status, 500, "{path}");
        client.expect_fin();
    }
    server.stop();
}

#[test]
fn a_reason_phrase_and_field_lines_are_sent() {
    let server = Local::start(|| {
        let fields = [("X-A", "1"), ("Server", "mine"), ("Content-Length", "7")];
        let lines = Rc::new(FieldLines::from_bytes(fields).expect("valid fields"));
        async move |_: Request| {
            Response::text("short")
                .with_reason(HeaderValue::from_static("Short And Stout"))
                .with_status(StatusCode::IM_A_TEAPOT)
                .with_field_lines(lines.clone())
        }
    });
    let mut client = server.connect();
    for _ in 0..2 {
        client.send(get("/"));
        let response = client.response();
        assert!(
            response
                .head
                .starts_with("HTTP/1.1 418 Short And Stout\r\n")
        );
        assert_eq!(response.text(), "short");
        assert_eq!(response.field("x-a"), Some("1"));
        assert_eq!(response.field("server"), Some("mine"));
        assert_eq!(
            response.field("content-type"),
            Some("text/plain; charset=utf-8")
        );
    }
    server.stop();
}
