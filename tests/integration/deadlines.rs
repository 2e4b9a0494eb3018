//! A client that sends in time is served, however long the server was kept from looking: by a
//! service that blocks its worker, or because its process was stopped.

use std::thread;
use std::time::Duration;

use coring::{Limits, Request, Response};
use rustix::process::Signal;

use crate::support::{Client, Coring, GET, Local, noise};

/// Every limit on a client's time.
const LIMIT_MS: u64 = 1000;
/// Longer than any of them.
const LONG: Duration = Duration::from_millis(2500);
/// Long enough for what was sent to arrive.
const SHORT: Duration = Duration::from_millis(300);

/// A server whose worker stands still while it answers `/block` (for [`LONG`]) and `/pause` (for
/// [`SHORT`]), and in each part of a body that is sent to `/parts`.
fn blocking_server() -> Local {
    let mut limits = Limits::default();
    limits.head_timeout = Some(Duration::from_millis(LIMIT_MS));
    limits.body_timeout = Some(Duration::from_millis(LIMIT_MS));
    limits.idle_timeout = Some(Duration::from_millis(LIMIT_MS));
    limits.write_timeout = Some(Duration::from_millis(LIMIT_MS));
    Local::start_within(limits, || {
        async |mut request: Request| {
            match request.path() {
                "/block" => thread::sleep(LONG),
                "/pause" => thread::sleep(SHORT),
                "/parts" => {
                    let mut whole = Vec::new();
                    while let Some(part) = request.body().part().await.expect("a part") {
                        whole.extend_from_slice(&part);
                        thread::sleep(LONG);
                    }
                    return Response::text(whole);
                }
                _ => {}
            }
            let body = request.body().read(1000).await;
            Response::text(body.expect("a small body"))
        }
    })
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn post(path: &str, len: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n")
}

/// The worker learns of the new connections in the turn in which a service blocks it. By the time
/// it may ask for what they have sent, the time for their heads is over.
#[test]
fn new_connections_outlive_a_service_that_blocks() {
    let server = blocking_server();
    for _ in 0..2 {
        let mut blocks = server.connect();
        blocks.send(GET);
        assert_eq!(blocks.answer().status, 200);
        let mut pauses = server.connect();
        pauses.send(get("/pause"));
        thread::sleep(SHORT / 3);
        blocks.send(get("/block"));
        let mut new: Vec<Client> = (0..10).map(|_| server.connect()).collect();
        for client in &mut new {
            client.send(GET);
        }
        for client in &mut new {
            assert_eq!(client.answer().status, 200);
        }
    }
    server.stop();
}

/// Each of them sends while the worker stands still.
#[test]
fn begun_requests_outlive_a_service_that_blocks() {
    let server = blocking_server();
    let mut idle = server.connect();
    idle.send(GET);
    assert_eq!(idle.answer().status, 200);
    let mut head = server.connect();
    head.send(&GET[..20]);
    let mut body = server.connect();
    body.send(format!("{}ab", post("/", 4)));
    let mut silent = server.connect();
    thread::sleep(SHORT);
    let mut blocks = server.connect();
    blocks.send(get("/block"));
    thread::sleep(SHORT);
    idle.send(GET);
    head.send(&GET[20..]);
    body.send("cd");
    silent.send(GET);
    for client in [&mut idle, &mut head, &mut silent] {
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(body.answer().text(), "abcd");
    server.stop();
}

/// The time until the next request begins when the answer is made, not when the service was called.
#[test]
fn a_service_that_blocks_leaves_its_own_client_all_its_time() {
    let server = blocking_server();
    let mut client = server.connect();
    for _ in 0..2 {
        client.send(get("/block"));
        assert_eq!(client.answer().status, 200);
        thread::sleep(SHORT);
    }
    client.send(format!("{}a", post("/parts", 3)));
    for part in ["b", "c"] {
        // The server asks for the next part only when it is done with this one.
        thread::sleep(LONG + SHORT);
        client.send(part);
    }
    assert_eq!(client.answer().text(), "abc");
    server.stop();
}

/// A stopped process (a debugger, a frozen container, a suspended machine) does not look at what
/// its clients send; that is not their fault.
#[test]
fn clients_outlive_a_process_that_was_stopped() {
    let limits = [
        ["--head-timeout", "1s"],
        ["--body-timeout", "1s"],
        ["--idle-timeout", "1s"],
        ["--write-timeout", "1s"],
    ];
    let server = Coring::start(&[&["echo", "--cores", "1"][..], limits.as_flattened()].concat());
    // More than the kernel tells a ring of at a time.
    let mut idle: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    let mut uploads: Vec<Client> = (0..50).map(|_| server.connect()).collect();
    let part = noise(1000);
    for client in &mut idle {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
    }
    for client in &mut uploads {
        client.send(post("/", 3 * part.len()));
        client.send(&part);
        assert_eq!(client.head().status, 200);
        assert!(client.take(part.len()).expect("the first part") == part);
    }
    for _ in 0..2 {
        server.signal(Signal::STOP);
        thread::sleep(SHORT);
        idle.iter_mut().for_each(|client| client.send(GET));
        uploads.iter_mut().for_each(|client| client.send(&part));
        thread::sleep(LONG);
        server.signal(Signal::CONT);
        for client in &mut idle {
            assert_eq!(client.answer().status, 200);
        }
        for client in &mut uploads {
            assert!(client.take(part.len()).expect("the next part") == part);
        }
    }
    server.stop();
}

/// The same for a client that receives slowly: the answer's time stands still as well.
#[test]
fn downloads_outlive_a_process_that_was_stopped() {
    let folder = crate::support::Folder::new();
    let content = noise(32 << 20);
    folder.write("large", &content);
    let path = folder.path().to_str().expect("a path in UTF-8");
    let limits = ["--write-timeout", "1s", "--min-rate", "1m", "--cores", "1"];
    let server = Coring::start(&[&["serve", path][..], &limits].concat());
    let mut client = server.connect();
    client.receive_at_most(64 << 10);
    client.send(get("/large"));
    assert_eq!(client.head().status, 200);
    let (first, rest) = content.split_at(1 << 20);
    assert!(client.take(first.len()).expect("the first part") == first);
    for _ in 0..2 {
        server.signal(Signal::STOP);
        thread::sleep(LONG);
        server.signal(Signal::CONT);
    }
    assert!(client.take(rest.len()).expect("the rest") == rest);
    assert_eq!(server.stop().stats()["closed_by_timeout"], 0);
}
