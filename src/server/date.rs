//! The wall clock, read once per second.

use rustix::time::{ClockId, clock_gettime};

use crate::http::date::{DATE_LEN, DateCache};
use crate::rt::now_ms;

/// The value of the `Date` field, cached for a second.
#[derive(Debug)]
pub(super) struct Date {
    cache: DateCache,
    unix_seconds: u64,
    /// When the cached second ends, on the worker's clock.
    until_ms: u64,
}

impl Date {
    pub(super) fn new() -> Self {
        Self {
            cache: DateCache::new(),
            unix_seconds: 0,
            until_ms: 0,
        }
    }

    /// The current second as an IMF-fixdate (RFC 9110 §5.6.7).
    #[inline]
    pub(super) fn now(&mut self) -> &[u8; DATE_LEN] {
        self.refresh();
        self.cache.at(self.unix_seconds)
    }

    #[inline]
    fn refresh(&mut self) {
        let now_ms = now_ms();
        if now_ms >= self.until_ms {
            let time = clock_gettime(ClockId::Realtime);
            self.unix_seconds = u64::try_from(time.tv_sec).unwrap_or(0);
            self.until_ms = now_ms + 1000 - time.tv_nsec.unsigned_abs() / 1_000_000;
        }
    }
}
