//! The functions by which a coroutine uses the executor that it runs on.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use super::executor::{Executor, with_current};
use super::wake_queue::RemoteWorker;

/// Starts a coroutine on the current worker, without a handle to wait for it. Unlike
/// [`spawn_joined`](super::spawn_joined), this allocates no memory for an outcome.
///
/// # Panics
/// Outside a worker.
pub fn spawn_detached(future: impl Future<Output = ()> + 'static) {
    current(|executor| executor.spawn(future));
}

/// The current worker, for other threads.
///
/// # Panics
/// Outside a worker.
pub fn remote() -> RemoteWorker {
    current(Executor::remote)
}

/// Whether a worker runs on this thread.
pub fn is_within_worker() -> bool {
    with_current(|_| ()).is_some()
}

/// Suspends the coroutine until every other coroutine that is ready has run once.
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

/// Waits for the first of two futures, `one` if both are ready.
pub async fn either<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| match one.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(output),
        Poll::Pending => other.as_mut().poll(context),
    })
    .await
}

/// The worker's time, in ms since a fixed moment. The worker reads the clock once per turn of its
/// loop.
///
/// # Panics
/// Outside a worker.
#[inline]
pub fn now_ms() -> u64 {
    current(|executor| executor.now_ms.get())
}

/// The peer clock, in ms: [`now_ms`] minus the time during which something delayed the worker (a
/// task that blocked, a stopped process). The deadlines of peers are on this clock, because a
/// delayed worker cannot receive what a peer sends.
///
/// # Panics
/// Outside a worker.
#[inline]
pub fn peer_now_ms() -> u64 {
    current(|executor| executor.peer_now_ms.get())
}

/// The time `duration_ms` from now on the peer clock ([`peer_now_ms`]); `u64::MAX` means never.
///
/// # Panics
/// Outside a worker.
#[inline]
pub fn peer_after_ms(duration_ms: u64) -> u64 {
    peer_now_ms().saturating_add(duration_ms)
}

/// A number below `count` without a pattern; 0 outside a worker.
pub fn random_below(count: usize) -> usize {
    let random = with_current(Executor::random).unwrap_or(0) % (count.max(1) as u64);
    usize::try_from(random).unwrap_or(0)
}

/// Wakes every waiting coroutine of the current worker.
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
