//! The executor driven by hand: turns, wake-ups from everywhere, panics, and the sleep protocol.

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
fn a_panic_costs_its_own_task() {
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
            "the slot was used again, but its generation is another"
        );
    });
}

/// A wake-up that comes before the worker has said that it sleeps keeps it awake; one that comes
/// after that ends its sleep, and a second one has no need to.
#[test]
fn pitfall_20_who_falls_asleep_looks_once_more() {
    let (unparked, woken) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
    let (count, put) = (unparked.clone(), woken.clone());
    let unpark = move || {
        count.fetch_add(1, Ordering::SeqCst);
    };
    let executor = Executor::new(Arc::default(), 0, Box::new(unpark));
    executor.spawn(poll_fn(move |context| {
        *put.lock().unwrap() = Some(context.waker().clone());
        Poll::Pending
    }));
    executor.enter(|| executor.turn());
    let waker: Waker = woken.lock().unwrap().take().expect("a waker");
    // From outside of `enter` a wake-up goes the way of another thread's.
    waker.wake_by_ref();
    assert!(
        !executor.inbox().prepare_sleep(),
        "somebody has come already"
    );
    assert_eq!(unparked.load(Ordering::SeqCst), 0);
    executor.advance(0);
    assert!(executor.inbox().prepare_sleep());
    waker.wake_by_ref();
    waker.wake_by_ref();
    assert_eq!(unparked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_handle_tells_how_its_task_ended() {
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
        "its worker is gone"
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
        assert_eq!(dropped.strong_count(), 1, "only a turn ends it");
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
fn a_dropped_handle_lets_its_task_run_on() {
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
fn a_future_has_until_its_deadline() {
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

/// Somebody else's waker, which comes back to the executor when it is woken and when it is dropped.
struct Meddler;

impl std::task::Wake for Meddler {
    fn wake(self: Arc<Self>) {
        drop(Timer::new());
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        drop(Timer::new());
    }
}

#[test]
fn a_waker_of_others_may_use_the_wheel() {
    let executor = executor();
    executor.enter(|| {
        let timer = Timer::new();
        let wait = || {
            let waker = Waker::from(Arc::new(Meddler));
            timer.poll_expired(&mut Context::from_waker(&waker))
        };
        timer.set(10);
        assert!(wait().is_pending());
        // The second takes the place of the first, and is woken.
        assert!(wait().is_pending());
        executor.advance(10);
        assert!(wait().is_ready());
        timer.set(20);
        assert!(wait().is_pending());
        drop(timer);
    });
    assert_eq!(executor.wheel.borrow().live(), 0);
}

/// The payload of a panic whose destructor panics, with another of its kind.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new(Self));
    }
}

/// A program's waker that panics when it is woken, and one that panics when it is dropped.
struct Saboteur {
    woken: bool,
}

impl std::task::Wake for Saboteur {
    fn wake(self: Arc<Self>) {
        if self.woken {
            std::panic::resume_unwind(Box::new(Bomb));
        }
    }
}

impl Drop for Saboteur {
    fn drop(&mut self) {
        if !self.woken {
            std::panic::resume_unwind(Box::new(Bomb));
        }
    }
}

fn saboteur(woken: bool) -> Waker {
    Waker::from(Arc::new(Saboteur { woken }))
}

/// Notes that it was woken.
#[derive(Default)]
struct Bell(AtomicBool);

impl std::task::Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_waker_that_panics_takes_no_wake_up_from_others() {
    for woken in [false, true] {
        let (executor, bell) = (executor(), Arc::new(Bell::default()));
        executor.enter(|| {
            let timers = [(); 3].map(|()| Timer::new());
            let wakers = [saboteur(woken), Waker::from(bell.clone()), saboteur(woken)];
            for (timer, waker) in timers.iter().zip(wakers) {
                timer.set(10);
                let mut context = Context::from_waker(&waker);
                assert!(timer.poll_expired(&mut context).is_pending());
            }
            executor.advance(10);
        });
        assert!(bell.0.load(Ordering::Relaxed));
    }
}

#[test]
fn a_worker_ends_in_order_with_wakers_that_panic() {
    let executor = executor();
    executor.enter(|| {
        for _ in 0..2 {
            let timer = Timer::new();
            timer.set(10);
            let waker = saboteur(false);
            let mut context = Context::from_waker(&waker);
            assert!(timer.poll_expired(&mut context).is_pending());
            std::mem::forget(timer);
        }
    });
    drop(executor);
}

#[test]
fn a_payload_whose_destructor_panics_costs_its_own_task() {
    let executor = executor();
    let done = Rc::new(Cell::new(false));
    executor.enter(|| {
        spawn_detached(async { std::panic::resume_unwind(Box::new(Bomb)) });
        // Its future panics when it is dropped.
        spawn_detached(async {
            let _bomb = Bomb;
        });
        for _ in 0..2 {
            spawn_detached(async {
                let _bomb = Bomb;
                std::future::pending().await
            });
        }
        let set = done.clone();
        spawn_detached(async move { set.set(true) });
        executor.turn();
        assert!(done.get());
        executor.clear();
    });
    assert_eq!(executor.metrics.task_panics.get(), 4);
    assert_eq!(executor.metrics.tasks_live.get(), 0);
}

/// The waker of whoever joins may panic while the panic of the joined task is under way.
#[test]
fn a_joined_task_panics_once_whatever_its_waiter_does() {
    let executor = executor();
    executor.enter(|| {
        let mut handle = Box::pin(spawn_joined(async {
            std::panic::resume_unwind(Box::new(Bomb));
        }));
        let waker = saboteur(true);
        let mut context = Context::from_waker(&waker);
        assert!(handle.as_mut().poll(&mut context).is_pending());
        executor.turn();
        let outcome = handle.as_mut().poll(&mut context);
        let panicked = JoinError::Panicked("no message".into());
        assert_eq!(outcome, Poll::Ready(Err(panicked)));
    });
    assert_eq!(executor.metrics.task_panics.get(), 1);
}

/// What a task costs besides its future: its slot, a reference to its outcome, and the timer and
/// the outcome of one that sleeps and is waited for.
#[test]
fn a_task_is_small() {
    assert_eq!(size_of::<Slot>(), 24);
    assert_eq!(size_of::<Timer>(), 8);
    executor().enter(|| {
        assert_eq!(size_of_val(&crate::rt::sleep_until(1)), 8);
        assert_eq!(size_of_val(&spawn_joined(async {})), 24);
    });
}

/// A pair of threads pass the turn to and fro; a single lost wake-up would stop them.
#[test]
fn pitfall_20_no_wake_up_from_another_thread_is_lost() {
    const ROUNDS: u64 = if cfg!(miri) { 50 } else { 50_000 };
    let parked = Arc::new((Mutex::new(false), Condvar::new()));
    let waker_slot: Arc<Mutex<Option<Waker>>> = Arc::default();
    let (asked, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let other = {
        let (waker_slot, asked) = (waker_slot.clone(), asked.clone());
        let (answered, stop) = (answered.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if answered.load(Ordering::SeqCst) < asked.load(Ordering::SeqCst) {
                    answered.fetch_add(1, Ordering::SeqCst);
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
            for round in 1..=ROUNDS {
                asked.store(round, Ordering::SeqCst);
                poll_fn(|context| {
                    *waker_slot.lock().unwrap() = Some(context.waker().clone());
                    if answered.load(Ordering::SeqCst) == round {
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
            if !turn.runnable && !done && executor.inbox().prepare_sleep() {
                let guard = parked.0.lock().unwrap();
                let wait = parked
                    .1
                    .wait_timeout_while(guard, Duration::from_secs(20), |p| !*p);
                let (mut guard, timeout) = wait.unwrap();
                assert!(!timeout.timed_out(), "a wake-up was lost");
                *guard = false;
            }
            executor.inbox().awake();
        }
    });
    stop.store(true, Ordering::Relaxed);
    other.join().unwrap();
}
