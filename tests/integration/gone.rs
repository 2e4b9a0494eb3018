//! Clients that leave while their request is being handled: a reset always ends the call, and a
//! half-close does where the limit says so.

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use coring::{Body, HalfClose, Limits, Request, Response};

use crate::support::{Client, Folder, GET, HELLO, Local, builder, eventually, nap};

/// Long enough for a worker to take note of what a client did.
const WHILE: Duration = Duration::from_millis(300);

/// Counts the calls that have been dropped.
struct Call(Arc<AtomicUsize>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A server whose calls wait for ever, by a Unix socket if there is a `path`; and how many calls
/// were dropped.
fn waiting(half_close: HalfClose, path: Option<&str>) -> (Local, Arc<AtomicUsize>) {
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
            let _call = Call(count.clone());
            pending().await
        }
    });
    (server, dropped)
}

/// `count` clients whose calls wait.
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

/// All calls are dropped, and nothing is held for their connections any more.
#[track_caller]
fn all_are_gone(server: &Local, dropped: &AtomicUsize, count: usize) {
    eventually("the end of the calls", || {
        (dropped.load(Ordering::Relaxed) == count).then_some(())
    });
    eventually("the end of the connections", || {
        let held = ["connections_open", "blocks_in_use"].map(|name| server.count(name));
        (held == [0, 0]).then_some(())
    });
}

#[test]
fn a_reset_ends_a_call() {
    let (server, dropped) = waiting(HalfClose::Serve, None);
    for client in callers(&server, 50, GET) {
        client.reset();
    }
    all_are_gone(&server, &dropped, 50);
    assert_eq!(server.stop_and_count("closed_by_peer"), 50);
}

/// A coroutine that a service has spawned learns of it as well, whatever ends the call.
#[test]
fn others_are_told_that_a_client_has_gone() {
    let told: Arc<AtomicUsize> = Arc::default();
    let count = told.clone();
    let server = Local::start_with(builder(), move || {
        let count = count.clone();
        async move |request: Request| {
            let (gone, count) = (request.gone(), count.clone());
            coring::spawn(async move {
                gone.await;
                count.fetch_add(1, Ordering::Relaxed);
            });
            match request.path() {
                "/now" => Response::html(HELLO),
                _ => pending().await,
            }
        }
    });
    let are_told = |expected: usize| {
        eventually("all to be told", || {
            (told.load(Ordering::Relaxed) == expected).then_some(())
        });
    };
    let half_closed = callers(&server, 10, GET);
    half_closed.iter().for_each(Client::half_close);
    are_told(10);
    assert_eq!(
        server.count("connections_open"),
        10,
        "a half-close is no end"
    );
    callers(&server, 10, GET)
        .into_iter()
        .for_each(Client::reset);
    are_told(20);
    let mut clients = callers(&server, 10, &GET.replacen("/", "/now", 1));
    clients.iter_mut().for_each(|client| drop(client.answer()));
    assert_eq!(told.load(Ordering::Relaxed), 20, "they are still here");
    drop(clients);
    are_told(30);
    server.stop();
    assert_eq!(told.load(Ordering::Relaxed), 30);
}

#[test]
fn a_reset_after_a_half_close_ends_a_call() {
    let (server, dropped) = waiting(HalfClose::Serve, None);
    let clients = callers(&server, 50, GET);
    clients.iter().for_each(Client::half_close);
    thread::sleep(WHILE);
    assert_eq!(
        server.count("connections_open"),
        50,
        "a half-close is no end"
    );
    clients.into_iter().for_each(Client::reset);
    all_are_gone(&server, &dropped, 50);
    server.stop();
}

/// Behind more than a worker receives in advance.
#[test]
fn a_reset_behind_unread_requests_ends_a_call() {
    let (server, dropped) = waiting(HalfClose::Serve, None);
    let requests = GET.repeat(2_000);
    let clients = callers(&server, 5, &requests);
    thread::sleep(WHILE);
    assert_eq!(server.count("connections_open"), 5);
    clients.into_iter().for_each(Client::reset);
    all_are_gone(&server, &dropped, 5);
    server.stop();
}

#[test]
fn a_half_close_ends_a_call_where_it_shall() {
    let (server, dropped) = waiting(HalfClose::End, None);
    let clients = callers(&server, 25, GET);
    clients.iter().for_each(Client::half_close);
    all_are_gone(&server, &dropped, 25);
    // A close of the whole socket is the same to us.
    drop(callers(&server, 25, GET));
    all_are_gone(&server, &dropped, 50);
    // And behind more than is received in advance.
    let clients = callers(&server, 5, &GET.repeat(2_000));
    thread::sleep(WHILE);
    clients.iter().for_each(Client::half_close);
    all_are_gone(&server, &dropped, 55);
    assert_eq!(server.stop_and_count("closed_by_peer"), 55);
}

/// The other end of a Unix socket is seen to be closed, which a half-close is not.
#[test]
fn a_close_of_a_unix_socket_ends_a_call() {
    let folder = Folder::new();
    let path = format!("unix:{}", folder.file("socket"));
    let (server, dropped) = waiting(HalfClose::Serve, Some(&path));
    drop(callers(&server, 25, GET));
    all_are_gone(&server, &dropped, 25);
    let clients = callers(&server, 25, GET);
    clients.iter().for_each(Client::half_close);
    thread::sleep(WHILE);
    assert_eq!(
        server.count("connections_open"),
        25,
        "a half-close is no end"
    );
    drop(clients);
    all_are_gone(&server, &dropped, 50);
    server.stop();
}

#[test]
fn a_half_closed_client_is_answered_where_it_shall() {
    let limits = |half_close| {
        let mut limits = Limits::default();
        limits.half_close = half_close;
        limits
    };
    for (half_close, is_answered) in [(HalfClose::Serve, true), (HalfClose::End, false)] {
        let server = Local::start_within(limits(half_close), || {
            async |request: Request| {
                if request.path() == "/waits" {
                    nap(WHILE).await;
                }
                Response::text(HELLO)
            }
        });
        let mut client = server.connect();
        client.send("GET /waits HTTP/1.1\r\nHost: a\r\n\r\n");
        client.half_close();
        let answer = client.try_answer();
        let has_text = matches!(&answer, Ok(Some(answer)) if answer.text() == HELLO);
        assert_eq!(has_text, is_answered, "{half_close:?}: {answer:?}");
        // A call that does not wait is answered in any case.
        let mut client = server.connect();
        client.send(GET);
        client.half_close();
        assert_eq!(client.answer().text(), HELLO);
        client.ends();
        server.stop();
    }
}

/// A half-close that ends a call takes no answer to an earlier request with it, also where the
/// worker learns of both requests and the half-close at once.
#[test]
fn a_half_close_that_ends_a_call_leaves_earlier_answers_whole() {
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
    blocking.send("GET /blocks HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut client = server.connect();
    client.send(format!("{GET}GET /waits HTTP/1.1\r\nHost: a\r\n\r\n"));
    client.half_close();
    assert_eq!(client.answer().text(), HELLO);
    client.ends();
    assert_eq!(blocking.answer().text(), HELLO);
    server.stop();
}

/// The answer's body waits, half of it sent.
#[test]
fn a_reset_is_noticed_while_an_answer_flows() {
    let server = Local::start(|| {
        let left: Rc<std::cell::RefCell<Option<Body>>> = Rc::default();
        async move |request: Request| {
            if request.method() == "GET" {
                return Response::text(left.take().expect("a body was left"));
            }
            *left.borrow_mut() = Some(request.into_body());
            pending().await
        }
    });
    for half_closes in [false, true] {
        let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello";
        let from = callers(&server, 1, put);
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
        eventually("the end of the answer", || {
            (server.count("connections_open") == 1).then_some(())
        });
        from.into_iter().for_each(Client::reset);
        eventually("the end of the request", || {
            (server.count("connections_open") == 0).then_some(())
        });
    }
    server.stop();
}
