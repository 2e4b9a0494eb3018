//! A client that sends in time is served even if the server did not run for longer than its
//! timeouts: because a service blocked the worker, or because the process was stopped.

use std::thread;
use std::time::Duration;

use coring::{Limits, Request, Response};
use rustix::process::Signal;

use crate::support::{Client, Coring, GET, Local, TempDir, get, head_with_length, noise};

/// Each of the server's timeouts.
const TIMEOUT_MS: u64 = 1000;
/// Longer than the timeouts.
const LONG: Duration = Duration::from_millis(2500);
/// Long enough for sent bytes to arrive.
const SHORT: Duration = Duration::from_millis(300);

/// A server whose service blocks its worker: for [`LONG`] in `/block`, for [`SHORT`] in `/pause`,
/// and for [`LONG`] after each part of a body that is sent to `/parts`.
fn blocking_server() -> Local {
    let mut limits = Limits::default();
    limits.head_timeout = Some(Duration::from_millis(TIMEOUT_MS));
    limits.body_timeout = Some(Duration::from_millis(TIMEOUT_MS));
    limits.idle_timeout = Some(Duration::from_millis(TIMEOUT_MS));
    limits.write_timeout = Some(Duration::from_millis(TIMEOUT_MS));
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

/// The worker accepts the new connections in the same turn in which a service blocks it. When it
/// reads from them, their head timeout is over.
#[test]
fn new_connections_survive_a_service_that_blocks() {
    let server = blocking_server();
    for _ in 0..2 {
        let mut blocking = server.connect();
        blocking.send(GET);
        assert_eq!(blocking.response().status, 200);
        let mut pausing = server.connect();
        pausing.send(get("/pause"));
        thread::sleep(SHORT / 3);
        blocking.send(get("/block"));
        let mut new: Vec<Client> = (0..10).map(|_| server.connect()).collect();
        for client in &mut new {
            client.send(GET);
        }
        for client in &mut new {
            assert_eq!(client.response().status, 200);
        }
    }
    server.stop();
}

/// The clients send while the worker is blocked: one continues a head, one continues a body, one
/// was idle, and one had sent nothing yet.
#[test]
fn begun_requests_survive_a_service_that_blocks() {
    let server = blocking_server();
    let mut idle = server.connect();
    idle.send(GET);
    assert_eq!(idle.response().status, 200);
    let mut head = server.connect();
    head.send(&GET[..20]);
    let mut body = server.connect();
    body.send(head_with_length("POST", "/", 4) + "ab");
    let mut silent = server.connect();
    thread::sleep(SHORT);
    let mut blocking = server.connect();
    blocking.send(get("/block"));
    thread::sleep(SHORT);
    idle.send(GET);
    head.send(&GET[20..]);
    body.send("cd");
    silent.send(GET);
    for client in [&mut idle, &mut head, &mut silent] {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(body.response().text(), "abcd");
    server.stop();
}

/// The timeout for the next request or part starts when the service has finished, not when it was
/// called.
#[test]
fn a_timeout_does_not_include_the_time_that_a_service_blocks() {
    let server = blocking_server();
    let mut client = server.connect();
    for _ in 0..2 {
        client.send(get("/block"));
        assert_eq!(client.response().status, 200);
        thread::sleep(SHORT);
    }
    client.send(head_with_length("POST", "/parts", 3) + "a");
    for part in ["b", "c"] {
        // The service asks for the next part when it has stopped blocking.
        thread::sleep(LONG + SHORT);
        client.send(part);
    }
    assert_eq!(client.response().text(), "abc");
    server.stop();
}

/// A process may be stopped by a debugger, a frozen container or a suspended machine. When it
/// continues, it must first read what its clients sent meanwhile, and not time them out.
#[test]
fn clients_survive_a_stopped_process() {
    let limits = [
        ["--head-timeout", "1s"],
        ["--body-timeout", "1s"],
        ["--idle-timeout", "1s"],
        ["--write-timeout", "1s"],
    ];
    let server = Coring::start(&[&["echo", "--cores", "1"][..], limits.as_flattened()].concat());
    // Together the clients cause more events than the kernel reports at a time.
    let mut idle: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    let mut uploads: Vec<Client> = (0..50).map(|_| server.connect()).collect();
    let part = noise(1000);
    for client in &mut idle {
        client.send(GET);
        assert_eq!(client.response().status, 200);
    }
    for client in &mut uploads {
        client.send(head_with_length("POST", "/", 3 * part.len()));
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
            assert_eq!(client.response().status, 200);
        }
        for client in &mut uploads {
            assert!(client.take(part.len()).expect("the next part") == part);
        }
    }
    server.stop();
}

/// The same for a client that reads slowly: the write timeout and the minimum rate do not count
/// the time that the process is stopped.
#[test]
fn downloads_survive_a_stopped_process() {
    let directory = TempDir::new();
    let content = noise(32 << 20);
    directory.write("large", &content);
    let limits = ["--write-timeout", "1s", "--min-rate", "1m", "--cores", "1"];
    let server = Coring::serve(&directory, &limits);
    let mut client = server.connect();
    client.set_receive_buffer(64 << 10);
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
