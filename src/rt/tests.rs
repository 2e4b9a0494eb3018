//! An executor whose turns a test runs: wake-ups from any thread, panics, and the sleep protocol.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::task::Poll;
use std::time::Duration;

use super::*;
use crate::rt::{
    Elapsed, JoinError, Timeout, Timer, sleep_ms, spawn_detached, spawn_joined, yield_now,
};

fn executor() -> Executor {
    Executor::new(Arc::default(), 0, Box::new(|| ()))
}

#[test]
fn a_task_that_wakes_itself_runs_once_per_turn() {
    let executor = executor();
    let log = Rc::new(RefCell::new(Vec::new()));
    executor.enter(|| {
        for name in ["a", "b"] {
            let log = log.clone();
            spawn_detached(async move {
                for n in 0..2 {
                    log.borrow_mut().push((name, n));
                    yield_now().await;
                }
            });
        }
        assert!(executor.turn().runnable);
        assert_eq!(*log.borrow(), [("a", 0), ("b", 0)]);
        executor.turn();
        assert!(!executor.turn().runnable);
    });
    assert_eq!(*log.borrow(), [("a", 0), ("b", 0), ("a", 1), ("b", 1)]);
    assert_eq!(executor.metrics.tasks_live.get(), 0);
}

#[test]
fn sleepers_wake_in_the_order_of_their_deadlines() {
    let executor = executor();
    let log = Rc::new(RefCell::new(Vec::new()));
    executor.enter(|| {
        for duration_ms in [300, 5, 70, 5000] {
            let log = log.clone();
            spawn_detached(async move {
                sleep_ms(duration_ms).await;
                log.borrow_mut().push(duration_ms);
            });
        }
        let mut turn = executor.turn();
        while let Some(next_ms) = turn.next_ms {
            executor.advance(next_ms);
            turn = executor.turn();
        }
    });
    assert_eq!(*log.borrow(), [5, 70, 300, 5000]);
    assert_eq!(
        (executor.now_ms.get(), executor.wheel.borrow().live()),
        (5000, 0)
    );
}

#[test]
fn a_panic_ends_only_its_own_task() {
    let executor = executor();
    let done = Rc::new(Cell::new(false));
    executor.enter(|| {
        spawn_detached(async { std::panic::resume_unwind(Box::new("on purpose")) });
        let done = done.clone();
        spawn_detached(async move { done.set(true) });
        executor.turn();
    });
    assert!(done.get());
    assert_eq!(executor.metrics.task_panics.get(), 1);
    assert_eq!(executor.metrics.tasks_live.get(), 0);
}

#[test]
fn a_waker_that_outlived_its_task_does_nothing() {
    let executor = executor();
    let kept = Rc::new(RefCell::new(None));
    executor.enter(|| {
        let keep = kept.clone();
        spawn_detached(async move {
            poll_fn(|context| {
                *keep.borrow_mut() = Some(context.waker().clone());
                Poll::Ready(())
            })
            .await;
        });
        executor.turn();
        let polls = Rc::new(Cell::new(0));
        let count = polls.clone();
        spawn_detached(poll_fn(move |_| {
            count.set(count.get() + 1);
            Poll::Pending
        }));
        executor.turn();
        kept.borrow().as_ref().unwrap().wake_by_ref();
        assert!(!executor.turn().runnable);
        assert_eq!(
            polls.get(),
            1,
            "the slot was reused, with another generation"
        );
    });
}

/// A wake-up that is queued before the worker announces its sleep keeps it awake. A wake-up after
/// the announcement ends its sleep; a second one need not.
#[test]
fn pitfall_20_a_worker_checks_for_wake_ups_again_before_it_sleeps() {
    let (unparks, stored) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
    let (count, store) = (unparks.clone(), stored.clone());
    let unpark = move || {
        count.fetch_add(1, Ordering::SeqCst);
    };
    let executor = Executor::new(Arc::default(), 0, Box::new(unpark));
    executor.spawn(poll_fn(move |context| {
        *store.lock().unwrap() = Some(context.waker().clone());
        Poll::Pending
    }));
    executor.enter(|| executor.turn());
    let waker: Waker = stored.lock().unwrap().take().expect("a waker");
    // Outside `enter`, a wake-up is queued like one of another thread.
    waker.wake_by_ref();
    assert!(
        !executor.wake_queue().prepare_sleep(),
        "a wake-up is queued already"
    );
    assert_eq!(unparks.load(Ordering::SeqCst), 0);
    executor.advance(0);
    assert!(executor.wake_queue().prepare_sleep());
    waker.wake_by_ref();
    waker.wake_by_ref();
    assert_eq!(unparks.load(Ordering::SeqCst), 1);
}

#[test]
fn a_handle_returns_the_outcome_of_its_task() {
    let executor = executor();
    let outcomes = Rc::new(RefCell::new(Vec::new()));
    let late = executor.enter(|| {
        let quick = spawn_joined(async { 1 });
        let slow = spawn_joined(async {
            sleep_ms(10).await;
            2
        });
        let panics = spawn_joined(async { std::panic::resume_unwind(Box::new("on purpose")) });
        let log = outcomes.clone();
        spawn_detached(async move {
            for handle in [slow, quick, panics] {
                let outcome = handle.await;
                log.borrow_mut().push(outcome);
            }
        });
        let late = spawn_joined(std::future::pending::<()>());
        executor.turn();
        executor.advance(10);
        executor.turn();
        executor.turn();
        executor.clear();
        late
    });
    let panicked = JoinError::Panicked("on purpose".into());
    assert_eq!(*outcomes.borrow(), [Ok(2), Ok(1), Err(panicked)]);
    assert_eq!(executor.metrics.task_panics.get(), 1);
    let context = &mut Context::from_waker(Waker::noop());
    assert_eq!(
        Box::pin(late).as_mut().poll(context),
        Poll::Ready(Err(JoinError::Cancelled)),
        "its worker has ended"
    );
}

#[test]
fn an_aborted_task_is_dropped_and_a_finished_one_keeps_its_outcome() {
    let executor = executor();
    let held = Rc::new(());
    let dropped = Rc::downgrade(&held);
    executor.enter(|| {
        let waits = spawn_joined(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        let done = spawn_joined(async {});
        executor.turn();
        waits.abort();
        done.abort();
        assert_eq!(dropped.strong_count(), 1, "dropped before the next turn");
        executor.turn();
        assert_eq!(dropped.strong_count(), 0);
        let joined = spawn_joined(async move { (waits.await, done.await) });
        executor.turn();
        let context = &mut Context::from_waker(Waker::noop());
        assert_eq!(
            Box::pin(joined).as_mut().poll(context),
            Poll::Ready(Ok((Err(JoinError::Cancelled), Ok(()))))
        );
    });
    assert_eq!(executor.metrics.tasks_live.get(), 0);
}

#[test]
fn a_task_continues_when_its_handle_is_dropped() {
    let executor = executor();
    let done = Rc::new(Cell::new(false));
    let set = done.clone();
    executor.enter(|| {
        drop(spawn_joined(async move {
            yield_now().await;
            set.set(true);
        }));
        executor.turn();
        executor.turn();
    });
    assert!(done.get());
}

#[test]
fn a_timeout_ends_a_future_at_its_deadline() {
    let executor = executor();
    let outcomes = Rc::new(RefCell::new(Vec::new()));
    executor.enter(|| {
        for deadline_ms in [10, 30] {
            let outcomes = outcomes.clone();
            spawn_detached(async move {
                let outcome = Timeout::new(deadline_ms, sleep_ms(20)).await;
                outcomes.borrow_mut().push(outcome);
            });
        }
        executor.turn();
        for now_ms in [10, 20] {
            executor.advance(now_ms);
            executor.turn();
        }
    });
    assert_eq!(*outcomes.borrow(), [Err(Elapsed), Ok(())]);
    assert_eq!(executor.wheel.borrow().live(), 0);
}

/// The table of tasks is cut after a burst. A waker of a task whose slot was cut off does nothing
/// to the task that has the slot next.
#[test]
fn the_slots_of_a_burst_are_given_back() {
    const BURST: usize = if cfg!(miri) { 1500 } else { 50_000 };
    let executor = executor();
    let capacity = || executor.tasks.borrow().slots.capacity();
    let kept = Rc::new(RefCell::new(Vec::new()));
    executor.enter(|| {
        for burst in 1..=2 {
            for _ in 0..BURST {
                let keep = kept.clone();
                spawn_detached(poll_fn(move |context| {
                    keep.borrow_mut().push(context.waker().clone());
                    Poll::Ready(())
                }));
            }
            assert!(capacity() >= BURST);
            executor.turn();
            assert!(capacity() <= ENTRIES_MIN, "burst {burst}");
        }
        for _ in 0..BURST {
            spawn_detached(std::future::pending());
        }
        executor.turn();
        kept.take().into_iter().for_each(Waker::wake);
        assert!(!executor.turn().runnable);
    });
    assert_eq!(executor.metrics.task_polls.get(), 3 * BURST as u64);
}

/// The memory that a task needs besides its future, in bytes: its slot, its timer while it sleeps,
/// and its handle.
#[test]
fn a_task_is_small() {
    assert_eq!(size_of::<TaskSlot>(), 24);
    assert_eq!(size_of::<Timer>(), 8);
    executor().enter(|| {
        assert_eq!(size_of_val(&crate::rt::sleep_until(1)), 8);
        assert_eq!(size_of_val(&spawn_joined(async {})), 24);
    });
}

/// Two threads wake each other in turn, so a single lost wake-up would stop both.
#[test]
fn pitfall_20_no_wake_up_from_another_thread_is_lost() {
    const WAKE_ROUNDS: u64 = if cfg!(miri) { 50 } else { 50_000 };
    let parked = Arc::new((Mutex::new(false), Condvar::new()));
    let waker_slot: Arc<Mutex<Option<Waker>>> = Arc::default();
    let (requests, replies) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let other = {
        let (waker_slot, requests) = (waker_slot.clone(), requests.clone());
        let (replies, stop) = (replies.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if replies.load(Ordering::SeqCst) < requests.load(Ordering::SeqCst) {
                    replies.fetch_add(1, Ordering::SeqCst);
                    let waker = waker_slot.lock().unwrap().take();
                    waker.into_iter().for_each(Waker::wake);
                }
                std::hint::spin_loop();
            }
        })
    };
    let unpark = parked.clone();
    let executor = Executor::new(
        Arc::default(),
        0,
        Box::new(move || {
            *unpark.0.lock().unwrap() = true;
            unpark.1.notify_one();
        }),
    );
    executor.enter(|| {
        spawn_detached(async move {
            for round in 1..=WAKE_ROUNDS {
                requests.store(round, Ordering::SeqCst);
                poll_fn(|context| {
                    *waker_slot.lock().unwrap() = Some(context.waker().clone());
                    if replies.load(Ordering::SeqCst) == round {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
            }
        });
        while executor.metrics.tasks_live.get() > 0 {
            executor.advance(0);
            let turn = executor.turn();
            let done = executor.metrics.tasks_live.get() == 0;
            if !turn.runnable && !done && executor.wake_queue().prepare_sleep() {
                let guard = parked.0.lock().unwrap();
                let wait = parked
                    .1
                    .wait_timeout_while(guard, Duration::from_secs(20), |p| !*p);
                let (mut guard, timeout) = wait.unwrap();
                assert!(!timeout.timed_out(), "a wake-up was lost");
                *guard = false;
            }
            executor.wake_queue().awake();
        }
    });
    stop.store(true, Ordering::Relaxed);
    other.join().unwrap();
}
