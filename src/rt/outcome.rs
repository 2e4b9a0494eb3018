//! The outcome of work on another thread, and the future that waits for it.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::foreign::{drop_waker, wake};
use super::join::JoinError;
use super::opaque::opaque;
use super::waker::ClonedWaker;
use crate::sys::lock::lock;

/// Makes a future for an outcome, and the other end, which sets it on any thread.
pub fn outcome<T>() -> (OutcomeSetter<T>, Outcome<T>) {
    let slot = Arc::new(Mutex::new(OutcomeSlot {
        outcome: None,
        waiter: None,
    }));
    (OutcomeSetter(Some(slot.clone())), Outcome(slot))
}

/// Sets an outcome. If this is dropped instead, the outcome is [`JoinError::Cancelled`].
pub struct OutcomeSetter<T>(Option<Arc<Mutex<OutcomeSlot<T>>>>);

/// A future that waits for an outcome.
pub struct Outcome<T>(Arc<Mutex<OutcomeSlot<T>>>);

struct OutcomeSlot<T> {
    outcome: Option<Result<T, JoinError>>,
    waiter: Option<Waker>,
}

impl<T> OutcomeSetter<T> {
    /// Whether the future still exists.
    pub fn is_awaited(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|slot| Arc::strong_count(slot) > 1)
    }

    /// Sets the outcome, and wakes the task that waits for it.
    pub fn set(mut self, outcome: Result<T, JoinError>) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Result<T, JoinError>) {
        if let Some(shared) = self.0.take() {
            let mut slot = lock(&shared);
            slot.outcome = Some(outcome);
            let waiter = slot.waiter.take();
            drop(slot);
            // Before the wake: the woken task may ask whether the outcome was set.
            drop(shared);
            waiter.into_iter().for_each(wake);
        }
    }
}

impl<T> Drop for OutcomeSetter<T> {
    fn drop(&mut self) {
        self.finish(Err(JoinError::Cancelled));
    }
}

impl<T> Outcome<T> {
    /// A future that is ready with `error`.
    pub fn failed(error: JoinError) -> Self {
        let (setter, future) = outcome();
        setter.set(Err(error));
        future
    }

    /// Whether the outcome was set.
    pub fn is_set(&self) -> bool {
        // A future that is ready shares the slot with no setter any more.
        Arc::strong_count(&self.0) == 1
    }
}

impl<T> Future for Outcome<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut waker = ClonedWaker::of(context);
        let mut slot = lock(&self.0);
        match slot.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                waker.store(&mut slot.waiter);
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Outcome<T> {
    fn drop(&mut self) {
        let waiter = lock(&self.0).waiter.take();
        waiter.into_iter().for_each(drop_waker);
    }
}

opaque!(OutcomeSetter, Outcome);

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::OnceLock;
    use std::task::Wake;

    use super::*;

    /// Notes whether the outcome is set when its waiter is woken.
    struct Asker {
        outcome: Mutex<Option<Pin<Box<Outcome<u8>>>>>,
        was_set: OnceLock<bool>,
    }

    impl Wake for Asker {
        fn wake(self: Arc<Self>) {
            let outcome = self.outcome.lock().expect("no panic");
            let is_set = outcome.as_ref().expect("a future").is_set();
            self.was_set.set(is_set).expect("one wake-up");
        }
    }

    #[test]
    fn a_task_that_is_woken_finds_the_outcome_set() {
        let (setter, future) = outcome();
        let mut future = Box::pin(future);
        let asker = Arc::new(Asker {
            outcome: Mutex::new(None),
            was_set: OnceLock::new(),
        });
        let waker = Waker::from(asker.clone());
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending() && !future.is_set());
        *asker.outcome.lock().expect("no panic") = Some(future);
        setter.set(Ok(7));
        assert_eq!(asker.was_set.get(), Some(&true));
        let future = asker.outcome.lock().expect("no panic").take();
        let polled = pin!(future.expect("a future")).poll(&mut Context::from_waker(&waker));
        assert_eq!(polled, Poll::Ready(Ok(7)));
    }
}
