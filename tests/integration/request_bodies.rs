//! Request bodies in services: a service may read a body in parts, stop reading, return it as a
//! response body, or give it to another request or task. Neither side waits for ever.

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use coring::fs::{Entry, Root};
use coring::task::{JoinHandle, yield_now};
use coring::{Body, BodyError, EngineChoice, Limits, Part, Request, Response, Server};
use futures_core::Stream;

use crate::support::{
    GET, GET_HTTP_1_0, Local, TempDir, eventually, head_with_chunks, head_with_length, nap, noise,
    request, request_with_body,
};

/// A server that relays a body between two requests: `PUT` stores its body and waits, and `GET`
/// responds with the stored body. `PUT /fails` panics after it has stored the body.
fn relay() -> Local {
    Local::start(|| {
        let stored: Rc<RefCell<Option<Body>>> = Rc::default();
        async move |request: Request| {
            if request.method() == "GET" {
                let body = stored.take().expect("a stored body");
                return Response::text(body);
            }
            let fails = request.path() == "/fails";
            *stored.borrow_mut() = Some(request.into_body());
            assert!(!fails, "planted");
            pending().await
        }
    })
}

#[test]
fn a_body_can_be_the_response_to_another_request() {
    let server = relay();
    let mut from = server.connect();
    from.send(head_with_length("PUT", "/", 10) + "hello");
    eventually("the call", || (server.count("requests") == 1).then_some(()));
    let mut to = server.connect();
    to.send(GET);
    assert_eq!(to.head().field("content-length"), Some("10"));
    assert_eq!(to.take(5).expect("the first half"), b"hello");
    from.send("world");
    assert_eq!(to.take(5).expect("the second half"), b"world");
    server.stop();
}

/// If a request body cannot arrive whole, the response that relays it is cut short, too.
#[test]
fn a_relayed_body_is_cut_short_when_its_request_fails() {
    let server = relay();
    for (path, rest) in [
        ("/", Some("no chunk\r\n")),
        ("/", None),
        ("/fails", Some("")),
    ] {
        let calls = server.count("requests") + 1;
        let mut from = server.connect();
        from.send(head_with_chunks("PUT", path));
        eventually("the call", || {
            (server.count("requests") == calls).then_some(())
        });
        if path == "/fails" {
            assert_eq!(from.response().status, 500);
        }
        let mut to = server.connect();
        to.send(GET);
        assert_eq!(to.head().status, 200, "{path} {rest:?}");
        match rest {
            Some(rest) => drop(from.try_send(rest)),
            None => from.reset(),
        }
        assert_eq!(to.expect_fin_or_reset(), b"", "there must be no last chunk");
    }
    server.stop();
}

/// A response without length or chunks ends with the connection (HTTP/1.0). A FIN means that it is
/// complete, so a failure must reset the connection.
#[test]
fn a_failed_response_that_ends_with_the_connection_is_reset() {
    let put = head_with_chunks("PUT", "/");
    for is_whole in [true, false] {
        let server = relay();
        let mut from = server.connect();
        from.send(format!("{put}5\r\nhello\r\n"));
        eventually("the call", || (server.count("requests") == 1).then_some(()));
        let mut to = server.connect();
        to.send(GET_HTTP_1_0);
        assert_eq!(to.head().field("content-length"), None);
        assert_eq!(to.take(5).expect("the first part"), b"hello");
        from.send(if is_whole {
            "0\r\n\r\n"
        } else {
            "no chunk\r\n"
        });
        // A FIN if the relayed body is whole, a reset if not.
        match to.rest() {
            Ok(rest) => assert_eq!((is_whole, &rest[..]), (true, &b""[..])),
            Err(error) => {
                assert_eq!(
                    (is_whole, error.kind()),
                    (false, ErrorKind::ConnectionReset)
                );
            }
        }
        server.stop();
    }
}

/// The same if the server stops before the response is complete.
#[test]
fn a_stop_resets_a_response_that_ends_with_the_connection() {
    let server = relay();
    let mut from = server.connect();
    from.send(head_with_chunks("PUT", "/"));
    eventually("the call", || (server.count("requests") == 1).then_some(()));
    let mut to = server.connect();
    to.send(GET_HTTP_1_0);
    assert_eq!(to.head().status, 200);
    server.stop();
    let error = to.rest().expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn the_unread_rest_of_a_body_can_be_the_response() {
    let server = Local::start(|| {
        async |mut request: Request| {
            let first = request.body().part().await.expect("a part");
            assert_eq!(first.as_deref(), Some(&b"hello"[..]));
            assert!(request.body().length().is_none_or(|length| length == 5));
            Response::text(request.into_body())
        }
    });
    let mut client = server.connect();
    for (responses, (framing, first, second)) in (1..).zip([
        ("Content-Length: 10", "hello", "world"),
        (
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n",
            "5\r\nworld\r\n0\r\n\r\n",
        ),
    ]) {
        client.send(request("POST", "/", &[framing]) + first);
        eventually("the first half", || {
            (server.count("responses_2xx") == responses).then_some(())
        });
        client.send(second);
        assert_eq!(client.response().text(), "world", "{framing}");
    }
    server.stop();
}

#[test]
fn a_service_can_limit_the_size_of_a_body() {
    let server = Local::start(|| {
        async |mut request: Request| match request.body().read(4).await {
            Err(error @ BodyError::TooLarge) => Response::text(error.to_string()),
            other => Response::text(format!("{other:?}")),
        }
    });
    let mut client = server.connect();
    client.send(request_with_body("POST", "/", "body"));
    assert_eq!(client.response().text(), "Ok([98, 111, 100, 121])");
    client.send(request_with_body("POST", "/", "large"));
    assert_eq!(
        client.response().text(),
        "the body is larger than the limit of its reader"
    );
    server.stop();
}

/// The body timeout runs only while the service waits for the body.
#[test]
fn a_service_may_stop_waiting_for_a_body() {
    let mut limits = Limits::default();
    limits.body_timeout = Some(Duration::from_millis(300));
    let server = Local::start_within(limits, || {
        async |mut request: Request| {
            {
                let mut part = pin!(request.body().part());
                let mut timeout = pin!(nap(Duration::from_millis(100)));
                let first = poll_fn(|context| match part.as_mut().poll(context) {
                    Poll::Ready(part) => Poll::Ready(Some(part)),
                    Poll::Pending => timeout.as_mut().poll(context).map(|()| None),
                });
                assert!(first.await.is_none(), "the client sent nothing");
            }
            nap(Duration::from_millis(1000)).await;
            Response::text("without the body")
        }
    });
    let started = Instant::now();
    let mut client = server.connect();
    client.send(head_with_length("POST", "/", 5));
    assert_eq!(client.response().text(), "without the body");
    assert!(started.elapsed() >= Duration::from_millis(1100));
    server.stop();
}

/// The same if a spawned task reads the body, and then keeps or drops it.
#[test]
fn a_spawned_task_may_stop_waiting_for_a_body() {
    let mut limits = Limits::default();
    limits.body_timeout = Some(Duration::from_millis(1000));
    let server = Local::start_within(limits, || {
        async |request: Request| {
            let keeps_the_body = request.path() == "/keeps";
            let mut body = request.into_body();
            let reader = coring::spawn(async move {
                let timeout = Duration::from_millis(200);
                if keeps_the_body {
                    let part = coring::time::timeout(timeout, body.part()).await;
                    assert!(part.is_err(), "the client sent nothing");
                } else {
                    // Poll directly, so that no future is dropped before the body itself.
                    let part = poll_fn(|context| Poll::Ready(body.poll_part(context)));
                    assert!(part.await.is_pending(), "the client sent nothing");
                    body = Body::empty();
                }
                coring::time::sleep(Duration::from_millis(2000)).await;
                body.read(1000).await
            });
            Response::text(format!("{:?}", reader.await.expect("a reader")))
        }
    });
    let mut client = server.connect();
    client.send(head_with_length("POST", "/", 1));
    assert_eq!(client.response().text(), "Ok([])");
    client.send(format!("x{}", head_with_length("POST", "/keeps", 1)));
    thread::sleep(Duration::from_millis(2500));
    client.send("a");
    assert_eq!(client.response().text(), "Ok([97])");
    server.stop();
}

/// A task reads the body of a PUT or POST, which gets its response at once. The next GET gets what
/// the task has read.
fn with_spawned_reader() -> Local {
    Local::start(|| {
        let reader = Rc::new(RefCell::new(None));
        async move |request: Request| {
            if request.method() == "GET" {
                let reader: JoinHandle<_> = reader.take().expect("a spawned reader");
                return Response::text(format!("{:?}", reader.await.expect("no panic")));
            }
            let mut body = request.into_body();
            *reader.borrow_mut() = Some(coring::spawn(async move { body.read(1000).await }));
            Response::text("at once")
        }
    })
}

/// The response is sent before the reading task first runs. The server then stops receiving the
/// body, but the task still gets the bytes that arrived with the request.
#[test]
fn a_spawned_task_gets_a_body_that_arrived_before_the_response() {
    let server = with_spawned_reader();
    let mut client = server.connect();
    for (framing, body) in [
        ("Content-Length: 2", "ab"),
        ("Transfer-Encoding: chunked", "2\r\nab\r\n0\r\n\r\n"),
    ] {
        client.send(request("PUT", "/", &[framing]) + body);
        assert_eq!(client.response().text(), "at once");
        client.send(GET);
        assert_eq!(client.response().text(), "Ok([97, 98])", "{framing}");
    }
    server.stop();
}

/// A client that expects `100 Continue` receives it before the response if anything still holds the
/// body: after the head of the response it would be too late. Whether the reader has already run
/// does not matter.
#[test]
fn a_client_that_expects_continue_receives_it_if_the_body_has_a_reader() {
    let server = Local::start(|| {
        async |mut request: Request| {
            let turns = request.path()["/".len()..].parse().expect("a number");
            let (mut sender, body) = Body::channel(1 << 14);
            coring::spawn(async move {
                while let Some(part) = request.body().part().await.expect("the body") {
                    sender.write(part).await.expect("the client");
                }
                sender.finish();
            });
            for _ in 0..turns {
                yield_now().await;
            }
            Response::text(body)
        }
    });
    let mut client = server.connect();
    for turns in 0..4 {
        let fields = ["Expect: 100-continue", "Content-Length: 5"];
        client.send(request("POST", &format!("/{turns}"), &fields));
        assert_eq!(client.head().status, 100, "after {turns} turns");
        assert_eq!(client.head().status, 200);
        client.send("hello");
        assert_eq!(client.chunk().expect("the body"), b"hello");
        assert_eq!(client.chunk().expect("the last chunk"), b"");
    }
    server.stop();
}

/// A response body that is made from a request's.
struct Made(Body);

impl Stream for Made {
    type Item = Result<Part, BodyError>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Part, BodyError>>> {
        self.get_mut().0.poll_part(context).map(Result::transpose)
    }
}

/// The same for a reader in the response's own body, which the connection polls after the head.
#[test]
fn a_client_that_expects_continue_receives_it_if_the_response_is_made_from_the_body() {
    let server = Local::start(|| {
        async |request: Request| Response::text(Body::from_stream(Made(request.into_body())))
    });
    let mut client = server.connect();
    let fields = ["Expect: 100-continue", "Content-Length: 5"];
    client.send(request("POST", "/", &fields));
    assert_eq!(client.head().status, 100);
    assert_eq!(client.head().status, 200);
    client.send("hello");
    assert_eq!(client.chunk().expect("the body"), b"hello");
    assert_eq!(client.chunk().expect("the last chunk"), b"");
    server.stop();
}

/// A client that expects `100 Continue` and receives the final response instead, because the
/// service has dropped the body, need not send it. So the connection closes.
#[test]
fn a_final_response_instead_of_continue_closes_the_connection() {
    let server = Local::start(|| async |_: Request| Response::text("refused"));
    let mut client = server.connect();
    let fields = ["Expect: 100-continue", "Content-Length: 1"];
    client.send(request("POST", "/", &fields));
    let response = client.response();
    assert_eq!((response.status, response.closes()), (200, true));
    client.expect_fin();
    server.stop();
}

/// If a client does not send the body that a task reads, the timeout of the body concerns only the
/// task. The response continues.
#[test]
fn the_timeout_of_a_body_that_a_task_reads_does_not_cut_the_response() {
    let mut limits = Limits::default();
    limits.body_timeout = Some(Duration::from_millis(1000));
    limits.bytes_per_second_min = None;
    let server = Local::start_within(limits, || {
        let stored: Rc<RefCell<Option<Body>>> = Rc::default();
        async move |request: Request| {
            let is_put = request.method() == "PUT";
            let mut body = request.into_body();
            if is_put {
                *stored.borrow_mut() = Some(body);
                return pending().await;
            }
            coring::spawn(async move { body.read(1000).await });
            Response::text(stored.take().expect("a stored body"))
        }
    });
    let mut from = server.connect();
    from.send(head_with_chunks("PUT", "/"));
    eventually("the call", || (server.count("requests") == 1).then_some(()));
    let mut to = server.connect();
    let fields = ["Expect: 100-continue", "Content-Length: 1"];
    to.send(request("POST", "/", &fields));
    assert_eq!(to.head().status, 100);
    assert_eq!(to.head().status, 200);
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(100));
        from.send("1\r\na\r\n");
        assert_eq!(to.chunk().expect("the relayed chunk"), b"a");
    }
    from.send("0\r\n\r\n");
    assert_eq!(to.chunk().expect("the last chunk"), b"");
    to.expect_fin();
    server.stop();
}

/// Two connections, each of which responds with the other's request body, must not keep the
/// worker busy while neither body arrives.
#[test]
fn two_requests_may_respond_with_each_others_bodies() {
    let server = Local::start(|| {
        let stored: Rc<RefCell<[Option<Body>; 2]>> = Rc::default();
        async move |request: Request| {
            let mine = usize::from(request.path() == "/b");
            stored.borrow_mut()[mine] = Some(request.into_body());
            loop {
                let theirs = stored.borrow_mut()[1 - mine].take();
                match theirs {
                    Some(body) => return Response::text(body),
                    None => coring::time::sleep(Duration::from_millis(10)).await,
                }
            }
        }
    });
    let ask = |path| {
        let mut client = server.connect();
        client.send(head_with_length("POST", path, 4));
        client
    };
    let (mut a, mut b) = (ask("/a"), ask("/b"));
    assert_eq!((a.head().status, b.head().status), (200, 200));
    let before = server.count("task_polls");
    thread::sleep(Duration::from_millis(500));
    let polls = server.count("task_polls") - before;
    assert!(polls < 50, "{polls} polls although nothing arrived");
    a.send("aa");
    b.send("bb");
    assert_eq!(a.take(2).expect("half of b's"), b"bb");
    assert_eq!(b.take(2).expect("half of a's"), b"aa");
    drop((a, b));
    server.stop();
}

/// Echoing a part polls the connection's task once, not twice. Tested on epoll, where a send
/// completes at once and does not wake the task.
#[test]
fn echoing_a_part_polls_the_connection_once() {
    let builder = Server::builder()
        .engine(EngineChoice::Epoll)
        .bind("127.0.0.1:0");
    let server = Local::of(
        builder
            .cores(1)
            .start(|| async |request: Request| Response::text(request.into_body())),
    );
    let mut client = server.connect();
    client.send(head_with_length("POST", "/", 100));
    assert_eq!(client.head().status, 200);
    let before = server.count("task_polls");
    for _ in 0..100 {
        client.send("x");
        assert_eq!(client.take(1).expect("the echo"), b"x");
    }
    let polls = server.count("task_polls") - before;
    assert!(polls <= 110, "{polls} polls for 100 parts");
    server.stop();
}

/// The body bytes that have arrived are decoded before the response begins. So a malformed chunk
/// among them is answered with 400, not with a 200 that is cut short.
#[test]
fn a_malformed_chunk_that_has_arrived_is_answered_with_400() {
    let server = Local::start(|| {
        async |request: Request| {
            if request.path() == "/later" {
                nap(Duration::from_secs(2)).await;
            }
            Response::text(request.into_body())
        }
    });
    for body in ["0x5\r\nhello", "5\r\nhello, ", "0\r\nno trailer\r\n"] {
        let mut with_head = server.connect();
        with_head.send(head_with_chunks("POST", "/") + body);
        let mut after_head = server.connect();
        let calls = server.count("requests");
        after_head.send(head_with_chunks("POST", "/later"));
        eventually("the call", || {
            (server.count("requests") > calls).then_some(())
        });
        after_head.send(body);
        for client in [&mut with_head, &mut after_head] {
            let response = client.response();
            assert_eq!(
                (response.status, response.closes()),
                (400, true),
                "{body:?}"
            );
            client.expect_fin();
        }
    }
    server.stop();
}

/// A task reads the request's body, and the response does not need it. A fault that has arrived
/// with the head goes to the task, like one that arrives later; the response is sent.
#[test]
fn a_fault_that_came_with_the_head_goes_to_the_task_that_reads_the_body() {
    let server = with_spawned_reader();
    let trailers = "a: b\r\n".repeat(1000);
    for body in [
        "no chunk\r\n".to_owned(),
        "3\r\nabc\r\nno chunk\r\n".to_owned(),
        "0\r\nno trailer\r\n".to_owned(),
        format!("0\r\n{trailers}\r\n"),
    ] {
        let mut client = server.connect();
        client.send(head_with_chunks("POST", "/") + &body);
        let response = client.response();
        assert_eq!((response.status, response.closes()), (200, true), "{body}");
        assert_eq!(response.text(), "at once");
        client.expect_fin();
        let mut other = server.connect();
        other.send(GET);
        assert_eq!(other.response().text(), "Err(Incomplete)", "{body}");
    }
    server.stop();
}

/// A task reads the request body while the response sends a file. An error in the body goes to the
/// task; the download still completes.
#[test]
fn an_error_in_a_body_that_a_task_reads_does_not_cut_the_response() {
    let directory = TempDir::new();
    let content = noise(16 << 20);
    directory.write("large", &content);
    let root = Root::open(directory.path()).expect("a directory");
    let mut limits = Limits::default();
    limits.body_timeout = Some(Duration::from_millis(1000));
    let server = Local::start_within(limits, move || {
        let root = root.clone();
        let reader = Rc::new(RefCell::new(None));
        async move |request: Request| {
            if request.method() == "GET" {
                let reader: JoinHandle<_> = reader.take().expect("a spawned reader");
                return Response::text(format!("{:?}", reader.await.expect("no panic")));
            }
            let Ok(Entry::File(file)) = root.open_file("large").await else {
                panic!("the file cannot be opened");
            };
            let len = file.metadata().len();
            let mut body = request.into_body();
            *reader.borrow_mut() = Some(coring::spawn(async move { body.read(1000).await }));
            Response::text(Body::file(file, 0..len))
        }
    });
    let post = head_with_chunks("POST", "/") + "3\r\nabc\r\n";
    for (rest, outcome) in [
        ("", "Err(Incomplete)"),
        ("no chunk\r\n", "Err(Incomplete)"),
        ("0\r\n\r\n", "Ok([97, 98, 99])"),
    ] {
        let mut client = server.connect();
        client.set_receive_buffer(64 << 10);
        client.send(&post);
        assert_eq!(client.head().status, 200);
        client.send(rest);
        thread::sleep(Duration::from_millis(2500));
        assert!(client.take(content.len()).expect("the whole file") == content);
        let mut other = server.connect();
        other.send(GET);
        assert_eq!(other.response().text(), outcome, "{rest:?}");
        if outcome.starts_with("Err") {
            client.expect_fin();
        }
    }
    server.stop();
}

/// A received part lies in the worker's buffers. `into_bytes` makes it `Send`.
#[test]
fn a_part_can_be_sent_to_another_thread_as_bytes() {
    let server = Local::start(|| {
        async |mut request: Request| {
            let mut sum = 0;
            while let Some(part) = request.body().part().await.expect("a whole body") {
                let bytes = part.into_bytes();
                let added =
                    coring::task::blocking(move || bytes.iter().map(|&b| u64::from(b)).sum());
                let added: u64 = added.await.expect("no panic");
                sum += added;
            }
            Response::text(sum.to_string())
        }
    });
    let body = noise(100_000);
    let sum: u64 = body.iter().map(|&byte| u64::from(byte)).sum();
    let mut client = server.connect();
    client.send(head_with_length("POST", "/", body.len()));
    client.send(&body);
    assert_eq!(client.response().text(), sum.to_string());
    server.stop();
}
