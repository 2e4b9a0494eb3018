//! Timers for coroutines: deadlines, sleeps and timeouts.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::executor::with_current;
use super::foreign::drop_waker;
use super::run::Run;
use super::task::{current, now_ms};
use super::waker::ClonedWaker;

/// A deadline that can be moved at any time. Moving it later costs one store.
///
/// A timer can be used only on the worker that made it: on another worker, its slot belongs to
/// another timer. It can be dropped outside a turn of its worker; the slot is then free from the
/// next turn on.
#[derive(Debug)]
pub struct Timer {
    slot: u32,
    run: Run,
    /// Keeps the timer on its thread (`!Send`).
    _thread: PhantomData<*const ()>,
}

impl Timer {
    /// Makes a timer on the current worker, not armed.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn new() -> Self {
        current(|executor| Self {
            slot: executor.wheel.borrow_mut().insert(),
            run: executor.run,
            _thread: PhantomData,
        })
    }

    /// Arms the timer, or moves it, to `deadline_ms` on the clock of [`now_ms`](super::now_ms);
    /// `u64::MAX` disarms it.
    #[inline]
    pub fn set(&self, deadline_ms: u64) {
        current(|executor| {
            debug_assert_eq!(self.run, executor.run);
            executor.wheel.borrow_mut().set(self.slot, deadline_ms);
        });
    }

    /// Arranges for the caller to be woken at `deadline_ms` on the peer clock
    /// (`peer_now_ms`): soon if that has passed, never if it is `u64::MAX`.
    /// If the worker is delayed after this call, the caller is woken early. It must therefore check
    /// the peer clock, and call this again.
    #[inline]
    pub fn wake_for_peer(&self, deadline_ms: u64, context: &Context<'_>) {
        current(|executor| {
            debug_assert_eq!(self.run, executor.run);
            let mut waker = ClonedWaker::of(context);
            let mut wheel = executor.wheel.borrow_mut();
            let deadline_ms = deadline_ms.saturating_add(executor.delayed_ms.get());
            wheel.set(self.slot, deadline_ms);
            waker.store(wheel.waker_mut(self.slot));
        });
    }

    /// Ready once the deadline has come. Until then, arranges for the caller to be woken when it
    /// comes.
    #[inline]
    pub fn poll_expired(&self, context: &mut Context<'_>) -> Poll<()> {
        current(|executor| {
            debug_assert_eq!(self.run, executor.run);
            let mut waker = ClonedWaker::of(context);
            let mut wheel = executor.wheel.borrow_mut();
            if wheel.deadline_ms(self.slot) <= executor.now_ms.get() {
                return Poll::Ready(());
            }
            waker.store(wheel.waker_mut(self.slot));
            Poll::Pending
        })
    }

    /// As [`Timer::poll_expired`], for a timer that a program may have moved to another worker.
    ///
    /// # Panics
    /// Outside the worker that made the timer.
    fn poll_expired_here(&self, context: &mut Context<'_>) -> Poll<()> {
        let run = current(|executor| executor.run);
        assert_eq!(
            run, self.run,
            "a timer was polled outside the worker that created it"
        );
        self.poll_expired(context)
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let (run, slot) = (self.run, self.slot);
        if !remove(run, slot) {
            run.call(move || remove(run, slot));
        }
    }
}

/// Removes a timer of the current worker. False outside its run.
#[inline]
fn remove(run: Run, slot: u32) -> bool {
    let removed = with_current(|executor| {
        let is_ours = executor.run == run;
        if is_ours {
            let waker = executor.wheel.borrow_mut().remove(slot);
            waker.into_iter().for_each(drop_waker);
        }
        is_ours
    });
    removed == Some(true)
}

/// Waits for `duration_ms`, counted from the start of this turn of the worker's loop, so that it
/// need not read the clock.
pub async fn sleep_ms(duration_ms: u64) {
    sleep_until(now_ms().saturating_add(duration_ms)).await;
}

/// Waits until `deadline_ms` on the clock of [`now_ms`](super::now_ms).
///
/// # Panics
/// Outside a worker.
pub fn sleep_until(deadline_ms: u64) -> impl Future<Output = ()> + Unpin {
    let timer = Timer::new();
    timer.set(deadline_ms);
    poll_fn(move |context| timer.poll_expired_here(context))
}

/// A future with a deadline, made by [`timeout`](crate::time::timeout). It returns [`Elapsed`] if
/// the inner future is not ready by then.
pub struct Timeout<F> {
    future: F,
    timer: Timer,
}

/// The duration in ms, rounded up, so that a wait of that many ms is not too short.
pub fn ceil_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The error of a future that was not ready by its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline has passed")
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for io::Error {
    fn from(_: Elapsed) -> Self {
        io::ErrorKind::TimedOut.into()
    }
}

impl<F> Timeout<F> {
    /// Limits `future` to the time until `deadline_ms` on the clock of [`now_ms`](super::now_ms).
    ///
    /// # Panics
    /// Outside a worker.
    pub(crate) fn new(deadline_ms: u64, future: F) -> Self {
        let timer = Timer::new();
        timer.set(deadline_ms);
        Self { future, timer }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `future` is not moved out of its place below, and `timer` is not pinned.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: `this` is pinned, and `future` stays in its place there until it is dropped.
        let future = unsafe { Pin::new_unchecked(&mut this.future) };
        if let Poll::Ready(output) = future.poll(context) {
            return Poll::Ready(Ok(output));
        }
        this.timer.poll_expired_here(context).map(|()| Err(Elapsed))
    }
}

impl<F> fmt::Debug for Timeout<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout")
            .field("timer", &self.timer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_to_milliseconds() {
        for (time, ms) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(1), 1),
            (Duration::from_nanos(1_000_001), 2),
            (Duration::from_micros(1001), 2),
            (Duration::MAX, u64::MAX),
        ] {
            assert_eq!(ceil_ms(time), ms, "{time:?}");
        }
    }
}
