//! A service that panics, or fails otherwise, costs its own connection; it is counted, and the
//! worker lives.

use std::future::{Ready, pending, ready};
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use coring::net::{TcpListener, TcpStream};
use coring::{Request, Response, Service, StatusCode};

use crate::support::{GET, HELLO, Local, eventually};

/// A server whose service panics for some paths, before and after its first wait.
fn panicking_server() -> Local {
    Local::start(|| {
        async |mut request: Request| match request.path() {
            "/panic" => panic!("as it was asked to"),
            "/panic-later" => {
                let body = request.body().read(100).await;
                panic!("as it was asked to, after {body:?}")
            }
            "/panic-at-the-end" => {
                let _at_the_end = PanicAtTheEnd;
                Response::html(HELLO)
            }
            "/panic-when-dropped" => {
                let _at_the_end = PanicAtTheEnd;
                pending().await
            }
            _ => Response::html(HELLO),
        }
    })
}

struct PanicAtTheEnd;

impl Drop for PanicAtTheEnd {
    fn drop(&mut self) {
        panic!("as it was asked to, in a destructor");
    }
}

/// A service that panics before there is a future.
struct PanicInCall;

impl Service for PanicInCall {
    #[expect(refining_impl_trait, reason = "there is nothing to wait for")]
    fn call(&self, request: Request) -> Ready<Response> {
        assert_ne!(request.path(), "/panic", "as it was asked to");
        ready(Response::html(HELLO))
    }
}

/// Content that takes an address when it is dropped, and so comes back to the engine.
struct Busy(Vec<u8>);

impl AsRef<[u8]> for Busy {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        TcpListener::bind(([127, 0, 0, 1], 0)).expect("an address");
    }
}

#[test]
fn content_may_use_the_engine_when_it_is_dropped() {
    let server = Local::start(|| {
        async |_: Request| {
            Response::new(StatusCode::OK).with_body(Bytes::from_owner(Busy(vec![b'x'; 10_000])))
        }
    });
    let mut client = server.connect();
    for _ in 0..3 {
        client.send(GET);
        assert_eq!(client.answer().body.len(), 10_000);
    }
    server.stop();
}

#[test]
fn a_panic_costs_one_connection() {
    let server = panicking_server();
    let mut bystander = server.connect();
    bystander.send(GET);
    assert_eq!(bystander.answer().text(), HELLO);
    let at_once = "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n";
    let later = "POST /panic-later HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    for (count, request) in (1..).zip([at_once, later, at_once, later]) {
        let mut client = server.connect();
        client.send(request);
        // What is pipelined behind goes with the connection.
        client.send(GET);
        let answer = client.answer();
        assert_eq!(
            (answer.status, answer.closes()),
            (500, true),
            "{}",
            answer.head
        );
        client.ends();
        eventually("the count", || {
            (server.count("service_panics") == count).then_some(())
        });
        bystander.send(GET);
        assert_eq!(bystander.answer().text(), HELLO, "others go on");
    }
    drop(bystander);
    server.stop();
}

/// What was answered before the panic still arrives, wherever in the service it was.
#[test]
fn answers_before_a_panic_are_sent() {
    let in_call = Local::start(|| PanicInCall);
    for (server, path) in [
        (panicking_server(), "/panic"),
        (panicking_server(), "/panic-at-the-end"),
        (in_call, "/panic"),
    ] {
        let mut client = server.connect();
        client.send(format!("{GET}GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.answer().text(), HELLO);
        assert_eq!(client.answer().status, 500, "{path}");
        client.ends();
        let counted = || (server.count("closed_by_service") == 1).then_some(());
        eventually("the connection's end", counted);
        assert_eq!(server.count("service_panics"), 1);
        server.stop();
    }
}

/// The call is dropped because its client has gone, and its destructor panics.
#[test]
fn a_panic_of_a_dropped_call_is_the_services() {
    let server = panicking_server();
    let mut client = server.connect();
    client.send("GET /panic-when-dropped HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the call", || (server.count("requests") == 1).then_some(()));
    client.reset();
    let counted = || (server.count("closed_by_service") == 1).then_some(());
    eventually("the connection's end", counted);
    assert_eq!(server.count("closed_by_drain"), 0);
    assert_eq!(server.count("connections_open"), 0);
    server.stop();
}

/// The payload of a panic whose destructor panics, too; and content that does.
struct Bomb;

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &[b'x'; 10_000]
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        resume_unwind(Box::new(PanicAtTheEnd));
    }
}

/// A waker of the service's that panics.
struct PanicAtWake;

impl Wake for PanicAtWake {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new(Bomb));
    }
}

/// Polls `future` once, to be woken by a waker that panics.
async fn poll_with_panicking_waker(future: impl Future) {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(PanicAtWake));
    assert!(
        future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    coring::time::sleep(Duration::from_millis(300)).await;
}

/// An accept and a receive, each of which wakes a waker that panics.
async fn wait_for_sockets_with_panicking_waker() {
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

/// Code of the service's runs wherever the worker wakes or drops what the service has left there.
#[test]
fn no_waker_payload_or_content_of_the_services_ends_a_worker() {
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
                "/content" => {
                    let content = Bytes::from_owner(Bomb);
                    return Response::new(StatusCode::OK).with_body(content);
                }
                "/timer" => {
                    poll_with_panicking_waker(coring::time::sleep(Duration::from_millis(20))).await
                }
                "/job" => {
                    let job = || std::thread::sleep(Duration::from_millis(20));
                    poll_with_panicking_waker(coring::task::blocking(job)).await;
                }
                "/sockets" => wait_for_sockets_with_panicking_waker().await,
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
        ("/content", 200),
        ("/timer", 200),
        ("/job", 200),
        ("/sockets", 200),
        ("/body", 200),
    ] {
        let mut client = server.connect();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
        ));
        if path == "/body" {
            // The body's reader waits by then.
            std::thread::sleep(Duration::from_millis(50));
        }
        client.send("body");
        assert_eq!(client.answer().status, status, "{path}");
        bystander.send(GET);
        assert_eq!(bystander.answer().text(), HELLO, "{path}: others go on");
    }
    server.stop();
}

/// An interim response that none follows is no answer.
#[test]
fn an_interim_response_without_another_is_a_failure() {
    let server = Local::start(|| {
        async |request: Request| {
            let status = request.path()[1..].parse().expect("a status");
            Response::new(status)
        }
    });
    for (status, version) in [(100, "1.1"), (101, "1.1"), (103, "1.1"), (103, "1.0")] {
        let mut client = server.connect();
        client.send(format!("GET /{status} HTTP/{version}\r\nHost: a\r\n\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes()), (500, true), "{status}");
        client.ends();
    }
    assert_eq!(server.count("responses_1xx"), 0);
    assert_eq!(server.count("task_panics"), 0);
    server.stop();
}
