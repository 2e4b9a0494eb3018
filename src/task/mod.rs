//! Coroutines as programs see them: start them, wait for them, let them wait.
//!
//! A coroutine stays on the worker that it was started on. It knows neither the engine nor HTTP.

mod channel;
mod run;

use std::time::Duration;

pub use channel::{Closed, Receiver, Sender, channel};
pub use run::{run, run_with};

pub use crate::engine::{Blocking, blocking};
pub use crate::rt::{Elapsed, JoinError, JoinHandle, Timeout, yield_now};

use crate::engine::monotonic_ms;
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
///             coring::sleep(Duration::from_millis(ms)).await;
///             ms
///         })
///     });
///     assert_eq!(coring::join_all(handles).await, [Ok(30), Ok(10), Ok(20)]);
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

/// Waits for at least `duration`, counted from now, to the millisecond; other coroutines run
/// meanwhile.
///
/// # Panics
/// Outside a worker.
pub fn sleep(duration: Duration) -> impl Future<Output = ()> + Unpin {
    rt::sleep_until(deadline_ms(duration))
}

/// Gives `future` at least `duration`, counted from now, to the millisecond. One that is not ready
/// by then is dropped with what is returned here: an operation that it had in the kernel is
/// cancelled.
///
/// ```
/// use std::time::Duration;
///
/// coring::run(async {
///     let forever = std::future::pending::<()>();
///     let waited = coring::timeout(Duration::from_millis(5), forever).await;
///     assert_eq!(waited, Err(coring::Elapsed));
/// });
/// ```
///
/// # Panics
/// Outside a worker.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout::new(deadline_ms(duration), future)
}

/// The first moment of the worker's clock at which `duration` has certainly passed. The clock is
/// asked itself: this turn may have taken long already.
fn deadline_ms(duration: Duration) -> u64 {
    let duration_ms = u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    // A part of the present millisecond has passed.
    (monotonic_ms() + 1).saturating_add(duration_ms)
}

#[cfg(test)]
mod tests;
