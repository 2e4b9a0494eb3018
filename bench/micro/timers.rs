//! The cost of timers on the wheel and on two heaps: arm and cancel, and arm and expire.

use std::hint::black_box;
use std::time::Instant;

use coring::parts::{Executor, Timer};
use coring::sim::Random;

use crate::coroutines::executor;
use crate::heaps::{IndexedHeap, LazyHeap, TimerId};
use crate::measure::{ns_each, print, time};

/// The earliest and the latest deadline of the timers that stay armed. 75 s is the longest timeout
/// of a connection by default.
const DEADLINE_MIN_MS: u64 = 1000;
const DEADLINE_MAX_MS: u64 = 75_000;
/// The numbers of timers that stay armed while the cost of one is measured.
const ARMED: [usize; 4] = [1000, 10_000, 100_000, 1_000_000];
/// The number of timers that are armed and expire, and how often that is measured.
const EXPIRING: u32 = 100_000;
const EXPIRY_SAMPLES: usize = 5;
/// How often each timer is cancelled on average while instructions are counted. Often enough for
/// the lazy heap to remove its cancelled timers, so that this work is counted too.
const CANCELS: usize = 2;

/// An implementation of timers.
trait Timers {
    const NAME: &'static str;
    type Armed;
    fn arm(&mut self, deadline_ms: u64) -> Self::Armed;
    fn cancel(&mut self, armed: Self::Armed);
    /// Disarms the timers that are due at `now_ms`.
    fn expire(&mut self, now_ms: u64);
}

/// The executor's timer wheel, used as coroutines use it. The executor must be the thread's current
/// one.
struct Wheel<'a>(&'a Executor);

impl Timers for Wheel<'_> {
    const NAME: &'static str = "wheel";
    type Armed = Timer;

    #[inline]
    fn arm(&mut self, deadline_ms: u64) -> Timer {
        let timer = Timer::new();
        timer.set(deadline_ms);
        timer
    }

    #[inline]
    fn cancel(&mut self, armed: Timer) {
        drop(armed);
    }

    fn expire(&mut self, now_ms: u64) {
        self.0.advance(now_ms);
    }
}

impl Timers for LazyHeap {
    const NAME: &'static str = "heap";
    type Armed = TimerId;

    #[inline]
    fn arm(&mut self, deadline_ms: u64) -> TimerId {
        Self::arm(self, deadline_ms)
    }

    #[inline]
    fn cancel(&mut self, armed: TimerId) {
        Self::cancel(self, armed);
    }

    fn expire(&mut self, now_ms: u64) {
        Self::expire(self, now_ms);
    }
}

impl Timers for IndexedHeap {
    const NAME: &'static str = "indexed heap";
    type Armed = u32;

    #[inline]
    fn arm(&mut self, deadline_ms: u64) -> u32 {
        Self::arm(self, deadline_ms)
    }

    #[inline]
    fn cancel(&mut self, armed: u32) {
        Self::cancel(self, armed);
    }

    fn expire(&mut self, now_ms: u64) {
        Self::expire(self, now_ms);
    }
}

/// Measures the time of all implementations.
pub(crate) fn measure() {
    for count in ARMED {
        let executor = executor();
        executor.enter(|| arm_and_cancel(Wheel(&executor), count));
        arm_and_cancel(LazyHeap::default(), count);
        arm_and_cancel(IndexedHeap::default(), count);
    }
    arm_and_expire(|| {
        let executor = executor();
        executor.enter(|| expire_all(Wheel(&executor)))
    });
    arm_and_expire(|| expire_all(LazyHeap::default()));
    arm_and_expire(|| expire_all(IndexedHeap::default()));
}

/// Arms and cancels timers while `armed` others stay armed, so that callgrind can count the
/// instructions. `which` is `soonest` (a timer due before all others) or `any` (one of the armed
/// ones, which is replaced). Prints how often it has done so.
///
/// # Errors
/// When `contender` or `which` is unknown.
pub(crate) fn count(contender: &str, which: &str, armed: usize) -> Result<(), String> {
    let executor = executor();
    match contender {
        "wheel" => executor.enter(|| count_one(Load::new(Wheel(&executor), armed), which)),
        "heap" => count_one(Load::new(LazyHeap::default(), armed), which),
        "indexed-heap" => count_one(Load::new(IndexedHeap::default(), armed), which),
        _ => Err(format!("{contender}: give wheel, heap or indexed-heap")),
    }
}

fn count_one<T: Timers>(mut load: Load<T>, which: &str) -> Result<(), String> {
    let operation = match which {
        "soonest" => Load::arm_and_cancel_soonest,
        "any" => Load::replace_any,
        _ => return Err(format!("{which}: give soonest or any")),
    };
    let times = CANCELS * load.armed.len();
    counted(&mut load, operation, times);
    println!("{times}");
    Ok(())
}

/// `bench/instructions` counts only this function and its callees, which it finds by this name.
#[inline(never)]
fn counted<T: Timers>(load: &mut Load<T>, operation: fn(&mut Load<T>), times: usize) {
    for _ in 0..times {
        operation(load);
    }
}

fn arm_and_cancel<T: Timers>(timers: T, armed: usize) {
    let mut load = Load::new(timers, armed);
    let name = |which| format!("{}: arm and cancel {which} of {armed}", T::NAME);
    time(&name("the soonest"), || load.arm_and_cancel_soonest());
    time(&name("any"), || load.replace_any());
}

fn arm_and_expire(expire_all: impl Fn() -> Expired) {
    let all: Vec<Expired> = (0..EXPIRY_SAMPLES).map(|_| expire_all()).collect();
    let name = format!("{}: arm and expire, each of {EXPIRING}", all[0].name);
    print(&name, all.iter().map(|expired| expired.ns_each));
}

struct Expired {
    name: &'static str,
    ns_each: f64,
}

/// Arms [`EXPIRING`] timers and lets all of them expire, in steps of a millisecond.
fn expire_all<T: Timers>(timers: T) -> Expired {
    let begin = Instant::now();
    let mut load = Load::new(timers, EXPIRING as usize);
    for now_ms in 0..=DEADLINE_MAX_MS {
        load.timers.expire(now_ms);
    }
    for armed in load.armed {
        load.timers.cancel(armed);
    }
    Expired {
        name: T::NAME,
        ns_each: ns_each(begin.elapsed(), EXPIRING),
    }
}

/// The timers that stay armed during a measurement.
struct Load<T: Timers> {
    armed: Vec<T::Armed>,
    timers: T,
    random: Random,
}

impl<T: Timers> Load<T> {
    fn new(mut timers: T, count: usize) -> Self {
        let mut random = Random::new(1);
        let arm = |_| timers.arm(scale(random.any(), DEADLINE_MIN_MS, DEADLINE_MAX_MS));
        Self {
            armed: (0..count).map(arm).collect(),
            timers,
            random,
        }
    }

    /// Arms a timer that is due before all others, and cancels it, like a timeout that is not
    /// reached.
    #[inline]
    fn arm_and_cancel_soonest(&mut self) {
        let armed = self
            .timers
            .arm(scale(self.random.any(), 1, DEADLINE_MIN_MS));
        self.timers.cancel(black_box(armed));
    }

    /// Cancels a random one of the armed timers, and arms another in its place.
    #[inline]
    fn replace_any(&mut self) {
        let drawn = self.random.any();
        let index = scale(drawn, 0, self.armed.len() as u64);
        let deadline_ms = scale(drawn >> 32, DEADLINE_MIN_MS, DEADLINE_MAX_MS);
        let armed = self.timers.arm(deadline_ms);
        let index = usize::try_from(index).expect("the index is less than a length");
        let replaced = std::mem::replace(&mut self.armed[index], armed);
        self.timers.cancel(replaced);
    }
}

/// Scales the lower 32 bits of `drawn`, a random number, to the range from `start` to below `end`.
#[inline]
fn scale(drawn: u64, start: u64, end: u64) -> u64 {
    start + (((drawn & u64::from(u32::MAX)) * (end - start)) >> 32)
}
