//! The timer wheel, compared with a map of deadlines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Wake, Waker};

use coring::parts::Wheel;

use crate::input::Input;

/// The most steps of one input.
const STEPS_MAX: usize = 600;
const TIMERS_MAX: usize = 200;
/// The deadline of a timer that is not armed.
const NEVER: u64 = u64::MAX;

/// A waker that counts its wake-ups.
#[derive(Default)]
struct Counter(AtomicU32);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Timer {
    deadline_ms: u64,
    /// The deadline had passed already when it was set. The timer may then fire at once, or with
    /// the next millisecond.
    is_late: bool,
    waiter: Option<Arc<Counter>>,
}

/// Applies the operations of an input to the wheel and to the map.
///
/// # Panics
/// If a timer fires early, late or twice, or if the worker would sleep beyond a deadline.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mut now_ms = input.span();
    let mut wheel = Wheel::new();
    wheel.advance(now_ms, |_| panic!("a timer fires, but there is none"));
    let mut timers: BTreeMap<u32, Timer> = BTreeMap::new();
    for _ in 0..STEPS_MAX {
        let Some(step) = input.byte() else { break };
        let chosen = input.below(TIMERS_MAX);
        let chosen = timers.keys().nth(chosen % timers.len().max(1)).copied();
        match (step % 8, chosen) {
            (0 | 1, _) if timers.len() < TIMERS_MAX => {
                let timer = Timer {
                    deadline_ms: NEVER,
                    is_late: false,
                    waiter: None,
                };
                let replaced = timers.insert(wheel.insert(), timer);
                assert!(replaced.is_none(), "the slot of a new timer is in use");
            }
            (2, Some(slot)) => {
                drop(wheel.remove(slot));
                timers.remove(&slot);
            }
            (3 | 4, Some(slot)) => {
                let timer = timers.get_mut(&slot).expect("a timer");
                timer.deadline_ms = deadline(&mut input, now_ms);
                timer.is_late = timer.deadline_ms <= now_ms;
                wheel.set(slot, timer.deadline_ms);
                assert_eq!(wheel.deadline_ms(slot), timer.deadline_ms);
            }
            (5, Some(slot)) => {
                let counter = Arc::<Counter>::default();
                *wheel.waker_mut(slot) = Some(Waker::from(counter.clone()));
                timers.get_mut(&slot).expect("a timer").waiter = Some(counter);
            }
            (6 | 7, _) => {
                let then_ms = later(&mut input, now_ms, &wheel);
                wheel.advance(then_ms, Waker::wake);
                check_fired(&mut wheel, &mut timers, now_ms, then_ms);
                now_ms = then_ms;
            }
            _ => {}
        }
        assert_eq!(wheel.live(), timers.len());
        let deadlines = timers.values().map(|timer| timer.deadline_ms);
        let first = deadlines
            .filter(|at_ms| *at_ms != NEVER && *at_ms > now_ms)
            .min();
        if let Some(first_ms) = first {
            let next_ms = wheel.next_ms().expect("an armed timer");
            assert!(
                next_ms <= first_ms,
                "the worker would sleep until {next_ms}, beyond the deadline {first_ms}"
            );
        }
    }
}

/// The last millisecond before a level of the wheel, chosen by the input, wraps around.
fn round_end(input: &mut Input<'_>, now_ms: u64) -> u64 {
    now_ms | ((1 << (6 * input.below(6) + 6)) - 1)
}

fn deadline(input: &mut Input<'_>, now_ms: u64) -> u64 {
    match input.below(8) {
        0 => NEVER,
        1 => now_ms,
        2 => now_ms.saturating_sub(input.span()),
        3 => NEVER - 1 - input.number(),
        4 => round_end(input, now_ms) + input.number() % 3,
        _ => now_ms + input.span(),
    }
}

/// A time not before `now_ms`.
fn later(input: &mut Input<'_>, now_ms: u64, wheel: &Wheel) -> u64 {
    match input.below(4) {
        0 => now_ms + input.number() % 3,
        1 => wheel
            .next_ms()
            .map_or(now_ms, |next_ms| next_ms.max(now_ms)),
        2 => round_end(input, now_ms),
        _ => now_ms + input.span(),
    }
}

/// Asserts that each timer that was due has fired once, and no other timer. Disarms those that have
/// fired.
fn check_fired(wheel: &mut Wheel, timers: &mut BTreeMap<u32, Timer>, now_ms: u64, then_ms: u64) {
    for (&slot, timer) in timers {
        let Some(waiter) = &timer.waiter else {
            continue;
        };
        let count = waiter.0.load(Ordering::Relaxed);
        let is_due = timer.deadline_ms <= then_ms;
        if !is_due {
            assert_eq!(
                count, 0,
                "a timer of {} fires at {then_ms}",
                timer.deadline_ms
            );
            continue;
        }
        assert!(count <= 1, "a timer fires twice");
        if !timer.is_late && timer.deadline_ms > now_ms {
            assert_eq!(
                count, 1,
                "a timer of {} is late at {then_ms}",
                timer.deadline_ms
            );
        }
        if count == 1 || then_ms > now_ms {
            *wheel.waker_mut(slot) = Some(Waker::noop().clone());
            wheel.set(slot, NEVER);
            (timer.deadline_ms, timer.waiter) = (NEVER, None);
        }
    }
}
