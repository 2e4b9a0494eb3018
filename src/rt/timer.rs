//! Timers as coroutines see them.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::executor::with_current;
use super::task::{after_ms, current};

/// A deadline that can be moved as often as one likes: moving it later is one store.
#[derive(Debug)]
pub struct Timer {
    slot: u32,
}

impl Timer {
    /// A timer on the current worker, not armed.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn new() -> Self {
        Self {
            slot: current(|executor| executor.wheel.borrow_mut().insert()),
        }
    }

    /// Arms the timer, or moves it, to `deadline_ms` on the clock of [`now_ms`](super::now_ms);
    /// `u64::MAX` disarms it.
    #[inline]
    pub fn set(&self, deadline_ms: u64) {
        current(|executor| executor.wheel.borrow_mut().set(self.slot, deadline_ms));
    }

    /// Ready once the deadline has come; until then the caller is woken when it comes.
    #[inline]
    pub fn poll_expired(&self, context: &mut Context<'_>) -> Poll<()> {
        current(|executor| {
            let mut wheel = executor.wheel.borrow_mut();
            if wheel.deadline_ms(self.slot) <= executor.now_ms.get() {
                return Poll::Ready(());
            }
            wheel.set_waker(self.slot, context.waker());
            Poll::Pending
        })
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // Outside its worker there is no wheel left to forget the timer.
        with_current(|executor| executor.wheel.borrow_mut().remove(self.slot));
    }
}

/// Waits for `duration_ms`.
pub async fn sleep(duration_ms: u64) {
    let timer = Timer::new();
    timer.set(after_ms(duration_ms));
    poll_fn(|context| timer.poll_expired(context)).await;
}
