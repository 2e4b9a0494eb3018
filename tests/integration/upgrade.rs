//! Connections that leave HTTP for another protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use coring::{Builder, HalfClose, HeaderValue, Limits, Request, Response, StatusCode, Upgraded};

use crate::support::{Client, GET, HELLO, Local, builder, eventually, noise};

const UPGRADE: &str = "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
                       Upgrade: other, Echo\r\n\r\n";

/// Sends back what comes.
async fn echo(mut stream: Upgraded) {
    while let Ok(Some(bytes)) = stream.read().await {
        if stream.write(bytes).await.is_err() {
            return;
        }
    }
}

/// A server, and how many of its continuations have ended.
fn server(builder: Builder) -> (Local, Arc<AtomicUsize>) {
    let ended: Arc<AtomicUsize> = Arc::default();
    let count = ended.clone();
    let server = Local::start_with(builder, move || {
        let count = count.clone();
        async move |request: Request| {
            let protocol = HeaderValue::from_static("echo");
            let count = count.clone();
            match request.path() {
                "/echo" => Response::upgrade(&request, protocol, async move |stream| {
                    echo(stream).await;
                    count.fetch_add(1, Ordering::Relaxed);
                }),
                "/panic" => Response::upgrade(&request, protocol, async |mut stream| {
                    stream.write("begun").await.expect("a client");
                    panic!("as it was asked to");
                }),
                "/drain" => Response::upgrade(&request, protocol, async |mut stream| {
                    coring::draining().await;
                    stream.write("the end").await.expect("a client");
                }),
                "/nothing" => Response::new(StatusCode::SWITCHING_PROTOCOLS),
                _ => Response::html(HELLO),
            }
        }
    });
    (server, ended)
}

#[track_caller]
fn is_switched(client: &mut Client) {
    let head = client.head();
    assert_eq!(head.status, 101);
    assert_eq!(head.field("upgrade"), Some("echo"));
    assert_eq!(head.field("connection"), Some("upgrade"));
    assert_eq!(head.field("content-length"), None);
    assert_eq!(head.field("transfer-encoding"), None);
}

/// What a client sends behind its request belongs to the other protocol, however it is cut.
#[test]
fn bytes_behind_the_head_are_not_lost() {
    let (server, ended) = server(builder());
    let bytes = format!("{UPGRADE}GET / HTTP/1.1\r\n\r\n\0behind");
    let behind = &bytes[UPGRADE.len()..];
    for cut in 0..=bytes.len() {
        let mut client = server.connect();
        let (first, second) = bytes.split_at(cut);
        client.send(first);
        thread::sleep(Duration::from_millis(2));
        client.send(second);
        is_switched(&mut client);
        let echoed = client.take(behind.len()).expect("an echo");
        assert_eq!(echoed, behind.as_bytes(), "cut after {cut}");
        client.half_close();
        client.ends();
    }
    assert_eq!(ended.load(Ordering::Relaxed), bytes.len() + 1);
    assert_eq!(
        server.stop_and_count("closed_in_order"),
        bytes.len() as u64 + 1
    );
}

#[test]
fn much_goes_both_ways_behind_earlier_responses() {
    let mut limits = Limits::default();
    // A half-close is not the end of a call that has left HTTP.
    limits.half_close = HalfClose::End;
    limits.body_bytes_max = Some(10);
    let (server, _) = server(builder().limits(limits));
    let mut client = server.connect();
    client.send(format!("{GET}{GET}{UPGRADE}"));
    assert_eq!(client.answer().text(), HELLO);
    assert_eq!(client.answer().text(), HELLO);
    is_switched(&mut client);
    let much = noise(3 << 20);
    let mut twin = client.twin();
    let sent = much.clone();
    let writer = thread::spawn(move || {
        twin.send(sent);
        twin.half_close();
    });
    assert!(client.rest().expect("an end in order") == much);
    writer.join().expect("all is sent");
    server.stop();
}

#[test]
fn a_client_that_does_not_ask_is_told_to() {
    let (server, _) = server(builder());
    let asked = [
        "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
        "GET /echo HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, upgrade\r\nUpgrade: echo\r\n\r\n",
    ];
    let mut client = server.connect();
    for request in asked {
        client.send(request);
        let answer = client.answer();
        assert_eq!(answer.status, 426, "{request}");
        assert_eq!(answer.field("upgrade"), Some("echo"));
    }
    client.send(GET);
    assert_eq!(client.answer().status, 200, "the connection persists");
    client.send(UPGRADE.replace("/echo", "/nothing"));
    assert_eq!(client.answer().status, 500);
    let mut client = server.connect();
    let with_body = UPGRADE.replace("Host: a", "Host: a\r\nContent-Length: 5");
    client.send(with_body);
    assert_eq!(client.answer().status, 500, "its body has not been read");
    server.stop();
}

#[test]
fn a_panic_resets_the_connection() {
    let (server, _) = server(builder());
    let mut client = server.connect();
    client.send(UPGRADE.replace("/echo", "/panic"));
    is_switched(&mut client);
    let failed = client.rest().is_err();
    assert!(failed, "a panic must not look like an end in order");
    assert_eq!(server.stop_and_count("closed_by_service"), 1);
}

#[test]
fn a_reset_ends_the_other_protocol_too() {
    let (server, ended) = server(builder());
    let clients = [(); 10].map(|()| {
        let mut client = server.connect();
        client.send(UPGRADE);
        is_switched(&mut client);
        client
    });
    assert_eq!(server.count("connections_open"), 10);
    clients.into_iter().for_each(Client::reset);
    eventually("the end of the connections", || {
        let open = server.count("connections_open");
        (open == 0 && ended.load(Ordering::Relaxed) == 10).then_some(())
    });
    assert_eq!(server.stop_and_count("closed_by_peer"), 10);
}

#[test]
fn a_drain_is_told_and_waits() {
    let (server, _) = server(builder());
    let mut client = server.connect();
    client.send(UPGRADE.replace("/echo", "/drain"));
    is_switched(&mut client);
    server.drain();
    assert_eq!(client.rest().expect("an end in order"), b"the end");
    drop(client);
    server.wait();
}
