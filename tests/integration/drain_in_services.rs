//! Drains as seen by services: `coring::draining` tells a task that a drain has begun, and
//! `coring::hold_drain` makes the drain wait for a task.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coring::{Body, Limits, Request, Response, StatusCode};

use crate::support::{GET, Local, builder, eventually};

/// Longer than the time in which a drain accepts new requests. After that time the server drops
/// the tasks that do not hold the drain.
const BEYOND_GRACE: Duration = Duration::from_millis(2500);

/// A task that would write a response for ever finishes it when the drain begins.
#[test]
fn an_endless_response_ends_with_a_last_chunk_in_a_drain() {
    let server = Local::start_with(builder(), || {
        async |_: Request| {
            let (mut sender, body) = Body::channel(1024);
            coring::spawn(async move {
                let mut draining = coring::draining();
                while coring::time::timeout(Duration::from_millis(50), &mut draining)
                    .await
                    .is_err()
                {
                    sender.write("tick ").await.expect("a connected client");
                }
                sender.write("the end").await.expect("a connected client");
                sender.finish();
            });
            Response::text(body)
        }
    });
    let mut client = server.connect();
    client.send(GET);
    client.head();
    assert_eq!(client.chunk().expect("a chunk"), b"tick ");
    server.drain();
    let last = std::iter::repeat_with(|| client.chunk().expect("a chunk")).find(|chunk| {
        assert!(!chunk.is_empty(), "the response ended without \"the end\"");
        chunk.ends_with(b"the end")
    });
    assert!(last.is_some());
    assert_eq!(client.chunk().expect("the last chunk"), b"");
    client.expect_fin();
    server.stop();
}

/// A server whose calls spawn a slow task, which holds the drain if `holds` is set; and the number
/// of these tasks that have finished.
fn server_with_slow_tasks(holds: bool, limits: Limits) -> (Local, Arc<AtomicUsize>) {
    let finished: Arc<AtomicUsize> = Arc::default();
    let count = finished.clone();
    let server = Local::start_with(builder().limits(limits), move || {
        let count = count.clone();
        async move |_: Request| {
            let count = count.clone();
            let hold = holds.then(coring::hold_drain);
            coring::spawn(async move {
                coring::time::sleep(BEYOND_GRACE).await;
                count.fetch_add(1, Ordering::Relaxed);
                drop(hold);
            });
            Response::new(StatusCode::ACCEPTED)
        }
    });
    (server, finished)
}

/// Starts three tasks, drains the server, and returns how many of the tasks finished.
fn tasks_finished_in_drain(holds: bool, limits: Limits) -> usize {
    let (server, finished) = server_with_slow_tasks(holds, limits);
    let mut client = server.connect();
    for _ in 0..3 {
        client.send(GET);
        assert_eq!(client.response().status, 202);
    }
    drop(client);
    eventually("the end of the connection", || {
        (server.count("connections_open") == 0).then_some(())
    });
    server.drain();
    server.wait();
    finished.load(Ordering::Relaxed)
}

#[test]
fn a_drain_waits_for_tasks_that_hold_it() {
    assert_eq!(tasks_finished_in_drain(true, Limits::default()), 3);
    assert_eq!(tasks_finished_in_drain(false, Limits::default()), 0);
}

#[test]
fn a_drain_does_not_wait_beyond_its_timeout() {
    let mut limits = Limits::default();
    limits.drain_timeout = Some(Duration::from_millis(100));
    assert_eq!(tasks_finished_in_drain(true, limits), 0);
}
