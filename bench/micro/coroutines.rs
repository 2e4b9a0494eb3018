//! Coroutines on the executor: started, run, woken, and a million of them asleep.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use coring::metrics::WorkerMetrics;
use coring::parts::Executor;

use crate::allocator;
use crate::measure::{each, time};

const MILLION: u32 = 1_000_000;
const LONG: Duration = Duration::from_secs(3600);

/// An executor at time 0, which no other thread wakes.
pub(crate) fn executor() -> Executor {
    Executor::new(Arc::<WorkerMetrics>::default(), 0, Box::new(|| ()))
}

pub(crate) fn measure() {
    let executor = executor();
    executor.enter(|| {
        time("coroutine: spawn, run", || {
            drop(coring::spawn(async {}));
            executor.turn();
        });
        let waker = Rc::new(Cell::new(None));
        coring::spawn(wait_for_ever(waker.clone()));
        executor.turn();
        let waker: Waker = waker.take().expect("it waits");
        time("coroutine: wake, run", || {
            waker.wake_by_ref();
            executor.turn();
        });
    });
}

/// Waits whenever it is woken.
async fn wait_for_ever(waker: Rc<Cell<Option<Waker>>>) {
    poll_fn(|context| {
        waker.set(Some(context.waker().clone()));
        Poll::<()>::Pending
    })
    .await;
}

/// A million coroutines that sleep, on a worker with its engine.
pub(crate) fn measure_a_million() {
    let own = size_of_val(&doze());
    coring::run(async move {
        // So that the figures are the coroutines' alone.
        coring::task::yield_now().await;
        let (held, resident) = (allocator::held(), resident_bytes());
        let begin = Instant::now();
        for _ in 0..MILLION {
            drop(coring::spawn(doze()));
        }
        let spawned = begin.elapsed();
        // They run before this one does again.
        coring::task::yield_now().await;
        let slept = begin.elapsed();
        let held = (allocator::held() - held) as f64 / f64::from(MILLION);
        let resident = (resident_bytes() - resident) as f64 / f64::from(MILLION);
        println!(
            "a million coroutines that sleep: spawn {:.1} ns, spawn and run {:.1} ns each",
            each(spawned, MILLION),
            each(slept, MILLION),
        );
        println!(
            "  {held:.1} bytes each were asked of the allocator, {own} of them for their own \
             state; {resident:.1} are resident"
        );
    });
}

async fn doze() {
    coring::time::sleep(LONG).await;
}

/// What the kernel says that this process has in memory.
fn resident_bytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let row = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = row.and_then(|row| row.trim().strip_suffix(" kB"));
    1024 * kib.and_then(|kib| kib.parse::<i64>().ok()).expect("a size")
}
