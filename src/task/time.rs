//! Waiting for a time to pass, to the millisecond.

use std::time::Duration;

use crate::engine::monotonic_ms;
use crate::rt::{self, Timeout};

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

/// The first moment of the worker's clock at which `duration` has certainly passed. The clock is
/// asked itself: this turn may have taken long already.
fn deadline_ms(duration: Duration) -> u64 {
    let duration_ms = u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    // A part of the present millisecond has passed.
    (monotonic_ms() + 1).saturating_add(duration_ms)
}
