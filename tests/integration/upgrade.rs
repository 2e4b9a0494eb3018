//! Connections that switch from HTTP to another protocol (`Upgrade`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use coring::{Builder, HalfClose, HeaderValue, Limits, Request, Response, StatusCode, Upgraded};

use crate::support::{Client, GET, HELLO, Local, builder, eventually, get, noise, request};

/// A request to switch to the protocol of `path`.
fn upgrade(path: &str) -> String {
    let fields = ["Connection: keep-alive, Upgrade", "Upgrade: other, Echo"];
    request("GET", path, &fields)
}

/// Sends the received bytes back.
async fn echo(mut stream: Upgraded) {
    while let Ok(Some(bytes)) = stream.read().await {
        if stream.write(bytes).await.is_err() {
            return;
        }
    }
}

/// A server that switches protocols, and the number of connections on which `/echo` or `/silent`
/// has ended.
fn server(builder: Builder) -> (Local, Arc<AtomicUsize>) {
    let ended: Arc<AtomicUsize> = Arc::default();
    let count = ended.clone();
    let server = Local::start_with(builder, move || {
        let count = count.clone();
        async move |mut request: Request| {
            let protocol = HeaderValue::from_static("echo");
            let count = count.clone();
            match request.path() {
                "/echo" => Response::upgrade(&request, protocol, async move |stream| {
                    echo(stream).await;
                    count.fetch_add(1, Ordering::Relaxed);
                }),
                "/read" => {
                    request.body().read(100).await.expect("a whole body");
                    Response::upgrade(&request, protocol, echo)
                }
                "/silent" => Response::upgrade(&request, protocol, async move |stream| {
                    stream.gone().await;
                    count.fetch_add(1, Ordering::Relaxed);
                }),
                "/panic" => Response::upgrade(&request, protocol, async |mut stream| {
                    stream.write("begun").await.expect("a client");
                    panic!("planted");
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

/// Asserts that the next response is a 101 that switches to `echo`.
#[track_caller]
fn assert_switched(client: &mut Client) {
    let head = client.head();
    assert_eq!(head.status, 101);
    assert_eq!(head.field("upgrade"), Some("echo"));
    assert_eq!(head.field("connection"), Some("upgrade"));
    assert_eq!(head.field("content-length"), None);
    assert_eq!(head.field("transfer-encoding"), None);
}

/// Bytes behind the head belong to the other protocol, however the stream is split.
#[test]
fn bytes_behind_the_head_go_to_the_other_protocol() {
    let (server, ended) = server(builder());
    let head = upgrade("/echo");
    let behind = format!("{GET}\0behind");
    let bytes = format!("{head}{behind}");
    for at in 0..=bytes.len() {
        let mut client = server.connect();
        let (first, second) = bytes.split_at(at);
        client.send(first);
        thread::sleep(Duration::from_millis(2));
        client.send(second);
        assert_switched(&mut client);
        let echoed = client.take(behind.len()).expect("an echo");
        assert_eq!(echoed, behind.as_bytes(), "split at {at}");
        client.half_close();
        client.expect_fin();
    }
    assert_eq!(ended.load(Ordering::Relaxed), bytes.len() + 1);
    assert_eq!(
        server.stop_and_count("closed_in_order"),
        bytes.len() as u64 + 1
    );
}

#[test]
fn an_upgraded_connection_carries_much_data_both_ways() {
    let mut limits = Limits::default();
    // After the switch these two limits do not apply.
    limits.half_close = HalfClose::End;
    limits.body_bytes_max = Some(10);
    let (server, _) = server(builder().limits(limits));
    let mut client = server.connect();
    client.send(GET.repeat(2) + &upgrade("/echo"));
    assert_eq!(client.response().text(), HELLO);
    assert_eq!(client.response().text(), HELLO);
    assert_switched(&mut client);
    let much = noise(3 << 20);
    let mut twin = client.twin();
    let sent = much.clone();
    let writer = thread::spawn(move || {
        twin.send(sent);
        twin.half_close();
    });
    assert!(client.rest().expect("an orderly end") == much);
    writer.join().expect("no panic in the writer");
    server.stop();
}

#[test]
fn a_request_without_a_valid_upgrade_is_answered_with_426() {
    let (server, _) = server(builder());
    let fields = ["Connection: keep-alive, upgrade", "Upgrade: echo"];
    let requests = [
        get("/echo"),
        request("GET", "/echo", &["Upgrade: echo"]),
        request("GET", "/echo", &["Connection: upgrade", "Upgrade: other"]),
        request("GET", "/echo", &fields).replace("HTTP/1.1", "HTTP/1.0"),
    ];
    let mut client = server.connect();
    for request in &requests {
        client.send(request);
        let response = client.response();
        assert_eq!(response.status, 426, "{request}");
        assert_eq!(response.field("upgrade"), Some("echo"));
    }
    client.send(GET);
    assert_eq!(client.response().status, 200, "the connection persists");
    client.send(upgrade("/nothing"));
    assert_eq!(client.response().status, 500);
    server.stop();
}

/// The other protocol begins behind the request's body, which the service may read first. If it has
/// not, the request is refused, and does not count as a failure of the service.
#[test]
fn a_request_with_an_unread_body_is_refused_and_not_upgraded() {
    let (server, _) = server(builder());
    let ask = |path, framing| {
        request(
            "POST",
            path,
            &[framing, "Connection: upgrade", "Upgrade: echo"],
        )
    };
    for (framing, body) in [
        ("Content-Length: 5", "hello"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "0\r\n\r\n"),
    ] {
        let mut client = server.connect();
        client.send(ask("/echo", framing) + body);
        assert_eq!(client.response().status, 400, "{body:?}");
        client.send(ask("/read", framing) + body + "behind");
        assert_switched(&mut client);
        assert_eq!(client.take(6).expect("an echo"), b"behind", "{body:?}");
    }
    let mut waiting = server.connect();
    waiting.send(ask("/echo", "Content-Length: 5"));
    assert_eq!(waiting.response().status, 400);
    drop(waiting);
    assert_eq!(server.stop_and_count("closed_by_service"), 0);
}

#[test]
fn a_panic_after_the_switch_resets_the_connection() {
    let (server, _) = server(builder());
    let mut client = server.connect();
    client.send(upgrade("/panic"));
    assert_switched(&mut client);
    let is_reset = client.rest().is_err();
    assert!(is_reset, "the connection ended with a FIN");
    assert_eq!(server.stop_and_count("closed_by_service"), 1);
}

#[test]
fn a_reset_ends_an_upgraded_connection() {
    let (server, ended) = server(builder());
    let clients = [(); 10].map(|()| {
        let mut client = server.connect();
        client.send(upgrade("/echo"));
        assert_switched(&mut client);
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
fn a_coroutine_that_neither_reads_nor_writes_learns_that_its_client_is_gone() {
    let (server, ended) = server(builder());
    let leave: [fn(Client); 3] = [Client::reset, drop, |mut client| {
        client.half_close();
        // The coroutine's end closes the connection.
        client.expect_fin();
    }];
    for (count, leave) in (1..).zip(leave) {
        let mut client = server.connect();
        client.send(upgrade("/silent"));
        assert_switched(&mut client);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(
            ended.load(Ordering::Relaxed),
            count - 1,
            "the client is there"
        );
        leave(client);
        eventually("the coroutine's end", || {
            (ended.load(Ordering::Relaxed) == count).then_some(())
        });
    }
    eventually("the end of the connections", || {
        (server.count("connections_open") == 0).then_some(())
    });
    server.stop();
}

#[test]
fn a_drain_waits_for_an_upgraded_connection() {
    let (server, _) = server(builder());
    let mut client = server.connect();
    client.send(upgrade("/drain"));
    assert_switched(&mut client);
    server.drain();
    assert_eq!(client.rest().expect("an orderly end"), b"the end");
    drop(client);
    server.wait();
}
