//! What a coroutine may ask of the executor it runs on.

use super::executor::{Executor, with_current};

/// Starts a coroutine on the current worker; it runs beside its caller and is not waited for.
///
/// # Panics
/// Outside a worker.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    current(|executor| executor.spawn(future));
}

/// The worker's time, in ms since a fixed moment; read from the clock once per loop turn.
///
/// # Panics
/// Outside a worker.
#[inline]
pub fn now_ms() -> u64 {
    current(|executor| executor.now_ms.get())
}

/// The moment `duration_ms` from now; `u64::MAX` is for ever.
///
/// # Panics
/// Outside a worker.
#[inline]
pub fn after_ms(duration_ms: u64) -> u64 {
    now_ms().saturating_add(duration_ms)
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
