//! What services may do with bodies: read them by parts, stop reading, pass them on, keep them for
//! another request. The client's side is told the truth, and nobody waits for ever.

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::io::ErrorKind;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use coring::fs::{Entry, Root};
use coring::task::JoinHandle;
use coring::{Body, BodyError, EngineChoice, Limits, Request, Response, Server};

use crate::support::{Folder, GET, Local, eventually, nap, noise};

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

/// The end of a connection is the end of such an answer, so that it must be told from a failure.
#[test]
fn an_answer_until_the_close_is_cut_by_a_reset() {
    let put = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for is_whole in [true, false] {
        let server = relay();
        let mut from = server.connect();
        from.send(format!("{put}5\r\nhello\r\n"));
        eventually("the call", || (server.count("requests") == 1).then_some(()));
        let mut to = server.connect();
        to.send("GET / HTTP/1.0\r\n\r\n");
        assert_eq!(to.head().field("content-length"), None);
        assert_eq!(to.take(5).expect("the first part"), b"hello");
        from.send(if is_whole {
            "0\r\n\r\n"
        } else {
            "no chunk\r\n"
        });
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

/// The server's own end is no end of such an answer either.
#[test]
fn an_answer_until_the_close_is_cut_by_a_stop() {
    let server = relay();
    let mut from = server.connect();
    from.send("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    eventually("the call", || (server.count("requests") == 1).then_some(()));
    let mut to = server.connect();
    to.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(to.head().status, 200);
    server.stop();
    let error = to.rest().expect_err("no end in order");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn what_is_left_of_a_body_can_be_passed_on() {
    let server = Local::start(|| {
        async |mut request: Request| {
            let first = request.body().part().await.expect("a part");
            assert_eq!(first.as_deref(), Some(&b"hello"[..]));
            assert!(request.body().length().is_none_or(|length| length == 5));
            Response::text(request.into_body())
        }
    });
    let mut client = server.connect();
    for (answers, (framing, first, second)) in (1..).zip([
        ("Content-Length: 10", "hello", "world"),
        (
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n",
            "5\r\nworld\r\n0\r\n\r\n",
        ),
    ]) {
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{first}"
        ));
        eventually("the first half", || {
            (server.count("responses_2xx") == answers).then_some(())
        });
        client.send(second);
        assert_eq!(client.answer().text(), "world", "{framing}");
    }
    server.stop();
}

#[test]
fn a_body_may_be_too_large_for_its_reader() {
    let server = Local::start(|| {
        async |mut request: Request| match request.body().read(4).await {
            Err(error @ BodyError::TooLarge) => Response::text(error.to_string()),
            other => Response::text(format!("{other:?}")),
        }
    });
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(client.answer().text(), "Ok([98, 111, 100, 121])");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nlarge");
    assert_eq!(
        client.answer().text(),
        "the body is larger than its reader wants"
    );
    server.stop();
}

/// Only who waits for a body holds its client to the deadline.
#[test]
fn a_reader_may_give_up() {
    let mut limits = Limits::default();
    limits.body_timeout = Some(Duration::from_millis(300));
    let server = Local::start_within(limits, || {
        async |mut request: Request| {
            {
                let mut part = pin!(request.body().part());
                let mut patience = pin!(nap(Duration::from_millis(100)));
                let first = poll_fn(|context| match part.as_mut().poll(context) {
                    Poll::Ready(part) => Poll::Ready(Some(part)),
                    Poll::Pending => patience.as_mut().poll(context).map(|()| None),
                });
                assert!(first.await.is_none(), "nothing was sent");
            }
            nap(Duration::from_millis(1000)).await;
            Response::text("without the body")
        }
    });
    let started = Instant::now();
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.answer().text(), "without the body");
    assert!(started.elapsed() >= Duration::from_millis(1100));
    server.stop();
}

/// The same where a coroutine of its own reads, and keeps the body or lets go of it.
#[test]
fn a_reader_elsewhere_may_give_up() {
    let mut limits = Limits::default();
    limits.body_timeout = Some(Duration::from_millis(1000));
    let server = Local::start_within(limits, || {
        async |request: Request| {
            let comes_back = request.path() == "/comes/back";
            let mut body = request.into_body();
            let reader = coring::spawn(async move {
                let patience = Duration::from_millis(200);
                if comes_back {
                    let part = coring::time::timeout(patience, body.part()).await;
                    assert!(part.is_err(), "nothing was sent");
                } else {
                    // By hand, so that nothing but the body itself is dropped.
                    let part = poll_fn(|context| Poll::Ready(body.poll_part(context)));
                    assert!(part.await.is_pending(), "nothing was sent");
                    body = Body::empty();
                }
                coring::time::sleep(Duration::from_millis(2000)).await;
                body.read(1000).await
            });
            Response::text(format!("{:?}", reader.await.expect("a reader")))
        }
    });
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
    assert_eq!(client.answer().text(), "Ok([])");
    client.send("xPOST /comes/back HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
    thread::sleep(Duration::from_millis(2500));
    client.send("a");
    assert_eq!(client.answer().text(), "Ok([97])");
    server.stop();
}

/// The answer is out before its reader's first turn, and ends what is received.
#[test]
fn a_reader_elsewhere_gets_what_came_before_the_answer() {
    let server = Local::start(|| {
        let reader = Rc::new(RefCell::new(None));
        async move |request: Request| {
            if request.method() == "GET" {
                let reader: JoinHandle<_> = reader.take().expect("a body was sent");
                return Response::text(format!("{:?}", reader.await.expect("a reader")));
            }
            let mut body = request.into_body();
            *reader.borrow_mut() = Some(coring::spawn(async move { body.read(1000).await }));
            Response::text("at once")
        }
    });
    let mut client = server.connect();
    for (framing, body) in [
        ("Content-Length: 2", "ab"),
        ("Transfer-Encoding: chunked", "2\r\nab\r\n0\r\n\r\n"),
    ] {
        client.send(format!(
            "PUT / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"
        ));
        assert_eq!(client.answer().text(), "at once");
        client.send(GET);
        assert_eq!(client.answer().text(), "Ok([97, 98])", "{framing}");
    }
    server.stop();
}

/// Who waits to be told to go on and is given the answer instead need not send the body: whoever
/// reads it elsewhere does not hold the client to a deadline.
#[test]
fn an_answer_in_place_of_a_continue_ends_the_body() {
    let mut limits = Limits::default();
    limits.body_timeout = Some(Duration::from_millis(1000));
    limits.bytes_per_second_min = None;
    let server = Local::start_within(limits, || {
        let left: Rc<RefCell<Option<Body>>> = Rc::default();
        async move |request: Request| {
            let is_left = request.method() == "PUT";
            let mut body = request.into_body();
            if is_left {
                *left.borrow_mut() = Some(body);
                return pending().await;
            }
            coring::spawn(async move { body.read(1000).await });
            Response::text(left.take().expect("a body was left"))
        }
    });
    let mut from = server.connect();
    from.send("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    eventually("the call", || (server.count("requests") == 1).then_some(()));
    let mut to = server.connect();
    let expects = "Expect: 100-continue\r\nContent-Length: 1";
    to.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{expects}\r\n\r\n"));
    let head = to.head();
    assert_eq!(head.status, 200);
    assert!(head.closes(), "{}", head.head);
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(100));
        from.send("1\r\na\r\n");
        assert_eq!(to.chunk().expect("what was sent"), b"a");
    }
    from.send("0\r\n\r\n");
    assert_eq!(to.chunk().expect("the last chunk"), b"");
    to.ends();
    server.stop();
}

/// Two connections whose answers are each other's bodies wait, and do nothing else.
#[test]
fn bodies_may_be_passed_on_crosswise() {
    let server = Local::start(|| {
        let left: Rc<RefCell<[Option<Body>; 2]>> = Rc::default();
        async move |request: Request| {
            let mine = usize::from(request.path() == "/b");
            left.borrow_mut()[mine] = Some(request.into_body());
            loop {
                let theirs = left.borrow_mut()[1 - mine].take();
                match theirs {
                    Some(body) => return Response::text(body),
                    None => coring::time::sleep(Duration::from_millis(10)).await,
                }
            }
        }
    });
    let ask = |path| {
        let mut client = server.connect();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
        ));
        client
    };
    let (mut a, mut b) = (ask("/a"), ask("/b"));
    assert_eq!((a.head().status, b.head().status), (200, 200));
    let before = server.count("task_polls");
    thread::sleep(Duration::from_millis(500));
    let turns = server.count("task_polls") - before;
    assert!(turns < 50, "{turns} turns for nothing");
    a.send("aa");
    b.send("bb");
    assert_eq!(a.take(2).expect("half of b's"), b"bb");
    assert_eq!(b.take(2).expect("half of a's"), b"aa");
    drop((a, b));
    server.stop();
}

/// A part that arrives is one turn of its connection, not two. Seen with epoll, which does not wait
/// for the end of a send.
#[test]
fn a_part_costs_one_turn() {
    let builder = Server::builder().engine(EngineChoice::Epoll);
    let server = Local::start_with(builder, || {
        async |request: Request| Response::text(request.into_body())
    });
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n");
    assert_eq!(client.head().status, 200);
    let before = server.count("task_polls");
    for _ in 0..100 {
        client.send("x");
        assert_eq!(client.take(1).expect("the echo"), b"x");
    }
    let turns = server.count("task_polls") - before;
    assert!(turns <= 110, "{turns} turns for 100 parts");
    server.stop();
}

/// The bytes of the body that have arrived are decoded before the answer begins, so that an error
/// in them is answered with its status, and not with a 200 that is cut.
#[test]
fn an_error_in_what_has_arrived_of_a_body_is_the_answer() {
    let server = Local::start(|| {
        async |request: Request| {
            if request.path() == "/later" {
                nap(Duration::from_millis(500)).await;
            }
            Response::text(request.into_body())
        }
    });
    let head =
        |path| format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for body in ["0x5\r\nhello", "5\r\nhello, ", "0\r\nno trailer\r\n"] {
        let mut together = server.connect();
        together.send(format!("{}{body}", head("/")));
        let mut apart = server.connect();
        let calls = server.count("requests");
        apart.send(head("/later"));
        eventually("the call", || {
            (server.count("requests") > calls).then_some(())
        });
        apart.send(body);
        for client in [&mut together, &mut apart] {
            let answer = client.answer();
            assert_eq!((answer.status, answer.closes()), (400, true), "{body:?}");
            client.ends();
        }
    }
    server.stop();
}

/// A task reads the request's body while a file is sent as the answer. Whatever happens to the
/// body concerns its reader: the download goes on to its end.
#[test]
fn an_answer_outlives_the_body_that_another_task_reads() {
    let folder = Folder::new();
    let content = noise(16 << 20);
    folder.write("large", &content);
    let root = Root::open(folder.path()).expect("a folder");
    let mut limits = Limits::default();
    limits.body_timeout = Some(Duration::from_millis(1000));
    let server = Local::start_within(limits, move || {
        let root = root.clone();
        let reader = Rc::new(RefCell::new(None));
        async move |request: Request| {
            if request.method() == "GET" {
                let reader: JoinHandle<_> = reader.take().expect("a body was sent");
                return Response::text(format!("{:?}", reader.await.expect("a reader")));
            }
            let Ok(Entry::File(file)) = root.open_file("large").await else {
                panic!("the file is gone");
            };
            let len = file.metadata().len();
            let mut body = request.into_body();
            *reader.borrow_mut() = Some(coring::spawn(async move { body.read(1000).await }));
            Response::text(Body::file(file, 0..len))
        }
    });
    let post = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    for (rest, outcome) in [
        ("", "Err(Incomplete)"),
        ("no chunk\r\n", "Err(Incomplete)"),
        ("0\r\n\r\n", "Ok([97, 98, 99])"),
    ] {
        let mut client = server.connect();
        client.receive_at_most(64 << 10);
        client.send(post);
        assert_eq!(client.head().status, 200);
        client.send(rest);
        thread::sleep(Duration::from_millis(2500));
        assert!(client.take(content.len()).expect("the whole file") == content);
        let mut other = server.connect();
        other.send(GET);
        assert_eq!(other.answer().text(), outcome, "{rest:?}");
        if outcome.starts_with("Err") {
            client.ends();
        }
    }
    server.stop();
}

/// Received parts lie in memory of the worker; a thread is given them as bytes.
#[test]
fn parts_of_a_body_may_be_given_to_a_thread() {
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
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    client.send(&body);
    assert_eq!(client.answer().text(), sum.to_string());
    server.stop();
}
