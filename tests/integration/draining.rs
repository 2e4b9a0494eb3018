//! Drains as services see them: they are told, and may have a coroutine waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coring::{Body, Limits, Request, Response, StatusCode};

use crate::support::{GET, Local, builder, eventually};

/// Longer than a drain lets new requests arrive: what is not waited for is dropped then.
const BEYOND_GRACE: Duration = Duration::from_millis(2500);

/// A response that would go on for ever ends as a whole.
#[test]
fn a_stream_that_is_told_of_a_drain_ends_in_order() {
    let server = Local::start_with(builder(), || {
        async |_: Request| {
            let (mut sender, body) = Body::channel(1024);
            coring::spawn(async move {
                let mut draining = coring::draining();
                while coring::time::timeout(Duration::from_millis(50), &mut draining)
                    .await
                    .is_err()
                {
                    sender.write("tick ").await.expect("the client is there");
                }
                sender.write("the end").await.expect("the client is there");
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
        assert!(!chunk.is_empty(), "the response ends too early");
        chunk.ends_with(b"the end")
    });
    assert!(last.is_some());
    assert_eq!(client.chunk().expect("the last chunk"), b"");
    client.ends();
    server.stop();
}

/// A server whose calls spawn a coroutine that takes its time and counts its end; it holds the
/// drain up if it `holds`.
fn slow(holds: bool, limits: Limits) -> (Local, Arc<AtomicUsize>) {
    let done: Arc<AtomicUsize> = Arc::default();
    let count = done.clone();
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
    (server, done)
}

/// How many of three coroutines come to their end in a drain.
fn ended_in_drain(holds: bool, limits: Limits) -> usize {
    let (server, done) = slow(holds, limits);
    let mut client = server.connect();
    for _ in 0..3 {
        client.send(GET);
        assert_eq!(client.answer().status, 202);
    }
    drop(client);
    eventually("the end of the connection", || {
        (server.count("connections_open") == 0).then_some(())
    });
    server.drain();
    server.wait();
    done.load(Ordering::Relaxed)
}

#[test]
fn a_drain_waits_for_what_holds_it_up() {
    assert_eq!(ended_in_drain(true, Limits::default()), 3);
    assert_eq!(ended_in_drain(false, Limits::default()), 0);
}

#[test]
fn a_drain_is_not_held_up_beyond_its_limit() {
    let mut limits = Limits::default();
    limits.drain_timeout = Some(Duration::from_millis(100));
    assert_eq!(ended_in_drain(true, limits), 0);
}
