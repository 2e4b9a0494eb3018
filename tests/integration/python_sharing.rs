//! `coring run`: what a request may cost the others. Slow requests, slow clients and clients that
//! leave.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Coring, Program, assert_bytes_below, digest, eventually, get, head_with_length, noise,
    private_bytes, run_application, wait_for_two_workers,
};

/// Less than a request that waits for another one would take, and much more than one that does not,
/// also on a busy machine.
const SOON: Duration = Duration::from_secs(6);
/// How long the others ask.
const WHILE: Duration = Duration::from_secs(2);

/// Asks with `clients` connections until `until`, about 125 times a second on each. Returns the
/// longest time that a response took.
fn slowest_of(server: &Coring, clients: usize, until: Instant) -> Duration {
    let ask = || {
        let mut client = server.connect();
        let mut slowest = Duration::ZERO;
        while Instant::now() < until {
            let started = Instant::now();
            client.send(get("/"));
            assert_eq!(client.response().text(), "hello");
            slowest = slowest.max(started.elapsed());
            thread::sleep(Duration::from_millis(8));
        }
        slowest
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
        let times = threads.into_iter().map(|one| one.join().expect("a client"));
        times.max().expect("a client")
    })
}

/// One of two workers is busy with a single request.
fn nothing_waits_behind(slow: &str, flags: &[&str]) {
    let (server, _directory) = run_application("wsgi", &[flags, &["-w", "2"]].concat());
    wait_for_two_workers(&server);
    let mut client = server.connect();
    client.send(get(slow));
    let slowest = slowest_of(&server, 4, Instant::now() + WHILE);
    assert!(slowest < SOON, "{slowest:?}");
    assert_eq!(client.response().text(), "slept");
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn nothing_waits_behind_a_slow_request_while_a_worker_is_free() {
    nothing_waits_behind("/sleep/9", &["-k", "sync"]);
}

#[test]
fn nothing_waits_behind_a_thread_that_keeps_the_interpreter() {
    nothing_waits_behind("/hold/9", &["-k", "gthread", "--threads", "4"]);
}

/// An upload and a download of 10 KiB a second have the only worker when they need it, for nine
/// seconds.
#[test]
fn slow_clients_hold_no_worker() {
    const LEN: usize = 90 << 10;
    let (server, _directory) = run_application("wsgi", &["-k", "sync"]);
    let body = noise(LEN);
    let expected = digest(&body);
    let mut uploading = server.connect();
    let mut reading = server.connect();
    reading.set_receive_buffer(4096);
    // 800 KiB, which is less than a response may be ahead of its client.
    reading.send(get("/parts/12"));
    thread::scope(|scope| {
        let until = Instant::now() + Duration::from_secs(9);
        scope.spawn(|| {
            uploading.send(head_with_length("POST", "/digest", LEN));
            for part in body.chunks(1024) {
                uploading.send(part);
                thread::sleep(Duration::from_millis(100));
            }
        });
        scope.spawn(move || {
            while Instant::now() < until {
                reading.take(1024).expect("a part");
                thread::sleep(Duration::from_millis(100));
            }
        });
        let slowest = slowest_of(&server, 1, until);
        assert!(slowest < SOON, "{slowest:?}");
    });
    assert_eq!(uploading.response().text(), expected);
    assert_eq!(server.stop().code, Some(0));
}

/// A response that nobody reads stops its application, and neither coring nor the worker keeps it.
#[test]
fn a_response_that_is_not_read_waits_in_the_application() {
    for (application, class) in [("wsgi", "sync"), ("wsgi", "gthread"), ("asgi", "asgi")] {
        let (server, directory) = run_application(application, &["-k", class, "-w", "2"]);
        let parts = || {
            let ledger = fs::read_to_string(directory.file("ledger")).unwrap_or_default();
            ledger.matches("part ").count()
        };
        let mut client = server.connect();
        client.send(get("/parts/16384")); // 1 GiB
        assert_eq!(client.head().status, 200);
        let made = eventually("a response that stops", || {
            let before = parts();
            thread::sleep(Duration::from_secs(1));
            (before > 0 && parts() == before).then_some(before)
        });
        assert!((1..32).contains(&made), "{class}: {made} MiB");
        assert_bytes_below(private_bytes(server.pid()), 64 << 20);
        assert_eq!(parts(), made, "{class}");
        client.reset();
        // The worker that wrote it is free again.
        for _ in 0..4 {
            assert_eq!(server.get("/").text(), "hello");
        }
        assert_eq!(server.stop().code, Some(0), "{class}");
    }
}

/// The application hears soon that the client of an event stream was killed.
#[test]
fn an_event_stream_ends_with_its_client() {
    let (server, directory) = run_application("asgi", &[]);
    let mut curl = Command::new("curl");
    curl.args(["-sN", &format!("{}events", server.url())]);
    // It returns with the first event.
    let curl = Program::start(&mut curl);
    drop(curl);
    eventually("the end of the stream", || {
        let ledger = fs::read_to_string(directory.file("ledger")).unwrap_or_default();
        (ledger == "http.disconnect\n").then_some(())
    });
    assert_eq!(server.stop().code, Some(0));
}
