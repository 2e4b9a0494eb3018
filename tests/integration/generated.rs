//! Response bodies that a coroutine writes: each part is sent at once, the end is told apart from a
//! failure, and the writer learns that its client has left.

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

use crate::support::{Client, Local, eventually, noise};

/// The room that bodies have here, in bytes.
const ROOM: usize = 16 << 10;

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// A service of one generated body at a time. `GET /body` and `GET /body/LENGTH` answer with it;
/// other requests write it: `/write/TEXT`, `/finish`, `/trailers`, `/drop`. They answer `gone` if
/// nobody reads it any more. `/watch` waits for that, and counts it.
fn writable(limits: Limits) -> (Local, Arc<AtomicUsize>) {
    let gone: Arc<AtomicUsize> = Arc::default();
    let count = gone.clone();
    let server = Local::start_within(limits, move || {
        let place: Rc<RefCell<Option<BodySender>>> = Rc::default();
        let count = count.clone();
        async move |request: Request| {
            let path = request.path()[1..].to_owned();
            let (action, argument) = path.split_once('/').unwrap_or((&path, ""));
            if action == "body" {
                let (sender, body) = Body::channel(ROOM);
                *place.borrow_mut() = Some(sender);
                return Response::text(match argument.parse() {
                    Ok(length) => body.with_length(length),
                    Err(_) => body,
                });
            }
            // Another connection asks for the body, perhaps a little later.
            let mut sender = loop {
                if let Some(sender) = place.take() {
                    break sender;
                }
                coring::time::sleep(Duration::from_millis(1)).await;
            };
            match action {
                "write" => {
                    let written = sender.write(argument.to_owned()).await;
                    *place.borrow_mut() = Some(sender);
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

/// Has the body's writer do something.
#[track_caller]
fn tell(writer: &mut Client, what: &str) {
    writer.send(get(what));
    assert_eq!(writer.answer().text(), "done", "{what}");
}

/// So many connections have ended by a service's failure.
#[track_caller]
fn failed(server: &Local, count: u64) {
    eventually("the count", || {
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
            tell(&mut writer, &format!("/write/{part}"));
            assert_eq!(reader.chunk().expect("a part"), part.as_bytes());
        }
        // A part of no bytes is not the end.
        tell(&mut writer, "/write/");
        tell(&mut writer, "/write/four");
        assert_eq!(reader.chunk().expect("a part"), b"four");
        tell(&mut writer, "/finish");
        assert_eq!(reader.chunk().expect("the end"), b"");
    }
    assert_eq!(server.stop_and_count("closed_by_service"), 0);
}

#[test]
fn trailers_are_sent_where_there_is_a_place_for_them() {
    let (server, _) = writable(Limits::default());
    let (mut reader, mut writer) = (server.connect(), server.connect());
    for part in ["", "part"] {
        reader.send(get("/body"));
        assert_eq!(reader.head().field("transfer-encoding"), Some("chunked"));
        tell(&mut writer, &format!("/write/{part}"));
        if !part.is_empty() {
            assert_eq!(reader.chunk().expect("a part"), part.as_bytes());
        }
        tell(&mut writer, "/trailers");
        assert_eq!(reader.last_chunk().expect("an end"), ["x-digest: abc"]);
    }
    for path in ["/body/4", "/body/0"] {
        reader.send(get(path));
        let part = if path == "/body/4" { "part" } else { "" };
        tell(&mut writer, &format!("/write/{part}"));
        tell(&mut writer, "/trailers");
        assert_eq!(reader.answer().text(), part);
    }
    reader.send("GET /body HTTP/1.0\r\n\r\n");
    tell(&mut writer, "/write/part");
    tell(&mut writer, "/trailers");
    assert_eq!(reader.answer().text(), "part");
    server.stop();
}

/// Yields what it is made of, a part each time; `None` is a part that is not there yet, for a turn.
struct Parts(std::vec::IntoIter<Option<Result<Vec<u8>, &'static str>>>);

impl Stream for Parts {
    type Item = Result<Vec<u8>, &'static str>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.0.next() {
            Some(Some(Ok(part))) if part == b"panic" => panic!("as it was asked to"),
            Some(Some(part)) => Poll::Ready(Some(part)),
            Some(None) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}

/// A server whose answer is a stream: each word of the path is a part, `error` an error, `wait` a
/// turn, and a number at the start the length of all.
fn streaming() -> Local {
    Local::start(|| {
        async |request: Request| {
            let words = request.path().split('/').skip(1).map(str::to_owned);
            let words: Vec<String> = words.collect();
            let length: Option<u64> = words.first().and_then(|word| word.parse().ok());
            let parts = words.into_iter().skip(length.iter().count());
            let parts = parts.map(|word| match &word[..] {
                "error" => Some(Err("as it was asked to")),
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
fn a_stream_is_a_body() {
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
        let answer = client.answer();
        assert_eq!(answer.text(), expected, "{path}");
        assert!(answer.field(framing).is_some(), "{path}");
    }
    client.send(get("/large/large"));
    let (answer, large) = (client.answer(), noise(1_000_000));
    assert!(answer.body == [&large[..], &large].concat());
    assert_eq!(server.stop_and_count("closed_by_service"), 0);
}

#[test]
fn a_stream_that_fails_cuts_the_connection() {
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
        let received = String::from_utf8(client.broken()).expect("text");
        assert_eq!(received.contains("one"), path.contains("one"), "{received}");
        assert!(
            !received.contains("two") && !received.contains("0\r\n"),
            "{received}"
        );
        failed(&server, count);
    }
    assert_eq!(server.stop_and_count("service_panics"), 2);
}

#[test]
fn a_sender_that_is_dropped_cuts_the_connection() {
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
                tell(&mut writer, "/write/part");
            }
            tell(&mut writer, "/drop");
            if framing == "date" {
                // Only a reset can tell such a body from one that is whole.
                let error = reader.rest().expect_err("no end in order");
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            } else {
                let received = String::from_utf8(reader.broken()).expect("text");
                assert_eq!(received.matches("part").count(), parts, "{received}");
                assert!(!received.contains("0\r\n"), "no last chunk: {received}");
            }
        }
        failed(&server, 2 * count);
    }
    server.stop();
}

#[test]
fn a_stated_length_is_kept_or_the_connection_is_cut() {
    let (server, _) = writable(Limits::default());
    let (mut reader, mut writer) = (server.connect(), server.connect());
    // Both on one connection: the first was in order.
    for text in ["hello", ""] {
        reader.send(get(&format!("/body/{}", text.len())));
        tell(&mut writer, &format!("/write/{text}"));
        tell(&mut writer, "/finish");
        let answer = reader.answer();
        assert_eq!(answer.text(), text);
        assert_eq!(answer.field("transfer-encoding"), None);
    }
    for (count, text) in (1..).zip(["hell", "hello!"]) {
        reader = server.connect();
        reader.send(get("/body/5"));
        assert_eq!(reader.head().field("content-length"), Some("5"));
        tell(&mut writer, &format!("/write/{text}"));
        if text.len() < 5 {
            tell(&mut writer, "/finish");
        }
        assert!(reader.broken().len() < 5, "{text}");
        failed(&server, count);
    }
    server.stop();
}

/// Its writer could go on for ever.
#[test]
fn a_body_that_is_not_wanted_is_not_written() {
    let (server, gone) = writable(Limits::default());
    let (mut reader, mut writer) = (server.connect(), server.connect());
    for (count, path) in (1..).zip(["/body", "/body/10"]) {
        reader.send(get(path).replace("GET", "HEAD"));
        let head = reader.head();
        let length = path.split_once("y/").map(|(_, length)| length);
        assert_eq!(head.field("content-length"), length);
        tell(&mut writer, "/watch");
        eventually("the end of the body", || {
            (gone.load(Ordering::Relaxed) == count).then_some(())
        });
    }
    reader.send(get("/body"));
    tell(&mut writer, "/finish");
    assert_eq!(reader.answer().text(), "");
    server.stop();
}

/// A client that waits in silence is gone as soon as its connection is reset, and after a
/// half-close where the limit says so.
#[test]
fn a_silent_body_learns_that_its_client_is_gone() {
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
            tell(&mut writer, &format!("/write/{part}"));
            tell(&mut writer, "/watch");
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

/// A client that has closed its connection has half-closed it, as far as the server knows. It is
/// found out by what is sent.
#[test]
fn a_client_that_has_closed_is_gone_when_something_is_sent() {
    let (server, _) = writable(Limits::default());
    let mut writer = server.connect();
    let mut reader = server.connect();
    reader.send(get("/body"));
    assert_eq!(reader.head().status, 200);
    drop(reader);
    eventually("the end of the body", || {
        writer.send(get("/write/part"));
        (writer.answer().text() == "gone").then_some(())
    });
    server.stop();
}

/// No timeout runs while a body is silent: not of the answer, nor of the connection.
#[test]
fn a_silent_body_is_not_cut_by_timeouts() {
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
        tell(&mut writer, &format!("/write/{part}"));
        assert_eq!(reader.chunk().expect("a part"), part.as_bytes());
    }
    assert_eq!(server.stop_and_count("closed_by_timeout"), 0);
}

/// Its writer is told, whatever the connection ends by: here by the client's failing to read.
#[test]
fn a_writer_of_a_client_that_does_not_read_waits_and_then_learns_of_its_end() {
    let written: Arc<AtomicUsize> = Arc::default();
    let ended: Arc<AtomicUsize> = Arc::default();
    let counts = (written.clone(), ended.clone());
    let mut limits = Limits::default();
    limits.write_timeout = Some(Duration::from_secs(1));
    let server = Local::start_within(limits, move || {
        let counts = counts.clone();
        async move |request: Request| {
            assert_eq!(request.method(), Method::GET);
            let (mut sender, body) = Body::channel(ROOM);
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
    client.receive_at_most(4096);
    client.send(get("/"));
    eventually("the end of the writer", || {
        (ended.load(Ordering::Relaxed) == 1).then_some(())
    });
    // What the sockets hold, and not much more.
    let written = written.load(Ordering::Relaxed);
    assert!((ROOM..16 << 20).contains(&written), "{written}");
    assert_eq!(server.count("closed_by_timeout"), 1);
    server.stop();
}
