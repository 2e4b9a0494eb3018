//! Starting coroutines, and waiting for what they return.
//!
//! A coroutine stays on the worker that it was started on: nothing here is `Send`.

pub(crate) mod channel;
pub(crate) mod run;
pub(crate) mod time;

pub use crate::engine::{Blocking, blocking};
pub use crate::rt::{JoinError, JoinHandle, yield_now};

use crate::rt;

/// Starts a coroutine on this worker. It runs beside its caller, from the worker's next turn on;
/// await the handle for what it returns, or drop the handle and let it run by itself.
///
/// A panic in it is told to the handle and costs nobody else anything. What still runs when the
/// worker ends is dropped.
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

/// Waits for all of `handles`. Their outcomes come in the order of the handles, and it takes as
/// long as the coroutine that takes longest.
///
/// Dropping the future lets the coroutines run on.
///
/// ```
/// use std::time::Duration;
///
/// coring::run(async {
///     let handles = [30, 10, 20].map(|ms| {
///         coring::spawn(async move {
///             coring::time::sleep(Duration::from_millis(ms)).await;
///             ms
///         })
///     });
///     assert_eq!(coring::task::join_all(handles).await, [Ok(30), Ok(10), Ok(20)]);
/// });
/// ```
pub async fn join_all<T>(
    handles: impl IntoIterator<Item = JoinHandle<T>>,
) -> Vec<Result<T, JoinError>> {
    // They may be spawned by this very iterator. From then on they run by themselves: whichever is
    // waited for first, the others go on.
    let handles: Vec<_> = handles.into_iter().collect();
    let mut outcomes = Vec::with_capacity(handles.len());
    for handle in handles {
        outcomes.push(handle.await);
    }
    outcomes
}

#[cfg(test)]
mod tests;
