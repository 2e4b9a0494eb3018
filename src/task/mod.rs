//! Starting coroutines, and waiting for their outcomes.
//!
//! A coroutine stays on the worker that started it, so its handle is not `Send`.

pub(crate) mod channel;
pub(crate) mod run;
pub(crate) mod time;

pub use crate::engine::{Blocking, blocking};
pub use crate::rt::{JoinError, JoinHandle, yield_now};

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

/// Waits for all of `handles`, and returns their outcomes in the order of the handles. This takes
/// as long as the slowest coroutine.
///
/// Dropping the future does not stop the coroutines.
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
    // The iterator may spawn the coroutines, so it is consumed first. Then all of them run, in
    // whatever order their handles are awaited.
    let handles: Vec<_> = handles.into_iter().collect();
    let mut outcomes = Vec::with_capacity(handles.len());
    for handle in handles {
        outcomes.push(handle.await);
    }
    outcomes
}

#[cfg(test)]
mod tests;
