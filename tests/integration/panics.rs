//! Services that panic or fail otherwise: only the connection of the request ends, the failure is
//! counted, and the worker continues.

use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use coring::net::{TcpListener, TcpStream};
use coring::{Body, Request, Response, Service, StatusCode};
use futures_core::Stream;

use crate::support::{
    GET, HELLO, Local, eventually, get, head_with_length, request, request_with_body,
};

/// A server whose service panics for some paths, before or after its first `.await`.
fn panicking_server() -> Local {
    Local::start(|| {
        async |mut request: Request| match request.path() {
            "/panic" => panic!("planted"),
            "/panic-later" => {
                let body = request.body().read(100).await;
                panic!("planted, after {body:?}")
            }
            "/panic-at-the-end" => {
                let _panics = PanicWhenDropped;
                Response::html(HELLO)
            }
            "/panic-when-dropped" => {
                let _panics = PanicWhenDropped;
                pending().await
            }
            _ => Response::html(HELLO),
        }
    })
}

struct PanicWhenDropped;

impl Drop for PanicWhenDropped {
    fn drop(&mut self) {
        panic!("planted, in a destructor");
    }
}

/// A service whose `call` panics before it returns a future.
struct PanicInCall;

impl Service for PanicInCall {
    #[expect(refining_impl_trait, reason = "the response is ready at once")]
    fn call(&self, request: Request) -> Ready<Response> {
        assert_ne!(request.path(), "/panic", "planted");
        ready(Response::html(HELLO))
    }
}

/// The owner of a response body. Its destructor binds a listener, and so calls the engine while
/// the engine drops the body.
struct BindWhenDropped(Vec<u8>);

impl AsRef<[u8]> for BindWhenDropped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for BindWhenDropped {
    fn drop(&mut self) {
        TcpListener::bind(([127, 0, 0, 1], 0)).expect("an address");
    }
}

#[test]
fn the_destructor_of_a_body_may_use_the_engine() {
    let server = Local::start(|| {
        async |_: Request| {
            let body = Bytes::from_owner(BindWhenDropped(vec![b'x'; 10_000]));
            Response::new(StatusCode::OK).with_body(body)
        }
    });
    let mut client = server.connect();
    for _ in 0..3 {
        client.send(GET);
        assert_eq!(client.response().body.len(), 10_000);
    }
    server.stop();
}

#[test]
fn a_panic_ends_only_its_own_connection() {
    let server = panicking_server();
    let mut bystander = server.connect();
    bystander.send(GET);
    assert_eq!(bystander.response().text(), HELLO);
    let at_once = get("/panic");
    let later = request_with_body("POST", "/panic-later", "body");
    for (count, request) in (1..).zip([&at_once, &later, &at_once, &later]) {
        let mut client = server.connect();
        client.send(request);
        // A pipelined request gets no response.
        client.send(GET);
        let response = client.response();
        assert_eq!(
            (response.status, response.closes()),
            (500, true),
            "{}",
            response.head
        );
        client.expect_fin();
        eventually("the count", || {
            (server.count("service_panics") == count).then_some(())
        });
        bystander.send(GET);
        assert_eq!(bystander.response().text(), HELLO, "another connection");
    }
    drop(bystander);
    server.stop();
}

/// The response to an earlier request still arrives, wherever the service panics.
#[test]
fn responses_before_a_panic_are_sent() {
    let in_call = Local::start(|| PanicInCall);
    for (server, path) in [
        (panicking_server(), "/panic"),
        (panicking_server(), "/panic-at-the-end"),
        (in_call, "/panic"),
    ] {
        let mut client = server.connect();
        client.send(GET.to_owned() + &get(path));
        assert_eq!(client.response().text(), HELLO);
        assert_eq!(client.response().status, 500, "{path}");
        client.expect_fin();
        let counted = || (server.count("closed_by_service") == 1).then_some(());
        eventually("the connection's end", counted);
        assert_eq!(server.count("service_panics"), 1);
        server.stop();
    }
}

/// The server drops the call because the client has reset the connection, and the call's
/// destructor panics. This counts as a failure of the service.
#[test]
fn a_panic_while_a_call_is_dropped_counts_as_a_service_failure() {
    let server = panicking_server();
    let mut client = server.connect();
    client.send(get("/panic-when-dropped"));
    eventually("the call", || (server.count("requests") == 1).then_some(()));
    client.reset();
    let counted = || (server.count("closed_by_service") == 1).then_some(());
    eventually("the connection's end", counted);
    assert_eq!(server.count("closed_by_drain"), 0);
    assert_eq!(server.count("connections_open"), 0);
    server.stop();
}

/// A value whose destructor panics with a payload whose destructor panics, too. It serves as a
/// panic payload and as a response body.
struct Bomb;

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &[b'x'; 10_000]
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        resume_unwind(Box::new(PanicWhenDropped));
    }
}

/// A waker that panics.
struct PanicWhenWoken;

impl Wake for PanicWhenWoken {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new(Bomb));
    }
}

/// Polls `future` once with a waker that panics, and waits until the waker has been called.
async fn poll_with_panicking_waker(future: impl Future) {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(PanicWhenWoken));
    assert!(
        future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    coring::time::sleep(Duration::from_millis(300)).await;
}

/// Polls an accept and a receive with a waker that panics.
async fn poll_sockets_with_panicking_waker() {
    let mut listener = TcpListener::bind(([127, 0, 0, 1], 0)).expect("an address");
    let client = coring::spawn(TcpStream::connect(listener.local_addr()));
    poll_with_panicking_waker(listener.accept()).await;
    let mut client = client.await.expect("no panic").expect("a connection");
    let mut peer = listener.accept().await.expect("a connection");
    let late = coring::spawn(async move {
        coring::time::sleep(Duration::from_millis(20)).await;
        peer.write_all("late").await
    });
    poll_with_panicking_waker(client.read()).await;
    late.await.expect("no panic").expect("a connection");
}

/// The worker calls wakers and drops panic payloads and bodies that come from the service. If any
/// of them panics, the worker continues.
#[test]
fn no_panicking_waker_payload_or_body_ends_the_worker() {
    let server = Local::start(|| {
        async |mut request: Request| {
            match request.path() {
                "/payload" => resume_unwind(Box::new(Bomb)),
                "/payload-later" => {
                    coring::time::sleep(Duration::from_millis(1)).await;
                    resume_unwind(Box::new(Bomb))
                }
                "/spawned-payload" => {
                    let spawned = coring::spawn(async { resume_unwind(Box::new(Bomb)) });
                    let _: Result<(), _> = spawned.await;
                }
                "/response-body" => {
                    let body = Bytes::from_owner(Bomb);
                    return Response::new(StatusCode::OK).with_body(body);
                }
                "/timer" => {
                    poll_with_panicking_waker(coring::time::sleep(Duration::from_millis(20))).await
                }
                "/blocking" => {
                    let sleep = || std::thread::sleep(Duration::from_millis(20));
                    poll_with_panicking_waker(coring::task::blocking(sleep)).await;
                }
                "/sockets" => poll_sockets_with_panicking_waker().await,
                "/body" => poll_with_panicking_waker(request.body().read(10)).await,
                _ => {}
            }
            Response::html(HELLO)
        }
    });
    let mut bystander = server.connect();
    for (path, status) in [
        ("/payload", 500),
        ("/payload-later", 500),
        ("/spawned-payload", 200),
        ("/response-body", 200),
        ("/timer", 200),
        ("/blocking", 200),
        ("/sockets", 200),
        ("/body", 200),
    ] {
        let mut client = server.connect();
        client.send(head_with_length("POST", path, 4));
        if path == "/body" {
            // By then the service waits for the body.
            std::thread::sleep(Duration::from_millis(50));
        }
        client.send("body");
        assert_eq!(client.response().status, status, "{path}");
        bystander.send(GET);
        assert_eq!(
            bystander.response().text(),
            HELLO,
            "{path}: another connection"
        );
    }
    server.stop();
}

/// A stream of one part, whose destructor panics.
struct PanickingStream {
    part: Option<&'static str>,
    _panics: PanicWhenDropped,
}

impl Stream for PanickingStream {
    type Item = Result<&'static str, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.part.take().map(Ok))
    }
}

/// The destructor of a response's body may panic at the end of the body, or before it if the body
/// is not sent. Responses before it are sent.
#[test]
fn a_panic_in_the_destructor_of_a_response_body_counts_as_one_of_the_service() {
    let server = Local::start(|| {
        async |request: Request| {
            let body = Body::from_stream(PanickingStream {
                part: Some("part"),
                _panics: PanicWhenDropped,
            });
            match request.path() {
                "/stream" => Response::text(body),
                "/length" => Response::text(body.with_length(4)),
                "/short" => Response::text(body.with_length(3)),
                "/304" => Response::text(body).with_status(StatusCode::NOT_MODIFIED),
                _ => {
                    std::mem::forget(body);
                    Response::html(HELLO)
                }
            }
        }
    });
    let cases = [
        ("GET", "/stream"),
        ("GET", "/length"),
        ("GET", "/short"),
        ("HEAD", "/stream"),
        ("HEAD", "/length"),
        ("GET", "/304"),
    ];
    for (count, (method, path)) in (1..).zip(cases) {
        let mut client = server.connect();
        client.send(GET.to_owned() + &request(method, path, &[]));
        assert_eq!(client.response().text(), HELLO, "{method} {path}");
        let status = if path == "/304" { 304 } else { 200 };
        assert_eq!(client.head().status, status, "{method} {path}");
        client.expect_fin_or_reset();
        eventually("the connection's end", || {
            (server.count("closed_by_service") == count).then_some(())
        });
        assert_eq!(server.count("service_panics"), count, "{method} {path}");
    }
    assert_eq!(server.count("task_panics"), 0);
    server.stop();
}

/// A service must not return a 1xx response that is not followed by another.
#[test]
fn an_interim_response_without_a_final_one_is_answered_with_500() {
    let server = Local::start(|| {
        async |request: Request| {
            let status = request.path()[1..].parse().expect("a status");
            Response::new(status)
        }
    });
    for (status, version) in [(100, "1.1"), (101, "1.1"), (103, "1.1"), (103, "1.0")] {
        let mut client = server.connect();
        client.send(format!("GET /{status} HTTP/{version}\r\nHost: a\r\n\r\n"));
        let response = client.response();
        assert_eq!(
            (response.status, response.closes()),
            (500, true),
            "{status}"
        );
        client.expect_fin();
    }
    assert_eq!(server.count("responses_1xx"), 0);
    assert_eq!(server.count("task_panics"), 0);
    server.stop();
}
