//! How fast a transfer moves, and how slow it may be.

/// The progress of one transfer: it must move within each timeout, and not too slowly on average.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    started_ms: u64,
    moved_ms: u64,
    bytes: u64,
}

impl Pace {
    pub fn start(now_ms: u64) -> Self {
        Self {
            started_ms: now_ms,
            moved_ms: now_ms,
            bytes: 0,
        }
    }

    /// So many bytes have moved.
    pub fn moved(&mut self, bytes: u32, now_ms: u64) {
        self.bytes = self.bytes.saturating_add(u64::from(bytes));
        self.moved_ms = now_ms;
    }

    /// For `pause_ms` nothing was asked for: that time does not count.
    pub fn paused(&mut self, pause_ms: u64) {
        self.started_ms = self.started_ms.saturating_add(pause_ms);
        self.moved_ms = self.moved_ms.saturating_add(pause_ms);
    }

    /// Since it last moved nothing was asked for, until `now_ms`: that time does not count.
    pub fn paused_until(&mut self, now_ms: u64) {
        self.paused(now_ms - self.moved_ms);
    }

    /// When the transfer fails if nothing moves until then, in ms.
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
    fn a_transfer_must_move_and_not_only_trickle() {
        let mut pace = Pace::start(1000);
        assert_eq!(pace.deadline_ms(30_000, 240), 31_000);
        pace.moved(1_000_000, 2000);
        assert_eq!(
            pace.deadline_ms(30_000, 240),
            32_000,
            "a fast one may then stall"
        );
        let mut trickle = Pace::start(0);
        let mut now_ms = 0;
        while trickle.deadline_ms(30_000, 240) > now_ms + 10_000 {
            now_ms += 10_000;
            trickle.moved(100, now_ms);
        }
        assert!(now_ms < 60_000, "ten bytes a second are too few");
        assert_eq!(trickle.deadline_ms(30_000, 0), now_ms + 30_000);
    }

    #[test]
    fn a_pause_is_not_held_against_a_transfer() {
        let mut pace = Pace::start(1000);
        pace.moved(2400, 2000);
        pace.paused(50_000);
        assert_eq!(pace.deadline_ms(30_000, 240), 82_000);
        pace.moved(0, 80_000);
        assert_eq!(pace.deadline_ms(30_000, 240), 91_000, "earned: ten seconds");
    }

    #[test]
    fn a_limit_may_be_as_large_as_a_number() {
        let mut pace = Pace::start(1000);
        assert_eq!(pace.deadline_ms(u64::MAX, 240), u64::MAX);
        pace.bytes = u64::MAX;
        assert_eq!(pace.deadline_ms(u64::MAX, 1), u64::MAX);
        assert_eq!(pace.deadline_ms(30_000, u64::MAX), 31_000);
    }
}
