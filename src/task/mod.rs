//! Starting coroutines, and waiting for their outcomes: for one ([`JoinHandle`]), for all
//! ([`join_all`]), for each as it ends ([`JoinSet`]), for the first ([`race`], and
//! [`select!`](crate::select) for futures of different types).
//!
//! A coroutine stays on the worker that started it, so its handle is not `Send`.

/// What the expansion of [`select!`](crate::select) needs. Anything here may change in any release.
#[doc(hidden)]
#[path = "select.rs"]
pub mod __select;
pub(crate) mod channel;
pub(crate) mod interval;
mod join_set;
pub(crate) mod mutex;
pub(crate) mod notify;
pub(crate) mod oneshot;
mod race;
pub(crate) mod remote;
pub(crate) mod run;
pub(crate) mod semaphore;
pub(crate) mod signal;
mod switch;
pub(crate) mod time;
mod wait_queue;

pub use crate::engine::{Blocking, blocking};
pub use crate::rt::{AbortHandle, JoinAll, JoinError, JoinHandle, yield_now};
pub use join_set::JoinSet;
pub use race::race;
pub use switch::Switch;

use crate::rt;

/// Starts a coroutine on this worker. The coroutine runs concurrently with its caller, from the
/// worker's next turn on. Await the returned handle for the coroutine's value. If the handle is
/// dropped, the coroutine continues.
///
/// The handle returns a panic of the coroutine as [`JoinError::Panicked`]; other coroutines are not
/// affected. Coroutines that still run when the worker ends are dropped.
///
/// ```
/// coring::run(async {
///     let sum = coring::spawn(async { 1 + 1 });
///     assert_eq!(sum.await, Ok(2));
/// });
/// ```
///
/// # Panics
/// Outside a worker.
pub fn spawn<F>(coroutine: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    rt::spawn_joined(coroutine)
}

/// Waits for all of `futures`, which run concurrently, and returns their values in the order of
/// the futures. This takes as long as the slowest one.
///
/// With the handles of [`spawn`], each value is the outcome of a coroutine. Plain futures run
/// within this one, and are dropped if the returned future is; spawned coroutines then continue.
///
/// ```
/// use std::time::Duration;
///
/// async fn job(ms: u64) -> u64 {
///     coring::time::sleep(Duration::from_millis(ms)).await;
///     ms
/// }
///
/// coring::run(async {
///     assert_eq!(coring::task::join_all([30, 10, 20].map(job)).await, [30, 10, 20]);
///     let spawned = [30, 10, 20].map(|ms| coring::spawn(job(ms)));
///     assert_eq!(coring::task::join_all(spawned).await, [Ok(30), Ok(10), Ok(20)]);
/// });
/// ```
pub fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> JoinAll<F> {
    JoinAll::new(futures)
}

#[cfg(test)]
mod remote_tests;
#[cfg(test)]
mod sync_tests;
#[cfg(test)]
mod tests;
