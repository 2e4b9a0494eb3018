//! What a coroutine may ask of the executor it runs on.

use std::future::poll_fn;
use std::task::Poll;

use super::executor::{Executor, with_current};

/// Starts a coroutine on the current worker; it runs beside its caller, and nobody can wait for it.
/// It costs no allocation for an outcome, unlike [`spawn_joined`](super::spawn_joined).
///
/// # Panics
/// Outside a worker.
pub fn spawn_detached(future: impl Future<Output = ()> + 'static) {
    current(|executor| executor.spawn(future));
}

/// Whether a worker runs on this thread.
pub fn is_within_worker() -> bool {
    with_current(|_| ()).is_some()
}

/// Lets every other coroutine that is ready have its turn first.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The worker's time, in ms since a fixed moment; read from the clock once per loop turn.
///
/// # Panics
/// Outside a worker.
#[inline]
pub fn now_ms() -> u64 {
    current(|executor| executor.now_ms.get())
}

/// The time by which the worker's peers are judged, in ms: as [`now_ms`], without the time in which
/// something held the worker up (a task that blocks, a stopped process). A peer may have sent
/// meanwhile, and could not be heard.
///
/// # Panics
/// Outside a worker.
#[inline]
pub fn peer_now_ms() -> u64 {
    current(|executor| executor.peer_now_ms.get())
}

/// The moment `duration_ms` from now on the clock of [`peer_now_ms`]; `u64::MAX` is for ever.
///
/// # Panics
/// Outside a worker.
#[inline]
pub fn peer_after_ms(duration_ms: u64) -> u64 {
    peer_now_ms().saturating_add(duration_ms)
}

/// Makes every coroutine of the current worker run again.
///
/// # Panics
/// Outside a worker.
pub fn wake_all() {
    current(Executor::wake_all);
}

#[inline]
pub(super) fn current<R>(body: impl FnOnce(&Executor) -> R) -> R {
    with_current(body).expect("this needs a worker: call it from a coroutine")
}
