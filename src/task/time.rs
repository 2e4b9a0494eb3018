//! Sleeps and timeouts, with a resolution of 1 ms.

use std::time::{Duration, Instant};

use crate::engine::monotonic_ms;
use crate::rt::{self, Timeout};

/// Waits for at least `duration`, counted from now, with a resolution of 1 ms. Other coroutines run
/// meanwhile. Dropping the future removes its timer.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// coring::run(async {
///     let started = Instant::now();
///     coring::time::sleep(Duration::from_millis(5)).await;
///     assert!(started.elapsed() >= Duration::from_millis(5));
/// });
/// ```
///
/// # Panics
/// Outside a worker.
pub fn sleep(duration: Duration) -> impl Future<Output = ()> + Unpin {
    rt::sleep_until(deadline_ms(duration))
}

/// Waits until `deadline`, with a resolution of 1 ms; ready at once if it has passed. Dropping the
/// future removes its timer.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// coring::run(async {
///     let deadline = Instant::now() + Duration::from_millis(5);
///     coring::time::sleep_until(deadline).await;
///     assert!(Instant::now() >= deadline);
/// });
/// ```
///
/// # Panics
/// Outside a worker.
pub fn sleep_until(deadline: Instant) -> impl Future<Output = ()> + Unpin {
    let left = deadline.saturating_duration_since(Instant::now());
    // A deadline that has passed must not wait for the next millisecond: beside a branch of
    // `select!` that is always ready first, it would never be seen.
    rt::sleep_until(if left.is_zero() { 0 } else { deadline_ms(left) })
}

/// Limits `future` to `duration`, counted from now, with a resolution of 1 ms. If `future` is not
/// ready by then, the returned [`Timeout`] is ready with [`Elapsed`](crate::time::Elapsed).
/// Dropping the `Timeout` drops `future`, and cancels an operation that it has in the kernel.
///
/// ```
/// use std::time::Duration;
///
/// coring::run(async {
///     let forever = std::future::pending::<()>();
///     let waited = coring::time::timeout(Duration::from_millis(5), forever).await;
///     assert_eq!(waited, Err(coring::time::Elapsed));
/// });
/// ```
///
/// # Panics
/// Outside a worker.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout::new(deadline_ms(duration), future)
}

/// The first time of the worker's clock at which `duration` has certainly passed, in ms. This reads
/// the clock itself, because the current turn may have begun long ago.
pub(super) fn deadline_ms(duration: Duration) -> u64 {
    // Plus 1, because a part of the current millisecond has passed already.
    (monotonic_ms() + 1).saturating_add(rt::ceil_ms(duration))
}
