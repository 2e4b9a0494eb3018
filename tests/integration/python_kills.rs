//! Workers of `coring run` that are killed at points which no load meets reliably.
//! `tests/python/murder` kills them at any point.

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    TempDir, children, digest, eventually, get, head_with_length, noise, run_application,
    wait_for_two_workers,
};

/// All workers are stopped, so that they receive nothing. Then one is killed, and the other one, or
/// the one in its place, has all requests with their whole bodies.
#[test]
fn what_a_killed_worker_has_not_received_goes_to_another() {
    for (application, class, count) in [
        ("asgi", "asgi", 2),
        ("asgi", "asgi", 1),
        ("wsgi", "sync", 1),
        ("wsgi", "gevent", 1),
    ] {
        let flags = ["-k", class, "-w", &count.to_string()];
        let (server, directory) = run_application(application, &flags);
        eventually("all workers", || {
            let mut clients = [server.connect(), server.connect()];
            for client in &mut clients {
                client.send(get("/task/first/0?slow"));
            }
            for client in &mut clients {
                assert_eq!(client.response().status, 200);
            }
            let ledger = fs::read_to_string(directory.file("ledger")).expect("a ledger");
            let begun = ledger
                .lines()
                .filter_map(|line| line.strip_prefix("begin first "));
            (begun.collect::<HashSet<_>>().len() == count).then_some(())
        });
        let running = children(server.pid());
        let signal_all = |signal| {
            for pid in &running {
                // One of them was killed.
                let _ = kill_process(*pid, signal);
            }
        };
        signal_all(Signal::STOP);
        let body = noise(300_000);
        let mut clients: Vec<_> = (0..6).map(|_| server.connect()).collect();
        thread::scope(|scope| {
            for client in &clients {
                let mut upload = client.twin();
                let body = &body;
                scope.spawn(move || {
                    upload.send(head_with_length("POST", "/digest", body.len()));
                    upload.send(body);
                });
            }
            // Time for the requests to reach the sockets of the workers.
            thread::sleep(Duration::from_millis(500));
            kill_process(running[0], Signal::KILL).expect("a worker");
            signal_all(Signal::CONT);
        });
        for client in &mut clients {
            let response = client.response();
            assert_eq!(response.text(), digest(&body), "{application}");
        }
        drop(clients);
        assert_eq!(server.stop().code, Some(0), "{application}");
    }
}

/// The worker that is held between the receipt of a request and its mark, when there is one.
fn held_worker(directory: &TempDir) -> Pid {
    eventually("a worker that is held", || {
        let ledger = fs::read_to_string(directory.file("ledger")).unwrap_or_default();
        let pid = ledger.strip_prefix("hold /ledger/held ")?.trim().parse();
        Pid::from_raw(pid.ok()?)
    })
}

/// No worker has marked the request, so coring cannot know that it was not begun: its client gets
/// 502, and no other worker gets it.
#[test]
fn what_a_killed_worker_has_received_and_not_marked_is_not_run() {
    for class in ["sync", "gthread"] {
        let (server, directory) = run_application("window", &["-k", class, "-w", "2"]);
        let mut client = server.connect();
        client.send(get("/ledger/held?/nowhere"));
        kill_process(held_worker(&directory), Signal::KILL).expect("a worker");
        assert_eq!(
            server.get("/").text(),
            "hello",
            "{class}: by the other worker"
        );
        assert_eq!(client.response().status, 502, "{class}");
        client.send(get("/ledger/next"));
        assert_eq!(client.response().text(), "next", "{class}");
        assert_eq!(server.stop().code, Some(0), "{class}");
        let ledger = fs::read_to_string(directory.file("ledger")).expect("a ledger");
        assert!(!ledger.contains("begin held"), "{class}: {ledger}");
    }
}

/// A worker that is held for longer than coring takes to find out which requests a dead one had
/// cannot be told from that: its client gets 502. What the worker answers later reaches nobody.
#[test]
fn a_late_response_to_a_request_that_was_given_up_is_dropped() {
    for class in ["sync", "gthread"] {
        let (server, directory) =
            run_application("window", &["-k", class, "--threads", "4", "-w", "2"]);
        wait_for_two_workers(&server);
        let mut client = server.connect();
        let release = directory.file("release");
        client.send(get(&format!("/ledger/held?{release}")));
        let held = held_worker(&directory);
        let other = children(server.pid()).into_iter().find(|pid| *pid != held);
        kill_process(other.expect("another worker"), Signal::KILL).expect("it runs");
        assert_eq!(client.response().status, 502, "{class}");
        fs::write(release, "").expect("a file");
        eventually("the late response", || {
            let ledger = fs::read_to_string(directory.file("ledger")).expect("a ledger");
            ledger.contains("end held").then_some(())
        });
        client.send(get("/ledger/next"));
        assert_eq!(client.response().text(), "next", "{class}");
        assert_eq!(server.stop().code, Some(0), "{class}");
        let ledger = fs::read_to_string(directory.file("ledger")).expect("a ledger");
        assert_eq!(ledger.matches("begin held").count(), 1, "{class}: {ledger}");
    }
}
