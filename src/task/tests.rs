//! Coroutines on both engines, and channels whose ends are dropped.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::channel::Closed;
use super::channel::local::channel;
use super::run::{run, run_with};
use super::time::{sleep, sleep_until, timeout};
use super::*;
use crate::engine::EngineChoice;
use crate::rt::Elapsed;

pub(super) const ENGINES: [EngineChoice; 2] = [EngineChoice::Auto, EngineChoice::Epoll];

/// Runs a coroutine made by `coroutine` on each engine.
fn on_each<T: 'static>(coroutine: impl AsyncFn() -> T + Copy + 'static) -> [T; 2] {
    ENGINES.map(|engine| run_with(engine, async move { coroutine().await }).expect("an engine"))
}

fn ms(duration_ms: u64) -> Duration {
    Duration::from_millis(duration_ms)
}

#[test]
fn coroutines_spawned_by_the_iterator_of_join_all_run_concurrently() {
    run(async {
        let running = Rc::new(Cell::new(0));
        let spawned = (0..3).map(|_| {
            let running = running.clone();
            spawn(async move {
                running.set(running.get() + 1);
                sleep(Duration::from_millis(50)).await;
                running.get()
            })
        });
        assert_eq!(join_all(spawned).await, [Ok(3), Ok(3), Ok(3)]);
    });
}

#[test]
fn joined_coroutines_take_as_long_as_the_longest() {
    let started = Instant::now();
    on_each(async || {
        let handles = [900, 500, 700].map(|duration_ms| {
            spawn(async move {
                sleep(ms(duration_ms)).await;
                duration_ms
            })
        });
        assert_eq!(join_all(handles).await, [Ok(900), Ok(500), Ok(700)]);
    });
    let took = started.elapsed();
    assert!(took >= ms(2 * 900), "{took:?}");
    assert!(took < ms(2 * (900 + 500)), "one after the other: {took:?}");
}

/// A long turn does not shorten a sleep that begins at its end.
#[test]
fn a_sleep_is_never_shorter_than_its_duration() {
    on_each(async || {
        for n in 0..20 {
            std::thread::sleep(ms(n));
            let started = Instant::now();
            sleep(ms(10)).await;
            assert!(started.elapsed() >= ms(10), "{:?}", started.elapsed());
        }
    });
}

/// Polling a sleep of another worker panics. Dropping it does not remove a timer of this worker.
#[test]
fn a_sleep_does_not_outlive_its_worker() {
    let [left, polled] = run(async { [0; 2].map(|_| sleep(ms(600_000))) });
    let woken = run(async {
        let mine = spawn(sleep(ms(10)));
        drop(left);
        let (first, second) = (spawn(sleep(ms(20))), spawn(sleep(ms(30))));
        let panicked = spawn(polled).await;
        (mine.await, first.await, second.await, panicked.is_err())
    });
    assert_eq!(woken, (Ok(()), Ok(()), Ok(()), true));
}

#[test]
fn a_timeout_ends_a_future_that_takes_longer() {
    on_each(async || {
        assert_eq!(timeout(ms(10), sleep(ms(60_000))).await, Err(Elapsed));
        assert_eq!(timeout(ms(60_000), sleep(ms(10))).await, Ok(()));
        assert_eq!(timeout(ms(0), async { 7 }).await, Ok(7));
    });
}

#[test]
fn a_panic_is_returned_by_its_own_handle_only() {
    on_each(async || {
        let fails = spawn(async { std::panic::resume_unwind(Box::new("on purpose")) });
        let other = spawn(async {
            sleep(ms(20)).await;
            1
        });
        let failed: Result<(), JoinError> = fails.await;
        assert_eq!(failed, Err(JoinError::Panicked("on purpose".into())));
        assert_eq!(other.await, Ok(1));
    });
}

#[test]
fn an_aborted_coroutine_is_cancelled() {
    on_each(async || {
        let sleeper = spawn(sleep(ms(60_000)));
        sleeper.abort();
        assert_eq!(sleeper.await, Err(JoinError::Cancelled));
    });
}

/// Coroutines that still run when the first one returns are dropped.
#[test]
fn a_worker_ends_with_its_first_coroutine() {
    let handles = on_each(async || spawn(sleep(ms(60_000))));
    for handle in handles {
        let outcome = run(handle);
        assert_eq!(outcome, Err(JoinError::Cancelled));
    }
}

#[test]
#[should_panic(expected = "spawn the coroutine there")]
fn run_panics_within_a_worker() {
    let inner = Rc::new(Cell::new(None));
    let message = inner.clone();
    run(async move {
        let tried = spawn(async { run(async {}) }).await;
        message.set(Some(tried.expect_err("no worker").to_string()));
    });
    panic!("{}", inner.take().expect("a message"));
}

#[test]
fn coroutines_take_turns() {
    on_each(async || {
        let log = Rc::new(RefCell::new(String::new()));
        let handles = ["a", "b"].map(|name| {
            let log = log.clone();
            spawn(async move {
                for _ in 0..3 {
                    log.borrow_mut().push_str(name);
                    yield_now().await;
                }
            })
        });
        join_all(handles).await;
        assert_eq!(*log.borrow(), "ababab");
    });
}

#[test]
fn a_full_channel_makes_its_senders_wait_in_order() {
    run(async {
        let (sender, mut receiver) = channel(2);
        let sent = Rc::new(Cell::new(0));
        for n in 0..6 {
            let (sender, sent) = (sender.clone(), sent.clone());
            spawn(async move {
                sender.send(n).await.expect("a receiver");
                sent.set(sent.get() + 1);
            });
        }
        drop(sender);
        yield_now().await;
        yield_now().await;
        assert_eq!(sent.get(), 2, "there is room for two");
        let mut received = Vec::new();
        while let Some(n) = receiver.recv().await {
            received.push(n);
            yield_now().await;
            assert!(sent.get() <= received.len() + 2);
        }
        assert_eq!(received, [0, 1, 2, 3, 4, 5]);
    });
}

#[test]
fn an_aborted_sender_passes_its_turn_on() {
    run(async {
        let (sender, mut receiver) = channel(1);
        sender.send(0).await.expect("room");
        let spawn_sender = |n| {
            let sender = sender.clone();
            spawn(async move { sender.send(n).await })
        };
        let (first, second) = (spawn_sender(1), spawn_sender(2));
        yield_now().await;
        // This wakes the first sender, which is dropped before it runs.
        assert_eq!(receiver.recv().await, Some(0));
        first.abort();
        assert_eq!(first.await, Err(JoinError::Cancelled));
        let next = timeout(ms(60_000), receiver.recv()).await;
        assert_eq!(next, Ok(Some(2)));
        assert_eq!(second.await, Ok(Ok(())));
    });
}

#[test]
fn senders_get_their_values_back_when_the_receiver_is_dropped() {
    run(async {
        let (sender, receiver) = channel(1);
        sender.send("queued").await.expect("room");
        let waiting = {
            let sender = sender.clone();
            spawn(async move { sender.send("waiting").await })
        };
        yield_now().await;
        drop(receiver);
        assert_eq!(waiting.await, Ok(Err(Closed("waiting"))));
        assert_eq!(sender.send("late").await, Err(Closed("late")));
    });
}

/// A foreign waker that panics when it is woken.
struct PanickingWaker;

impl std::task::Wake for PanickingWaker {
    fn wake(self: std::sync::Arc<Self>) {
        std::panic::resume_unwind(Box::new("on purpose"));
    }
}

#[test]
fn a_panicking_waker_of_one_sender_does_not_prevent_the_wake_up_of_the_next() {
    run(async {
        let (sender, receiver) = channel(1);
        sender.send(0).await.expect("room");
        let mut first = Box::pin(sender.send(1));
        let waker = std::task::Waker::from(std::sync::Arc::new(PanickingWaker));
        let mut context = std::task::Context::from_waker(&waker);
        assert!(first.as_mut().poll(&mut context).is_pending());
        let second = sender.clone();
        let second = spawn(async move { second.send(2).await });
        yield_now().await;
        drop(receiver);
        let outcome = timeout(ms(30_000), second).await;
        assert_eq!(outcome, Ok(Ok(Err(Closed(2)))));
    });
}

#[test]
fn recv_returns_none_when_the_last_sender_is_dropped() {
    run(async {
        let (sender, mut receiver) = channel::<()>(1);
        let other = sender.clone();
        let received = spawn(async move { receiver.recv().await });
        yield_now().await;
        drop(sender);
        yield_now().await;
        drop(other);
        assert_eq!(received.await, Ok(None));
    });
}

/// Otherwise a branch of `select!` that is always ready first would hide the deadline.
#[test]
fn a_deadline_that_has_passed_is_ready_at_once() {
    run(async {
        let mut sleep = std::pin::pin!(sleep_until(Instant::now()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(sleep.as_mut().poll(&mut context).is_ready());
    });
}

#[test]
fn an_abort_handle_keeps_no_outcome() {
    run(async {
        let value = Rc::new(());
        for is_dropped_first in [true, false] {
            let copy = value.clone();
            let handle = spawn(async move { copy });
            let abort = handle.abort_handle();
            if !is_dropped_first {
                yield_now().await;
            }
            drop(handle);
            yield_now().await;
            assert!(abort.is_finished());
            assert_eq!(Rc::strong_count(&value), 1, "{is_dropped_first}");
        }
    });
}
