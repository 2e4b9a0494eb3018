//! Response bodies that a task or a stream generates: each part is sent at once, the client can
//! tell the end of the body from a failure, and the writer learns that its client is gone.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use coring::{
    Body, BodySender, HalfClose, HeaderMap, HeaderValue, Limits, Method, Request, Response, spawn,
};
use futures_core::Stream;

use crate::support::{Client, Local, eventually, get, noise, request};

/// The capacity of the bodies' channels, in bytes.
const CAPACITY: usize = 16 << 10;

/// A server with one generated body at a time. `/body` and `/body/LENGTH` respond with it. Other
/// requests control its sender: `/write/TEXT`, `/finish`, `/trailers` and `/drop` respond with
/// `done`, or `gone` if the write fails because the client is gone. `/watch` spawns a task that
/// waits until the client is gone and then increments the returned counter.
fn writable(limits: Limits) -> (Local, Arc<AtomicUsize>) {
    let gone: Arc<AtomicUsize> = Arc::default();
    let count = gone.clone();
    let server = Local::start_within(limits, move || {
        let slot: Rc<RefCell<Option<BodySender>>> = Rc::default();
        let count = count.clone();
        async move |request: Request| {
            let path = request.path()[1..].to_owned();
            let (action, argument) = path.split_once('/').unwrap_or((&path, ""));
            if action == "body" {
                let (sender, body) = Body::channel(CAPACITY);
                *slot.borrow_mut() = Some(sender);
                return Response::text(match argument.parse() {
                    Ok(length) => body.with_length(length),
                    Err(_) => body,
                });
            }
            // The request for the body is on another connection and may arrive after this one.
            let mut sender = loop {
                if let Some(sender) = slot.take() {
                    break sender;
                }
                coring::time::sleep(Duration::from_millis(1)).await;
            };
            match action {
                "write" => {
                    let written = sender.write(argument.to_owned()).await;
                    *slot.borrow_mut() = Some(sender);
                    if written.is_err() {
                        return Response::text("gone");
                    }
                }
                "watch" => {
                    let count = count.clone();
                    spawn(async move {
                        sender.gone().await;
                        count.fetch_add(1, Ordering::Relaxed);
                    });
                }
                "finish" => sender.finish(),
                "trailers" => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("x-digest", HeaderValue::from_static("abc"));
                    trailers.insert("content-length", HeaderValue::from_static("7"));
                    sender.finish_with_trailers(trailers);
                }
                _ => drop(sender),
            }
            Response::text("done")
        }
    });
    (server, gone)
}

/// Sends a request that controls the sender of the body.
#[track_caller]
fn control(writer: &mut Client, action: &str) {
    writer.send(get(action));
    assert_eq!(writer.response().text(), "done", "{action}");
}

/// Waits until `count` connections have ended because of a failure of the service.
#[track_caller]
fn wait_for_failures(server: &Local, count: u64) {
    eventually("the number of failures", || {
        (server.count("closed_by_service") == count).then_some(())
    });
}

#[test]
fn the_head_and_each_part_are_sent_at_once() {
    let (server, _) = writable(Limits::default());
    let (mut reader, mut writer) = (server.connect(), server.connect());
    for _ in 0..2 {
        reader.send(get("/body"));
        let head = reader.head();
        assert_eq!(head.field("transfer-encoding"), Some("chunked"));
        assert_eq!(head.field("content-length"), None);
        for part in ["one", "two", "three"] {
            control(&mut writer, &format!("/write/{part}"));
            assert_eq!(reader.chunk().expect("a part"), part.as_bytes());
        }
        // An empty part does not end the body.
        control(&mut writer, "/write/");
        control(&mut writer, "/write/four");
        assert_eq!(reader.chunk().expect("a part"), b"four");
        control(&mut writer, "/finish");
        assert_eq!(reader.chunk().expect("the end"), b"");
    }
    assert_eq!(server.stop_and_count("closed_by_service"), 0);
}

#[test]
fn trailers_are_sent_only_after_a_chunked_body() {
    let (server, _) = writable(Limits::default());
    let (mut reader, mut writer) = (server.connect(), server.connect());
    for part in ["", "part"] {
        reader.send(get("/body"));
        assert_eq!(reader.head().field("transfer-encoding"), Some("chunked"));
        control(&mut writer, &format!("/write/{part}"));
        if !part.is_empty() {
            assert_eq!(reader.chunk().expect("a part"), part.as_bytes());
        }
        control(&mut writer, "/trailers");
        assert_eq!(reader.last_chunk().expect("an end"), ["x-digest: abc"]);
    }
    for path in ["/body/4", "/body/0"] {
        reader.send(get(path));
        let part = if path == "/body/4" { "part" } else { "" };
        control(&mut writer, &format!("/write/{part}"));
        control(&mut writer, "/trailers");
        assert_eq!(reader.response().text(), part);
    }
    reader.send("GET /body HTTP/1.0\r\n\r\n");
    control(&mut writer, "/write/part");
    control(&mut writer, "/trailers");
    assert_eq!(reader.response().text(), "part");
    server.stop();
}

/// A stream of the given parts and errors. For a `None` it returns `Pending` once.
struct Parts(std::vec::IntoIter<Option<Result<Vec<u8>, &'static str>>>);

impl Stream for Parts {
    type Item = Result<Vec<u8>, &'static str>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.0.next() {
            Some(Some(Ok(part))) if part == b"panic" => panic!("planted"),
            Some(Some(part)) => Poll::Ready(Some(part)),
            Some(None) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}

/// A server that responds with a stream. Each segment of the path is a part, except: a number in
/// the first segment is the length of the body, `error` is an error, `panic` panics, `wait` is a
/// part that is not ready at once, and `large` is a large part.
fn streaming() -> Local {
    Local::start(|| {
        async |request: Request| {
            let words = request.path().split('/').skip(1).map(str::to_owned);
            let words: Vec<String> = words.collect();
            let length: Option<u64> = words.first().and_then(|word| word.parse().ok());
            let parts = words.into_iter().skip(length.iter().count());
            let parts = parts.map(|word| match &word[..] {
                "error" => Some(Err("planted")),
                "wait" => None,
                "large" => Some(Ok(noise(1_000_000))),
                _ => Some(Ok(word.into_bytes())),
            });
            let body = Body::from_stream(Parts(parts.collect::<Vec<_>>().into_iter()));
            Response::text(match length {
                Some(length) => body.with_length(length),
                None => body,
            })
        }
    })
}

#[test]
fn a_stream_can_be_a_body() {
    let server = streaming();
    let mut client = server.connect();
    for (path, framing, expected) in [
        ("/one/two", "transfer-encoding", "onetwo"),
        ("/one//wait/wait/two//", "transfer-encoding", "onetwo"),
        ("/", "transfer-encoding", ""),
        ("/6/one/wait/two", "content-length", "onetwo"),
        ("/0", "content-length", ""),
    ] {
        client.send(get(path));
        let response = client.response();
        assert_eq!(response.text(), expected, "{path}");
        assert!(response.field(framing).is_some(), "{path}");
    }
    client.send(get("/large/large"));
    let (response, large) = (client.response(), noise(1_000_000));
    assert!(response.body == [&large[..], &large].concat());
    assert_eq!(server.stop_and_count("closed_by_service"), 0);
}

#[test]
fn a_stream_that_fails_ends_the_connection() {
    let server = streaming();
    let failures = [
        "/one/error",
        "/error",
        "/one/panic",
        "/4/one",
        "/4/one/two",
        "/panic",
    ];
    for (count, path) in (1..).zip(failures) {
        let mut client = server.connect();
        client.send(get(path));
        assert_eq!(client.head().status, 200);
        let received = String::from_utf8(client.expect_fin_or_reset()).expect("text");
        assert_eq!(received.contains("one"), path.contains("one"), "{received}");
        assert!(
            !received.contains("two") && !received.contains("0\r\n"),
            "{received}"
        );
        wait_for_failures(&server, count);
    }
    assert_eq!(server.stop_and_count("service_panics"), 2);
}

#[test]
fn a_dropped_sender_ends_the_connection() {
    let (server, _) = writable(Limits::default());
    let mut writer = server.connect();
    for (count, (path, version, framing)) in (1..).zip([
        ("/body", "1.1", "transfer-encoding"),
        ("/body/10", "1.1", "content-length"),
        ("/body/10", "1.0", "content-length"),
        ("/body", "1.0", "date"),
    ]) {
        for parts in [0, 2] {
            let mut reader = server.connect();
            reader.send(format!("GET {path} HTTP/{version}\r\nHost: a\r\n\r\n"));
            assert!(reader.head().field(framing).is_some());
            for _ in 0..parts {
                control(&mut writer, "/write/part");
            }
            control(&mut writer, "/drop");
            if framing == "date" {
                // A FIN would mean that this body is complete, so the server must send a reset.
                let error = reader.rest().expect_err("a reset");
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            } else {
                let received = String::from_utf8(reader.expect_fin_or_reset()).expect("text");
                assert_eq!(received.matches("part").count(), parts, "{received}");
                assert!(!received.contains("0\r\n"), "a last chunk in: {received}");
            }
        }
        wait_for_failures(&server, 2 * count);
    }
    server.stop();
}

#[test]
fn a_body_that_differs_from_its_length_ends_the_connection() {
    let (server, _) = writable(Limits::default());
    let (mut reader, mut writer) = (server.connect(), server.connect());
    // Bodies that match their length keep the connection open for the next request.
    for text in ["hello", ""] {
        reader.send(get(&format!("/body/{}", text.len())));
        control(&mut writer, &format!("/write/{text}"));
        control(&mut writer, "/finish");
        let response = reader.response();
        assert_eq!(response.text(), text);
        assert_eq!(response.field("transfer-encoding"), None);
    }
    for (count, text) in (1..).zip(["hell", "hello!"]) {
        reader = server.connect();
        reader.send(get("/body/5"));
        assert_eq!(reader.head().field("content-length"), Some("5"));
        control(&mut writer, &format!("/write/{text}"));
        if text.len() < 5 {
            control(&mut writer, "/finish");
        }
        assert!(reader.expect_fin_or_reset().len() < 5, "{text}");
        wait_for_failures(&server, count);
    }
    server.stop();
}

/// A response to HEAD does not send its body. The writer must learn that, or it might write for
/// ever.
#[test]
fn the_body_of_a_response_to_head_is_gone_at_once() {
    let (server, gone) = writable(Limits::default());
    let (mut reader, mut writer) = (server.connect(), server.connect());
    for (count, path) in (1..).zip(["/body", "/body/10"]) {
        reader.send(request("HEAD", path, &[]));
        let head = reader.head();
        let length = path.split_once("y/").map(|(_, length)| length);
        assert_eq!(head.field("content-length"), length);
        control(&mut writer, "/watch");
        eventually("the end of the body", || {
            (gone.load(Ordering::Relaxed) == count).then_some(())
        });
    }
    reader.send(get("/body"));
    control(&mut writer, "/finish");
    assert_eq!(reader.response().text(), "");
    server.stop();
}

/// A task that writes nothing still learns that its client is gone: after a reset, and after a
/// half-close if `Limits::half_close` is `End`.
#[test]
fn a_task_that_does_not_write_learns_that_its_client_is_gone() {
    for half_close in [HalfClose::Serve, HalfClose::End] {
        let mut limits = Limits::default();
        limits.half_close = half_close;
        let (server, gone) = writable(limits);
        let mut writer = server.connect();
        for part in ["", "part"] {
            let before = gone.load(Ordering::Relaxed);
            let mut reader = server.connect();
            reader.send(get("/body"));
            assert_eq!(reader.head().status, 200);
            control(&mut writer, &format!("/write/{part}"));
            control(&mut writer, "/watch");
            if half_close == HalfClose::End {
                reader.half_close();
            } else {
                reader.reset();
            }
            eventually("the end of the body", || {
                (gone.load(Ordering::Relaxed) == before + 1).then_some(())
            });
        }
        drop(writer);
        eventually("the end of the connections", || {
            (server.count("connections_open") == 0).then_some(())
        });
        assert_eq!(server.count("closed_by_peer"), 2);
        server.stop();
    }
}

/// The server cannot tell a close from a half-close until it sends: then the client's kernel
/// answers with a reset.
#[test]
fn a_write_after_the_client_has_closed_finds_it_gone() {
    let (server, _) = writable(Limits::default());
    let mut writer = server.connect();
    let mut reader = server.connect();
    reader.send(get("/body"));
    assert_eq!(reader.head().status, 200);
    drop(reader);
    eventually("the end of the body", || {
        writer.send(get("/write/part"));
        (writer.response().text() == "gone").then_some(())
    });
    server.stop();
}

/// No timeout runs while the writer of a body pauses.
#[test]
fn a_body_whose_writer_pauses_is_not_cut_by_timeouts() {
    let mut limits = Limits::default();
    let timeout = Some(Duration::from_millis(300));
    (limits.idle_timeout, limits.head_timeout) = (timeout, timeout);
    (limits.body_timeout, limits.write_timeout) = (timeout, timeout);
    let (server, _) = writable(limits);
    let mut reader = server.connect();
    reader.send(get("/body"));
    assert_eq!(reader.head().status, 200);
    for part in ["one", "two"] {
        thread::sleep(Duration::from_millis(1000));
        let mut writer = server.connect();
        control(&mut writer, &format!("/write/{part}"));
        assert_eq!(reader.chunk().expect("a part"), part.as_bytes());
    }
    assert_eq!(server.stop_and_count("closed_by_timeout"), 0);
}

/// If the client does not read, the writer waits for capacity, and gets an error when the write
/// timeout ends the connection.
#[test]
fn a_writer_waits_for_its_client_and_learns_of_its_timeout() {
    let written: Arc<AtomicUsize> = Arc::default();
    let ended: Arc<AtomicUsize> = Arc::default();
    let counts = (written.clone(), ended.clone());
    let mut limits = Limits::default();
    limits.write_timeout = Some(Duration::from_secs(1));
    let server = Local::start_within(limits, move || {
        let counts = counts.clone();
        async move |request: Request| {
            assert_eq!(request.method(), Method::GET);
            let (mut sender, body) = Body::channel(CAPACITY);
            let (written, ended) = counts.clone();
            spawn(async move {
                let part = vec![b'x'; 1000];
                while sender.write(part.clone()).await.is_ok() {
                    written.fetch_add(part.len(), Ordering::Relaxed);
                }
                ended.fetch_add(1, Ordering::Relaxed);
            });
            Response::text(body)
        }
    });
    let mut client = server.connect();
    client.set_receive_buffer(4096);
    client.send(get("/"));
    eventually("the end of the writer", || {
        (ended.load(Ordering::Relaxed) == 1).then_some(())
    });
    // The writer wrote little more than the socket buffers hold.
    let written = written.load(Ordering::Relaxed);
    assert!((CAPACITY..16 << 20).contains(&written), "{written}");
    assert_eq!(server.count("closed_by_timeout"), 1);
    server.stop();
}
