//! Foreign wakers and destructors, which may call the executor and may panic.

use std::future::{Future, pending};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use super::{Arc, Cell, Context, Executor, Pin, Poll, Rc, Waker};
use crate::rt::{
    DrainHold, Event, JoinError, Timer, calling_waker, drain_released, hold_drain, spawn_detached,
    spawn_joined,
};

fn executor() -> Executor {
    Executor::new(Arc::default(), 0, Box::new(|| ()))
}

thread_local! {
    static EVENT: Rc<Event> = Rc::default();
    /// A hold that a foreign waker drops.
    static HOLD: Cell<Option<DrainHold>> = const { Cell::new(None) };
}

/// Uses everything in this room that stores wakers.
fn reenter() {
    drop(Timer::new());
    drop(HOLD.take());
    let mut wait = EVENT.with(Event::wait);
    let _ = poll_with(&mut wait, Waker::noop());
}

/// Two foreign wakers that call [`reenter`] when they are cloned and when they are dropped.
static REENTER: [fn(); 2] = [reenter; 2];

fn poll_with<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

#[test]
fn a_foreign_waker_may_use_the_wheel() {
    let executor = executor();
    executor.enter(|| {
        let timer = Timer::new();
        let wait = |n: usize| {
            let waker = calling_waker(&REENTER[n]);
            timer.poll_expired(&mut Context::from_waker(&waker))
        };
        timer.set(10);
        assert!(wait(0).is_pending());
        // The second waker replaces the first, which is dropped. The second is woken.
        assert!(wait(1).is_pending());
        executor.advance(10);
        assert!(wait(0).is_ready());
        timer.set(20);
        assert!(wait(0).is_pending());
        timer.wake_for_peer(20, &Context::from_waker(&calling_waker(&REENTER[1])));
        drop(timer);
    });
    assert_eq!(executor.wheel.borrow().live(), 0);
}

#[test]
fn a_foreign_waker_may_wait_for_the_event_that_stores_it() {
    executor().enter(|| {
        let mut wait = EVENT.with(Event::wait);
        for n in [0, 1, 0] {
            assert!(poll_with(&mut wait, &calling_waker(&REENTER[n])).is_pending());
        }
        EVENT.with(|event| event.fire());
        assert!(poll_with(&mut wait, Waker::noop()).is_ready());
    });
}

#[test]
fn a_foreign_waker_may_drop_the_last_hold_of_a_drain() {
    let flag = Arc::new(WakeFlag::default());
    executor().enter(|| {
        // When it is cloned.
        HOLD.set(Some(hold_drain()));
        let mut released = Box::pin(drain_released());
        assert!(poll_with(&mut released, &calling_waker(&REENTER[0])).is_ready());
        // When another replaces it.
        let hold = hold_drain();
        let mut released = Box::pin(drain_released());
        assert!(poll_with(&mut released, &calling_waker(&REENTER[0])).is_pending());
        HOLD.set(Some(hold));
        let _ = poll_with(&mut released, &Waker::from(flag.clone()));
        assert!(flag.0.load(Ordering::Relaxed), "the other waker is woken");
        assert!(poll_with(&mut released, Waker::noop()).is_ready());
    });
}

/// A value whose destructor panics, with another such value as the payload.
struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        resume_unwind(Box::new(Self));
    }
}

/// A foreign waker that panics when it is woken, or else when it is dropped.
struct PanickingWaker {
    when_woken: bool,
}

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        if self.when_woken {
            resume_unwind(Box::new(PanicOnDrop));
        }
    }
}

impl Drop for PanickingWaker {
    fn drop(&mut self) {
        if !self.when_woken {
            resume_unwind(Box::new(PanicOnDrop));
        }
    }
}

fn panicking_waker(when_woken: bool) -> Waker {
    Waker::from(Arc::new(PanickingWaker { when_woken }))
}

/// A waker that records that it was woken.
#[derive(Default)]
struct WakeFlag(AtomicBool);

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_panicking_waker_does_not_prevent_other_wake_ups() {
    for when_woken in [false, true] {
        let (executor, flag) = (executor(), Arc::new(WakeFlag::default()));
        executor.enter(|| {
            let timers = [(); 3].map(|()| Timer::new());
            let wakers = [
                panicking_waker(when_woken),
                Waker::from(flag.clone()),
                panicking_waker(when_woken),
            ];
            for (timer, waker) in timers.iter().zip(wakers) {
                timer.set(10);
                let mut context = Context::from_waker(&waker);
                assert!(timer.poll_expired(&mut context).is_pending());
            }
            executor.advance(10);
        });
        assert!(flag.0.load(Ordering::Relaxed));
    }
}

#[test]
fn a_panic_of_a_replaced_waker_does_not_reach_the_task_that_replaces_it() {
    executor().enter(|| {
        let timer = Timer::new();
        timer.set(10);
        let hold = hold_drain();
        let waits: [Wait<'_>; 5] = [
            Box::new(|context| assert!(timer.poll_expired(context).is_pending())),
            Box::new(|context| timer.wake_for_peer(10, context)),
            repeat_poll(spawn_joined(pending::<()>())),
            repeat_poll(EVENT.with(Event::wait)),
            repeat_poll(Box::pin(drain_released())),
        ];
        for mut wait in waits {
            let panicking = panicking_waker(false);
            wait(&mut Context::from_waker(&panicking));
            drop(panicking);
            wait(&mut Context::from_waker(Waker::noop()));
        }
        drop(hold);
        let waker = panicking_waker(false);
        let mut context = Context::from_waker(&waker);
        assert!(timer.poll_expired(&mut context).is_pending());
        drop(waker);
        drop(timer);
    });
}

/// A function that polls a future once, which is not ready.
type Wait<'a> = Box<dyn FnMut(&mut Context<'_>) + 'a>;

fn repeat_poll<'a, F: Future + Unpin + 'a>(mut future: F) -> Wait<'a> {
    Box::new(move |context| assert!(Pin::new(&mut future).poll(context).is_pending()))
}

#[test]
fn dropping_an_executor_with_panicking_wakers_does_not_panic() {
    let executor = executor();
    executor.enter(|| {
        for _ in 0..2 {
            let timer = Timer::new();
            timer.set(10);
            let waker = panicking_waker(false);
            let mut context = Context::from_waker(&waker);
            assert!(timer.poll_expired(&mut context).is_pending());
            std::mem::forget(timer);
        }
    });
    drop(executor);
}

#[test]
fn a_panic_in_a_destructor_ends_only_its_own_task() {
    let executor = executor();
    let done = Rc::new(Cell::new(false));
    executor.enter(|| {
        spawn_detached(async { resume_unwind(Box::new(PanicOnDrop)) });
        // This task panics when its future drops the value.
        spawn_detached(async {
            let _value = PanicOnDrop;
        });
        for _ in 0..2 {
            spawn_detached(async {
                let _value = PanicOnDrop;
                pending().await
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

/// The waker of the waiting task may panic while the joined task panics.
#[test]
fn a_joined_task_counts_one_panic_even_if_the_waker_panics() {
    let executor = executor();
    executor.enter(|| {
        let mut handle = Box::pin(spawn_joined(async {
            resume_unwind(Box::new(PanicOnDrop));
        }));
        let waker = panicking_waker(true);
        let mut context = Context::from_waker(&waker);
        assert!(handle.as_mut().poll(&mut context).is_pending());
        executor.turn();
        let outcome = handle.as_mut().poll(&mut context);
        let panicked = JoinError::Panicked("no message".into());
        assert_eq!(outcome, Poll::Ready(Err(panicked)));
    });
    assert_eq!(executor.metrics.task_panics.get(), 1);
}
