//! The progress of a transfer, and the deadline that its minimum speed sets.

/// The progress of one transfer. The transfer must move bytes within each timeout, and must not be
/// too slow on average.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// When it started, plus all pauses, in ms.
    started_ms: u64,
    /// When bytes last moved, plus all pauses since then, in ms.
    moved_ms: u64,
    bytes: u64,
}

impl Pace {
    /// The progress of a transfer that starts at `now_ms`.
    pub fn start(now_ms: u64) -> Self {
        Self {
            started_ms: now_ms,
            moved_ms: now_ms,
            bytes: 0,
        }
    }

    /// Notes that `bytes` bytes have moved.
    pub fn moved(&mut self, bytes: u32, now_ms: u64) {
        self.bytes = self.bytes.saturating_add(u64::from(bytes));
        self.moved_ms = now_ms;
    }

    /// Excludes a pause of `pause_ms`, in which there was nothing to transfer.
    pub fn paused(&mut self, pause_ms: u64) {
        self.started_ms = self.started_ms.saturating_add(pause_ms);
        self.moved_ms = self.moved_ms.saturating_add(pause_ms);
    }

    /// Excludes the time from the last move until `now_ms`, in which there was nothing to transfer.
    pub fn paused_until(&mut self, now_ms: u64) {
        self.paused(now_ms - self.moved_ms);
    }

    /// When the transfer fails unless bytes move before, in ms: `timeout_ms` after the last move,
    /// or earlier if the average would fall below `bytes_per_second_min` (0: no minimum). The
    /// average counts after a grace period of one timeout.
    #[inline]
    pub fn deadline_ms(&self, timeout_ms: u64, bytes_per_second_min: u64) -> u64 {
        let stalled_ms = self.moved_ms.saturating_add(timeout_ms);
        match self
            .bytes
            .saturating_mul(1000)
            .checked_div(bytes_per_second_min)
        {
            Some(earned_ms) => {
                let grace_ms = self.started_ms.saturating_add(timeout_ms);
                stalled_ms.min(grace_ms.saturating_add(earned_ms))
            }
            None => stalled_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_must_move_and_keep_a_minimum_average() {
        let mut pace = Pace::start(1000);
        assert_eq!(pace.deadline_ms(30_000, 240), 31_000);
        pace.moved(1_000_000, 2000);
        assert_eq!(
            pace.deadline_ms(30_000, 240),
            32_000,
            "a fast transfer may stall for one timeout"
        );
        let mut trickle = Pace::start(0);
        let mut now_ms = 0;
        while trickle.deadline_ms(30_000, 240) > now_ms + 10_000 {
            now_ms += 10_000;
            trickle.moved(100, now_ms);
        }
        assert!(now_ms < 60_000, "ten bytes per second are too few");
        assert_eq!(trickle.deadline_ms(30_000, 0), now_ms + 30_000);
    }

    #[test]
    fn a_pause_does_not_count_against_a_transfer() {
        let mut pace = Pace::start(1000);
        pace.moved(2400, 2000);
        pace.paused(50_000);
        assert_eq!(pace.deadline_ms(30_000, 240), 82_000);
        pace.moved(0, 80_000);
        assert_eq!(
            pace.deadline_ms(30_000, 240),
            91_000,
            "2400 bytes: ten seconds"
        );
    }

    #[test]
    fn limits_up_to_the_largest_number_do_not_overflow() {
        let mut pace = Pace::start(1000);
        assert_eq!(pace.deadline_ms(u64::MAX, 240), u64::MAX);
        pace.bytes = u64::MAX;
        assert_eq!(pace.deadline_ms(u64::MAX, 1), u64::MAX);
        assert_eq!(pace.deadline_ms(30_000, u64::MAX), 31_000);
    }
}
