//! Trailers of requests: a service gets them after the body, or sends them on with it.

use std::thread;
use std::time::Duration;

use coring::{Request, Response};

use crate::support::{Local, head_with_chunks};

#[test]
fn the_trailers_of_a_request_follow_its_body() {
    let server = Local::start(|| {
        async |mut request: Request| {
            if request.path() == "/echo" {
                return Response::text(request.into_body());
            }
            let body = request.body();
            let early = body.take_trailers();
            let content = body.read(100).await.expect("a body");
            let (trailers, again) = (body.take_trailers(), body.take_trailers());
            assert!(early.is_none() && again.is_none());
            Response::text(format!("{} {trailers:?}", content.len()))
        }
    });
    let chunked = |path: &str, trailers: &str| {
        let head = head_with_chunks("POST", path);
        format!("{head}5\r\nhello\r\n0\r\n{trailers}\r\n")
    };
    let mut client = server.connect();
    for (trailers, expected) in [
        ("", "5 None"),
        (
            "X-A: 1\r\nx-b:\r\nx-a: 2\r\n",
            r#"5 Some({"x-a": "1", "x-a": "2", "x-b": ""})"#,
        ),
    ] {
        let request = chunked("/", trailers);
        for at in (1..=request.len()).rev().take(40) {
            let (first, second) = request.split_at(at);
            client.send(first);
            thread::sleep(Duration::from_millis(1));
            client.send(second);
            assert_eq!(client.response().text(), expected, "split at {at}");
        }
    }
    client.send(chunked("/echo", "X-A: 1\r\nAuthorization: x\r\n"));
    client.head();
    let expected = "5\r\nhello\r\n0\r\nx-a: 1\r\n\r\n";
    let body = client.take(expected.len()).expect("a body");
    assert_eq!(body, expected.as_bytes());
    // The limits of a head apply to trailers, too.
    let mut other = server.connect();
    other.send(chunked("/", &"A: b\r\n".repeat(1000)));
    assert_eq!(other.response().status, 431);
    server.stop();
}
