//! The timer wheel beside two heaps: arm and cancel, and arm and expire.

use std::hint::black_box;
use std::time::Instant;

use coring::parts::{Executor, Timer};
use coring::sim::Random;

use crate::coroutines::executor;
use crate::heaps::{IndexedHeap, LazyHeap, Name};
use crate::measure::{each, print, time};

/// Timers are armed for later than a second and within so many ms: the longest that a connection
/// has, by default.
const SOON_MS: u64 = 1000;
const LATE_MS: u64 = 75_000;
/// Timers that are armed while the cost of one is measured.
const ARMED: [usize; 4] = [1000, 10_000, 100_000, 1_000_000];
/// Timers of which each is to expire, and how often that is measured.
const EXPIRING: u32 = 100_000;
const EXPIRIES: usize = 5;
/// How often each timer is cancelled, on average, where that is counted: what a heap puts off is
/// done by then.
const CANCELS: usize = 2;

/// One way to have timers.
trait Timers {
    const NAME: &'static str;
    type Armed;
    fn arm(&mut self, deadline_ms: u64) -> Self::Armed;
    fn cancel(&mut self, armed: Self::Armed);
    /// What is due by then is armed no more.
    fn expire(&mut self, now_ms: u64);
}

/// The executor's own, as coroutines have it: the executor is the thread's current one.
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
    type Armed = Name;

    #[inline]
    fn arm(&mut self, deadline_ms: u64) -> Name {
        Self::arm(self, deadline_ms)
    }

    #[inline]
    fn cancel(&mut self, armed: Name) {
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

/// Times all of them.
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

/// Arms and cancels timers again and again beside so many that stay armed, for a counter of
/// instructions: one that is due before all others, or any of them. Prints how often.
///
/// # Errors
/// When there is no such contender or no such load.
pub(crate) fn count(contender: &str, which: &str, armed: usize) -> Result<(), String> {
    let executor = executor();
    match contender {
        "wheel" => executor.enter(|| count_one(Load::new(Wheel(&executor), armed), which)),
        "heap" => count_one(Load::new(LazyHeap::default(), armed), which),
        "indexed-heap" => count_one(Load::new(IndexedHeap::default(), armed), which),
        _ => Err(format!("no timers are called {contender}")),
    }
}

fn count_one<T: Timers>(mut load: Load<T>, which: &str) -> Result<(), String> {
    let act = match which {
        "soonest" => Load::arm_and_cancel_soonest,
        "any" => Load::replace_any,
        _ => return Err(format!("no load is called {which}")),
    };
    let times = CANCELS * load.armed.len();
    counted(&mut load, act, times);
    println!("{times}");
    Ok(())
}

/// What is counted: the counter looks for this name.
#[inline(never)]
fn counted<T: Timers>(load: &mut Load<T>, act: fn(&mut Load<T>), times: usize) {
    for _ in 0..times {
        act(load);
    }
}

fn arm_and_cancel<T: Timers>(timers: T, armed: usize) {
    let mut load = Load::new(timers, armed);
    let name = |which| format!("{}: arm and cancel {which} of {armed}", T::NAME);
    time(&name("the soonest"), || load.arm_and_cancel_soonest());
    time(&name("any"), || load.replace_any());
}

fn arm_and_expire(expire_all: impl Fn() -> Expired) {
    let all: Vec<Expired> = (0..EXPIRIES).map(|_| expire_all()).collect();
    let name = format!("{}: arm and expire, each of {EXPIRING}", all[0].name);
    print(&name, all.iter().map(|expired| expired.each_ns));
}

struct Expired {
    name: &'static str,
    each_ns: f64,
}

/// Arms many timers and lets them all expire, in steps of a millisecond.
fn expire_all<T: Timers>(timers: T) -> Expired {
    let begin = Instant::now();
    let mut load = Load::new(timers, EXPIRING as usize);
    for now_ms in 0..=LATE_MS {
        load.timers.expire(now_ms);
    }
    for armed in load.armed {
        load.timers.cancel(armed);
    }
    Expired {
        name: T::NAME,
        each_ns: each(begin.elapsed(), EXPIRING),
    }
}

/// Many timers that are armed.
struct Load<T: Timers> {
    armed: Vec<T::Armed>,
    timers: T,
    random: Random,
}

impl<T: Timers> Load<T> {
    fn new(mut timers: T, count: usize) -> Self {
        let mut random = Random::new(1);
        let arm = |_| timers.arm(below(random.any(), SOON_MS, LATE_MS));
        Self {
            armed: (0..count).map(arm).collect(),
            timers,
            random,
        }
    }

    /// Arms one that is due before all others, and cancels it: what a timeout in time does.
    #[inline]
    fn arm_and_cancel_soonest(&mut self) {
        let armed = self.timers.arm(below(self.random.any(), 1, SOON_MS));
        self.timers.cancel(black_box(armed));
    }

    /// Cancels any of them and arms another in its place.
    #[inline]
    fn replace_any(&mut self) {
        let drawn = self.random.any();
        let which = below(drawn, 0, self.armed.len() as u64);
        let armed = self.timers.arm(below(drawn >> 32, SOON_MS, LATE_MS));
        let which = usize::try_from(which).expect("below a usize");
        let former = std::mem::replace(&mut self.armed[which], armed);
        self.timers.cancel(former);
    }
}

/// A number from `start` up to `end`, by the lower half of `drawn`.
#[inline]
fn below(drawn: u64, start: u64, end: u64) -> u64 {
    start + (((drawn & u64::from(u32::MAX)) * (end - start)) >> 32)
}
