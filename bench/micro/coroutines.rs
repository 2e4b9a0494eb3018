//! The cost of coroutines on the executor: spawning, running and waking one, and the memory of a
//! million sleeping ones.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use coring::metrics::WorkerMetrics;
use coring::parts::Executor;

use crate::allocator;
use crate::measure::{ns_each, time};

const MILLION: u32 = 1_000_000;
/// Longer than the measurement.
const SLEEP: Duration = Duration::from_secs(3600);

/// An executor at time 0, without a way for other threads to wake it.
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
        coring::spawn(wait_forever(waker.clone()));
        executor.turn();
        let waker: Waker = waker
            .take()
            .expect("the coroutine has run and stored its waker");
        time("coroutine: wake, run", || {
            waker.wake_by_ref();
            executor.turn();
        });
    });
}

/// Never completes. Stores its waker each time it runs.
async fn wait_forever(waker: Rc<Cell<Option<Waker>>>) {
    poll_fn(|context| {
        waker.set(Some(context.waker().clone()));
        Poll::<()>::Pending
    })
    .await;
}

/// Measures time and memory of a million sleeping coroutines, on a worker with its engine.
pub(crate) fn measure_a_million() {
    let own = size_of_val(&sleep_long());
    coring::run(async move {
        // Let the worker finish its start first, so that its memory is not counted.
        coring::task::yield_now().await;
        let (held, resident) = (allocator::held(), resident_bytes());
        let begin = Instant::now();
        for _ in 0..MILLION {
            drop(coring::spawn(sleep_long()));
        }
        let spawned = begin.elapsed();
        // All of them run before this coroutine is resumed.
        coring::task::yield_now().await;
        let slept = begin.elapsed();
        let held = (allocator::held() - held) as f64 / f64::from(MILLION);
        let resident = (resident_bytes() - resident) as f64 / f64::from(MILLION);
        println!(
            "a million sleeping coroutines: spawn {:.1} ns, spawn and run {:.1} ns each",
            ns_each(spawned, MILLION),
            ns_each(slept, MILLION),
        );
        println!(
            "  allocated {held:.1} bytes each, of which {own} are the coroutine's own state; \
             resident {resident:.1} bytes each"
        );
    });
}

async fn sleep_long() {
    coring::time::sleep(SLEEP).await;
}

/// The resident memory of this process (`VmRSS`).
fn resident_bytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let row = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = row.and_then(|row| row.trim().strip_suffix(" kB"));
    let kib = kib.and_then(|kib| kib.parse::<i64>().ok());
    1024 * kib.expect("VmRSS is a number of kB")
}
