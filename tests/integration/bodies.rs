//! What services may do with bodies: read them by parts, stop reading, pass them on, keep them for
//! another request. The client's side is told the truth, and nobody waits for ever.

use std::cell::RefCell;
use std::future::pending;
use std::rc::Rc;

use coring::{Body, Request, Response};

use crate::support::{GET, Local, eventually};

/// A service of two requests: `PUT` leaves its body there, and `GET` answers with it.
fn relay() -> Local {
    Local::start(|| {
        let left: Rc<RefCell<Option<Body>>> = Rc::default();
        async move |request: Request| {
            if request.method() == "GET" {
                let body = left.take().expect("a body was left");
                return Response::text(body);
            }
            let fails = request.path() == "/fails";
            *left.borrow_mut() = Some(request.into_body());
            assert!(!fails, "as it was asked to");
            pending().await
        }
    })
}

#[test]
fn a_body_can_be_another_requests_answer() {
    let server = relay();
    let mut from = server.connect();
    from.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    eventually("the call", || (server.count("requests") == 1).then_some(()));
    let mut to = server.connect();
    to.send(GET);
    assert_eq!(to.head().field("content-length"), Some("10"));
    assert_eq!(to.take(5).expect("the first half"), b"hello");
    from.send("world");
    assert_eq!(to.take(5).expect("the second half"), b"world");
    server.stop();
}

/// Whoever reads a body is told when it will never be whole, however its connection ended.
#[test]
fn a_reader_elsewhere_learns_of_the_end() {
    let server = relay();
    for (path, rest) in [
        ("/", Some("no chunk\r\n")),
        ("/", None),
        ("/fails", Some("")),
    ] {
        let calls = server.count("requests") + 1;
        let mut from = server.connect();
        let request =
            format!("PUT {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        from.send(request);
        eventually("the call", || {
            (server.count("requests") == calls).then_some(())
        });
        if path == "/fails" {
            assert_eq!(from.answer().status, 500);
        }
        let mut to = server.connect();
        to.send(GET);
        assert_eq!(to.head().status, 200, "{path} {rest:?}");
        match rest {
            Some(rest) => drop(from.try_send(rest)),
            None => from.reset(),
        }
        assert_eq!(to.broken(), b"", "no last chunk: it is cut short");
    }
    server.stop();
}
