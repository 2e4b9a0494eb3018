//! Ticks at a fixed rate.

use std::time::{Duration, Instant};

use super::time::deadline_ms;
use crate::engine::monotonic_ms;
use crate::rt;

/// Ticks every `period`, for the first time at once.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// coring::run(async {
///     let started = Instant::now();
///     let mut interval = coring::time::interval(Duration::from_millis(5));
///     for _ in 0..3 {
///         interval.tick().await; // at 0, 5 and 10 ms
///     }
///     assert!(started.elapsed() >= Duration::from_millis(10));
/// });
/// ```
///
/// # Panics
/// If `period` is zero.
pub fn interval(period: Duration) -> Interval {
    interval_at(Instant::now(), period)
}

/// Ticks every `period`, for the first time at `start`.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// coring::run(async {
///     let start = Instant::now() + Duration::from_millis(5);
///     let mut interval = coring::time::interval_at(start, Duration::from_secs(1));
///     assert_eq!(interval.tick().await, start);
/// });
/// ```
///
/// # Panics
/// If `period` is zero.
pub fn interval_at(start: Instant, period: Duration) -> Interval {
    assert!(
        !period.is_zero(),
        "the period of an interval must not be zero"
    );
    let now = Instant::now();
    let delay = start.saturating_duration_since(now);
    let passed = now.saturating_duration_since(start).as_millis();
    Interval {
        start,
        start_ms: deadline_ms(delay).saturating_sub(u64::try_from(passed).unwrap_or(u64::MAX)),
        offset: Duration::ZERO,
        is_due: delay.is_zero(),
        must_yield: false,
        period,
        behavior: MissedTickBehavior::Burst,
    }
}

/// Ticks at a fixed rate. Made by [`interval`] and [`interval_at`].
///
/// The ticks do not drift: each is a multiple of the period after the first, however late the
/// program has noticed the last one.
#[derive(Debug)]
pub struct Interval {
    /// The time of the first tick, or of the last `reset`.
    start: Instant,
    /// The same on the worker's clock, rounded up.
    start_ms: u64,
    /// The time from `start` to the next tick.
    offset: Duration,
    /// The first tick is due at once.
    is_due: bool,
    /// The last tick was returned without waiting.
    must_yield: bool,
    period: Duration,
    behavior: MissedTickBehavior,
}

/// How an [`Interval`] continues if the program was too slow for its ticks. A tick that is noticed
/// up to 5 ms late was not missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissedTickBehavior {
    /// The missed ticks follow at once, one after the other, until the interval has caught up.
    /// Other coroutines run between them.
    #[default]
    Burst,
    /// The next tick is a period after the late one, and so are all others.
    Delay,
    /// The missed ticks are left out. The next one is again a multiple of the period after the
    /// first.
    Skip,
}

/// How late a tick may be noticed without counting as missed.
const LATE_MAX: Duration = Duration::from_millis(5);

impl Interval {
    /// Waits for the next tick, and returns the time at which it was due. If the future is dropped,
    /// the tick is not lost.
    ///
    /// # Panics
    /// Outside a worker.
    pub async fn tick(&mut self) -> Instant {
        let due_ms = self.start_ms.saturating_add(rt::ceil_ms(self.offset));
        let is_due = self.is_due || due_ms <= rt::now_ms();
        // Taken before the wait: if this future is dropped, the next one is ready at once. Beside a
        // branch of `select!` that is always ready, it would never be otherwise.
        let must_yield = std::mem::take(&mut self.must_yield);
        if !is_due {
            rt::sleep_until(due_ms).await;
        } else if must_yield {
            // A program that is slower than the period has one tick in a turn of the worker, and
            // not all that it has missed.
            rt::yield_now().await;
        }
        self.is_due = false;
        self.must_yield = is_due;
        let due = self.offset;
        let passed_ms = monotonic_ms().saturating_sub(self.start_ms);
        self.offset = next(
            due,
            Duration::from_millis(passed_ms),
            self.period,
            self.behavior,
        );
        self.start + due
    }

    /// Lets the next tick be a period from now.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// coring::run(async {
    ///     let mut interval = coring::time::interval(Duration::from_millis(5));
    ///     interval.reset();
    ///     let reset = Instant::now();
    ///     interval.tick().await;
    ///     assert!(reset.elapsed() >= Duration::from_millis(4));
    /// });
    /// ```
    pub fn reset(&mut self) {
        self.start = Instant::now();
        self.start_ms = deadline_ms(Duration::ZERO);
        self.offset = self.period;
        self.is_due = false;
    }

    /// The time between two ticks.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// How the interval continues after missed ticks.
    pub fn missed_tick_behavior(&self) -> MissedTickBehavior {
        self.behavior
    }

    /// Sets how the interval continues after missed ticks.
    pub fn set_missed_tick_behavior(&mut self, behavior: MissedTickBehavior) {
        self.behavior = behavior;
    }
}

/// The time of the next tick, if the last one was due at `due`, and `passed` is the time now.
fn next(
    due: Duration,
    passed: Duration,
    period: Duration,
    behavior: MissedTickBehavior,
) -> Duration {
    if passed <= due.saturating_add(LATE_MAX) {
        return due.saturating_add(period);
    }
    match behavior {
        MissedTickBehavior::Burst => due.saturating_add(period),
        MissedTickBehavior::Delay => passed.saturating_add(period),
        MissedTickBehavior::Skip => {
            let over = (passed - due).as_nanos() % period.as_nanos();
            let over = Duration::from_nanos(u64::try_from(over).unwrap_or(u64::MAX));
            (passed - over).saturating_add(period)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::rt::{spawn_detached, yield_now};

    #[test]
    fn missed_ticks_follow_are_delayed_or_left_out() {
        let ms = Duration::from_millis;
        let next = |passed_ms, behavior| next(ms(100), ms(passed_ms), ms(10), behavior);
        for behavior in [
            MissedTickBehavior::Burst,
            MissedTickBehavior::Delay,
            MissedTickBehavior::Skip,
        ] {
            assert_eq!(next(105, behavior), ms(110), "{behavior:?}: not missed");
        }
        assert_eq!(next(136, MissedTickBehavior::Burst), ms(110));
        assert_eq!(next(136, MissedTickBehavior::Delay), ms(146));
        assert_eq!(next(136, MissedTickBehavior::Skip), ms(140));
    }

    #[test]
    fn a_period_may_be_for_ever() {
        for behavior in [MissedTickBehavior::Delay, MissedTickBehavior::Skip] {
            let next = next(
                Duration::ZERO,
                Duration::from_secs(1),
                Duration::MAX,
                behavior,
            );
            assert_eq!(next, Duration::MAX, "{behavior:?}");
        }
    }

    #[test]
    fn a_start_in_the_past_has_missed_ticks() {
        crate::run(async {
            let start = Instant::now() - Duration::from_millis(3500);
            let mut interval = interval_at(start, Duration::from_secs(1));
            for seconds in 0..4 {
                let due = start + Duration::from_secs(seconds);
                assert_eq!(interval.tick().await, due);
            }
            assert!(start.elapsed() < Duration::from_secs(60));
            assert_eq!(interval.tick().await, start + Duration::from_secs(4));
            assert!(start.elapsed() >= Duration::from_secs(4));
        });
    }

    #[test]
    fn other_coroutines_run_between_missed_ticks() {
        crate::run(async {
            let turns = Rc::new(Cell::new(0));
            let counter = turns.clone();
            spawn_detached(async move {
                loop {
                    counter.set(counter.get() + 1);
                    yield_now().await;
                }
            });
            let mut interval = interval_at(
                Instant::now() - Duration::from_secs(1000),
                Duration::from_secs(1),
            );
            interval.tick().await;
            for _ in 0..999 {
                let before = turns.get();
                interval.tick().await;
                assert!(turns.get() > before, "a turn has two ticks");
            }
        });
    }

    #[test]
    fn a_due_tick_is_returned_beside_a_branch_that_is_always_ready() {
        crate::run(async {
            let start = Instant::now() - Duration::from_secs(10);
            let mut interval = interval_at(start, Duration::from_secs(1));
            interval.tick().await;
            for _ in 0..100 {
                crate::select! {
                    _ = interval.tick() => return,
                    () = std::future::ready(()) => {}
                }
            }
            panic!("a hundred tries, and no tick");
        });
    }

    #[test]
    fn ticks_do_not_drift() {
        let period = Duration::from_micros(16_667);
        let mut due = Duration::ZERO;
        for _ in 0..60 {
            due = next(due, due, period, MissedTickBehavior::Burst);
        }
        assert_eq!(rt::ceil_ms(due), 1001);
    }
}
