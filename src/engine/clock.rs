//! The clock that the engine reads.

use rustix::time::{ClockId, clock_gettime};

/// The monotonic clock now, in ms. [`crate::rt::now_ms`] is its value at the start of the turn.
pub fn monotonic_ms() -> u64 {
    #[cfg(feature = "sim")]
    if let Some(now_ms) = crate::sim::now_ms() {
        return now_ms;
    }
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1000 + nanoseconds / 1_000_000
}
