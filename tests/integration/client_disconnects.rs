//! Clients that disconnect while a service handles their request: a reset always drops the call. A
//! half-close drops it only if `Limits::half_close` is `End`.

use std::cell::RefCell;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use coring::{Body, BodySender, HalfClose, Limits, Request, Response};

use crate::support::{
    Client, GET, HELLO, Local, TempDir, builder, eventually, get, head_with_length, nap,
};

/// Long enough for a worker to notice what a client has done.
const WHILE: Duration = Duration::from_millis(300);

/// Increments the counter when dropped.
struct CountWhenDropped(Arc<AtomicUsize>);

impl Drop for CountWhenDropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A server whose calls never finish, and the number of calls that were dropped. It listens on a
/// Unix socket if there is a `path`.
fn server_with_pending_calls(
    half_close: HalfClose,
    path: Option<&str>,
) -> (Local, Arc<AtomicUsize>) {
    let mut limits = Limits::default();
    limits.half_close = half_close;
    let mut builder = builder().limits(limits);
    if let Some(path) = path {
        builder = builder.bind(path);
    }
    let dropped: Arc<AtomicUsize> = Arc::default();
    let count = dropped.clone();
    let server = Local::start_with(builder, move || {
        let count = count.clone();
        async move |_: Request| {
            let _counted = CountWhenDropped(count.clone());
            pending().await
        }
    });
    (server, dropped)
}

/// Connects `count` clients that send `request`, and waits until the service has been called for
/// each.
#[track_caller]
fn callers(server: &Local, count: u64, request: &str) -> Vec<Client> {
    let calls = server.count("requests") + count;
    let clients = (0..count).map(|_| {
        let mut client = server.connect();
        client.send(request);
        client
    });
    let clients = clients.collect();
    eventually("the calls", || {
        (server.count("requests") >= calls).then_some(())
    });
    clients
}

/// Waits until `count` calls have been dropped and their connections hold nothing.
#[track_caller]
fn wait_until_dropped(server: &Local, dropped: &AtomicUsize, count: usize) {
    eventually("the end of the calls", || {
        (dropped.load(Ordering::Relaxed) == count).then_some(())
    });
    eventually("the end of the connections", || {
        let held = ["connections_open", "blocks_in_use"].map(|name| server.count(name));
        (held == [0, 0]).then_some(())
    });
}

#[test]
fn a_reset_drops_the_call() {
    let (server, dropped) = server_with_pending_calls(HalfClose::Serve, None);
    for client in callers(&server, 50, GET) {
        client.reset();
    }
    wait_until_dropped(&server, &dropped, 50);
    assert_eq!(server.stop_and_count("closed_by_peer"), 50);
}

/// A server that spawns a task for each request, and the number of tasks whose `Request::gone` has
/// completed. `/now` is answered at once, `/late` before its task calls `Request::gone`, and
/// `/body` with a body that ends after a request for `/end`. Other requests are never answered.
fn server_with_watching_tasks() -> (Local, Arc<AtomicUsize>) {
    let told: Arc<AtomicUsize> = Arc::default();
    let count = told.clone();
    let server = Local::start_with(builder(), move || {
        let count = count.clone();
        let slot: Rc<RefCell<Option<BodySender>>> = Rc::default();
        async move |request: Request| {
            let path = request.path().to_owned();
            let count = count.clone();
            let gone = request.gone();
            coring::spawn(async move {
                if request.path() == "/late" {
                    coring::time::sleep(Duration::from_millis(10)).await;
                    request.gone().await;
                } else {
                    gone.await;
                }
                count.fetch_add(1, Ordering::Relaxed);
            });
            match &path[..] {
                "/now" | "/late" => Response::html(HELLO),
                "/body" => {
                    let (mut sender, body) = Body::channel(100);
                    sender.write("part").await.expect("the body exists");
                    *slot.borrow_mut() = Some(sender);
                    Response::text(body)
                }
                "/end" => {
                    slot.take().expect("a body").finish();
                    Response::html(HELLO)
                }
                _ => pending().await,
            }
        }
    });
    (server, told)
}

/// `Request::gone` tells a spawned task that the client is gone: after a half-close, and after a
/// reset.
#[test]
fn a_spawned_task_learns_that_the_client_is_gone() {
    let (server, told) = server_with_watching_tasks();
    let wait_until_told = |expected: usize| {
        eventually("the tasks learn it", || {
            (told.load(Ordering::Relaxed) == expected).then_some(())
        });
    };
    let half_closed = callers(&server, 10, GET);
    half_closed.iter().for_each(Client::half_close);
    wait_until_told(10);
    assert_eq!(
        server.count("connections_open"),
        10,
        "a half-close ended a connection"
    );
    callers(&server, 10, GET)
        .into_iter()
        .for_each(Client::reset);
    wait_until_told(20);
    server.stop();
    assert_eq!(told.load(Ordering::Relaxed), 20);
}

/// A task that waits for `Request::gone` must not outlive its exchange by the rest of the
/// connection.
#[test]
fn a_spawned_task_learns_that_the_exchange_has_ended() {
    let (server, told) = server_with_watching_tasks();
    let mut client = server.connect();
    let mut expected = 0;
    for path in ["/now", "/late"] {
        client.send(get(path).repeat(100));
        for _ in 0..100 {
            assert_eq!(client.response().text(), HELLO);
        }
        expected += 100;
        eventually(path, || {
            (told.load(Ordering::Relaxed) == expected).then_some(())
        });
    }
    client.send(get("/body"));
    client.head();
    assert_eq!(client.chunk().expect("a part"), b"part");
    thread::sleep(WHILE);
    assert_eq!(told.load(Ordering::Relaxed), 200, "the body has not ended");
    let mut other = server.connect();
    other.send(get("/end"));
    assert_eq!(other.response().text(), HELLO);
    client.last_chunk().expect("the end of the body");
    eventually("the end of both exchanges", || {
        (told.load(Ordering::Relaxed) == 202).then_some(())
    });
    assert_eq!(server.count("connections_open"), 2);
    server.stop();
}

#[test]
fn a_reset_after_a_half_close_drops_the_call() {
    let (server, dropped) = server_with_pending_calls(HalfClose::Serve, None);
    let clients = callers(&server, 50, GET);
    clients.iter().for_each(Client::half_close);
    thread::sleep(WHILE);
    assert_eq!(
        server.count("connections_open"),
        50,
        "a half-close ended a connection"
    );
    clients.into_iter().for_each(Client::reset);
    wait_until_dropped(&server, &dropped, 50);
    server.stop();
}

/// The client has sent more than the worker receives while a call is pending.
#[test]
fn a_reset_behind_unread_requests_drops_the_call() {
    let (server, dropped) = server_with_pending_calls(HalfClose::Serve, None);
    let requests = GET.repeat(2_000);
    let clients = callers(&server, 5, &requests);
    thread::sleep(WHILE);
    assert_eq!(server.count("connections_open"), 5);
    clients.into_iter().for_each(Client::reset);
    wait_until_dropped(&server, &dropped, 5);
    server.stop();
}

#[test]
fn a_half_close_drops_the_call_if_configured() {
    let (server, dropped) = server_with_pending_calls(HalfClose::End, None);
    let clients = callers(&server, 25, GET);
    clients.iter().for_each(Client::half_close);
    wait_until_dropped(&server, &dropped, 25);
    // The server sees a close as a half-close.
    drop(callers(&server, 25, GET));
    wait_until_dropped(&server, &dropped, 50);
    // The same behind more bytes than the worker receives while a call is pending.
    let clients = callers(&server, 5, &GET.repeat(2_000));
    thread::sleep(WHILE);
    clients.iter().for_each(Client::half_close);
    wait_until_dropped(&server, &dropped, 55);
    assert_eq!(server.stop_and_count("closed_by_peer"), 55);
}

/// On a Unix socket the kernel reports a close of the peer, and distinguishes it from a half-close.
#[test]
fn closing_a_unix_socket_drops_the_call() {
    let directory = TempDir::new();
    let path = format!("unix:{}", directory.file("socket"));
    let (server, dropped) = server_with_pending_calls(HalfClose::Serve, Some(&path));
    drop(callers(&server, 25, GET));
    wait_until_dropped(&server, &dropped, 25);
    let clients = callers(&server, 25, GET);
    clients.iter().for_each(Client::half_close);
    thread::sleep(WHILE);
    assert_eq!(
        server.count("connections_open"),
        25,
        "a half-close ended a connection"
    );
    drop(clients);
    wait_until_dropped(&server, &dropped, 50);
    server.stop();
}

#[test]
fn a_half_closed_client_gets_its_response_if_configured() {
    let limits = |half_close| {
        let mut limits = Limits::default();
        limits.half_close = half_close;
        limits
    };
    for (half_close, is_served) in [(HalfClose::Serve, true), (HalfClose::End, false)] {
        let server = Local::start_within(limits(half_close), || {
            async |request: Request| {
                if request.path() == "/waits" {
                    nap(WHILE).await;
                }
                Response::text(HELLO)
            }
        });
        let mut client = server.connect();
        client.send(get("/waits"));
        client.half_close();
        let response = client.try_response();
        let has_text = matches!(&response, Ok(Some(response)) if response.text() == HELLO);
        assert_eq!(has_text, is_served, "{half_close:?}: {response:?}");
        // A call that does not wait finishes with either setting.
        let mut client = server.connect();
        client.send(GET);
        client.half_close();
        assert_eq!(client.response().text(), HELLO);
        client.expect_fin();
        server.stop();
    }
}

/// If a half-close drops a call, the responses to earlier requests are still sent, even if the
/// worker receives both requests and the half-close in one turn.
#[test]
fn a_half_close_that_drops_a_call_keeps_earlier_responses() {
    let mut limits = Limits::default();
    limits.half_close = HalfClose::End;
    let server = Local::start_within(limits, || {
        async |request: Request| {
            match request.path() {
                "/blocks" => thread::sleep(WHILE),
                "/waits" => pending().await,
                _ => {}
            }
            Response::text(HELLO)
        }
    });
    let mut blocking = server.connect();
    blocking.send(get("/blocks"));
    let mut client = server.connect();
    client.send(GET.to_owned() + &get("/waits"));
    client.half_close();
    assert_eq!(client.response().text(), HELLO);
    client.expect_fin();
    assert_eq!(blocking.response().text(), HELLO);
    server.stop();
}

/// The server has sent half of the response and waits for the rest of its body.
#[test]
fn a_reset_is_noticed_while_a_response_waits_for_its_body() {
    let server = Local::start(|| {
        let stored: Rc<RefCell<Option<Body>>> = Rc::default();
        async move |request: Request| {
            if request.method() == "GET" {
                return Response::text(stored.take().expect("a stored body"));
            }
            *stored.borrow_mut() = Some(request.into_body());
            pending().await
        }
    });
    for half_closes in [false, true] {
        let put = head_with_length("PUT", "/", 10) + "hello";
        let from = callers(&server, 1, &put);
        let mut to = server.connect();
        to.send(GET);
        assert_eq!(to.head().field("content-length"), Some("10"));
        assert_eq!(to.take(5).expect("the first half"), b"hello");
        if half_closes {
            to.half_close();
            thread::sleep(WHILE);
        }
        assert_eq!(server.count("connections_open"), 2);
        to.reset();
        eventually("the end of the response", || {
            (server.count("connections_open") == 1).then_some(())
        });
        from.into_iter().for_each(Client::reset);
        eventually("the end of the request", || {
            (server.count("connections_open") == 0).then_some(())
        });
    }
    server.stop();
}
