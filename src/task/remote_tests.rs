//! Coroutines that are started on other workers, and channels between workers.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use super::channel::between;
use super::remote::{self, run_on_all_cores};
use super::run::{run, run_with};
use super::tests::ENGINES;
use super::time::{sleep, timeout};
use super::*;

/// Runs `test` with a second worker, which lives as long as `test` runs.
fn with_another_worker<F>(test: impl Fn(remote::Worker) -> F)
where
    F: Future<Output = ()> + 'static,
{
    for engine in ENGINES {
        let (report, worker) = mpsc::channel();
        let (sender, mut end) = between::channel::<()>(1);
        let other = thread::spawn(move || {
            run_with(engine, async move {
                report.send(remote::current()).expect("the test");
                end.recv().await;
            })
        });
        let worker = worker.recv().expect("a worker");
        let done = test(worker);
        run_with(engine, async move {
            done.await;
            drop(sender);
        })
        .expect("an engine");
        other.join().expect("no panic").expect("an engine");
    }
}

#[test]
fn a_coroutine_is_made_and_runs_on_the_other_worker() {
    with_another_worker(|worker| async move {
        let here = thread::current().id();
        let there = remote::spawn(&worker, || async {
            // Not `Send`, and never leaves its worker.
            let count = Rc::new(Cell::new(0));
            for _ in 0..3 {
                sleep(Duration::from_millis(1)).await;
                count.set(count.get() + 1);
            }
            (count.get(), thread::current().id())
        });
        assert!(!there.is_finished());
        let (count, id) = there.await.expect("no panic");
        assert_eq!(count, 3);
        assert_ne!(id, here);
    });
}

#[test]
fn a_panic_on_the_other_worker_is_returned_by_the_handle() {
    with_another_worker(|worker| async move {
        let panicked: Result<(), _> = Err(JoinError::Panicked("on purpose".into()));
        let coroutine = remote::spawn(&worker, || async {
            std::panic::resume_unwind(Box::new("on purpose"))
        });
        assert_eq!(coroutine.await, panicked);
        let making = remote::spawn(&worker, || -> std::future::Ready<()> {
            std::panic::resume_unwind(Box::new("on purpose"))
        });
        assert_eq!(making.await, panicked);
        assert_eq!(remote::spawn(&worker, || async { 1 }).await, Ok(1));
    });
}

#[test]
fn a_coroutine_of_a_worker_that_ends_is_cancelled() {
    let (report, worker) = mpsc::channel();
    let (begin, begun) = mpsc::channel::<()>();
    let ended = thread::spawn(move || {
        run(async move {
            report.send(remote::current()).expect("the test");
            let _ = begun.recv();
            yield_now().await;
        });
    });
    let worker = worker.recv().expect("a worker");
    run(async move {
        let waits = remote::spawn(&worker, std::future::pending::<()>);
        begin.send(()).expect("a worker");
        let outcome = timeout(Duration::from_secs(60), waits).await;
        assert_eq!(outcome, Ok(Err(JoinError::Cancelled)));
        ended.join().expect("no panic");
        let late = timeout(Duration::from_secs(60), remote::spawn(&worker, || async {})).await;
        assert_eq!(late, Ok(Err(JoinError::Cancelled)));
    });
}

#[test]
fn every_core_has_a_worker_that_lives_until_all_have_returned() {
    let sums = run_on_all_cores(|core| async move {
        if core.number > 0 {
            return 0;
        }
        // The others have returned, or do so soon. Their workers still run coroutines.
        sleep(Duration::from_millis(20)).await;
        let spawned = core.workers.iter().enumerate();
        let spawned =
            spawned.map(|(n, worker)| remote::spawn(worker, move || async move { n + 1 }));
        join_all(spawned).await.into_iter().flatten().sum()
    });
    let count = sums.len();
    assert_eq!(sums[0], count * (count + 1) / 2);
}

#[test]
#[should_panic(expected = "the worker's main coroutine panicked")]
fn a_panic_of_a_main_coroutine_ends_all_cores() {
    run_on_all_cores(|core| async move {
        if core.number == 0 {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    });
}

/// Two workers send each other messages through channels of little room. A lost wake-up would stop
/// both. With more messages: `CORING_MESSAGES=10000000 cargo test --release --lib no_message`.
#[test]
fn no_message_between_workers_is_lost() {
    let count: u64 = match std::env::var("CORING_MESSAGES") {
        Ok(count) => count.parse().expect("a number"),
        Err(_) => 20_000,
    };
    let (there, mut from_here) = between::channel(4);
    let (here, mut from_there) = between::channel(1);
    let echo = thread::spawn(move || {
        run(async move {
            while let Some(n) = from_here.recv().await {
                if n % 4 == 0 && here.send(n).await.is_err() {
                    break;
                }
            }
        });
    });
    run(async move {
        let sending = spawn(async move {
            for n in 0..count {
                there.send(n).await.expect("the other worker");
            }
        });
        let mut next = 0;
        while let Some(n) = from_there.recv().await {
            assert_eq!(n, next);
            next += 4;
        }
        assert_eq!(next, count.next_multiple_of(4));
        assert_eq!(sending.await, Ok(()));
    });
    echo.join().expect("no panic");
}

/// Senders on several threads share the room, and the receiver gets every value once.
#[test]
fn several_threads_send_to_one_worker() {
    const SENDERS: u64 = 4;
    const EACH: u64 = 2_000;
    let (sender, mut receiver) = between::channel(3);
    let threads: Vec<_> = (0..SENDERS)
        .map(|first| {
            let sender = sender.clone();
            thread::spawn(move || {
                run(async move {
                    for n in 0..EACH {
                        sender.send(first + SENDERS * n).await.expect("a receiver");
                    }
                });
            })
        })
        .collect();
    drop(sender);
    run(async move {
        let mut received = Vec::new();
        while let Some(n) = receiver.recv().await {
            received.push(n);
        }
        received.sort_unstable();
        assert_eq!(received, (0..SENDERS * EACH).collect::<Vec<_>>());
    });
    for sender in threads {
        sender.join().expect("no panic");
    }
}

/// Another core may refill a channel as fast as it is read, and empty it as fast as it is filled.
#[test]
fn a_busy_channel_lets_other_coroutines_run() {
    run(async {
        let (sender, mut receiver) = between::channel(1000);
        let turns = Rc::new(Cell::new(0));
        let count = turns.clone();
        let other = spawn(async move {
            loop {
                count.set(count.get() + 1);
                yield_now().await;
            }
        });
        for n in 0..1000 {
            sender.send(n).await.expect("room");
        }
        assert!(turns.get() >= 10, "{} turns", turns.get());
        turns.set(0);
        for n in 0..1000 {
            assert_eq!(receiver.recv().await, Some(n));
        }
        assert!(turns.get() >= 10, "{} turns", turns.get());
        other.abort();
    });
}

/// A core whose main coroutine did not begin says nothing about the reason.
#[test]
#[should_panic(expected = "cannot run the coroutine: no memory")]
fn the_failure_of_a_core_is_reported_and_not_its_consequence() {
    let failed = Err(io::Error::other("no memory"));
    remote::values(vec![Ok(Ok(None)), Ok(failed), Ok(Ok(Some(1)))]);
}

#[test]
fn a_receive_that_is_polled_once_gets_every_queued_value() {
    run(async {
        let (sender, mut receiver) = between::channel(200);
        for n in 0..200 {
            sender.try_send(n).expect("room");
        }
        let mut received = 0;
        // A few polls end with a pause instead.
        for _ in 0..210 {
            let once = pin!(receiver.recv()).poll(&mut Context::from_waker(Waker::noop()));
            received += usize::from(once.is_ready());
        }
        assert_eq!(received, 200);
    });
}
