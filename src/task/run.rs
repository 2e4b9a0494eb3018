//! A worker for a program without a server. The worker lives as long as its first coroutine.

use std::io;
use std::sync::Arc;

use crate::engine::{EngineChoice, Refused, Selected, Worker};
use crate::metrics::WorkerMetrics;
use crate::rt::is_within_worker;

/// Runs `coroutine` on this thread, on a new worker, and returns its value. The worker's engine is
/// io_uring if that works here, and otherwise epoll. Coroutines that were spawned and still run
/// when `coroutine` returns are dropped.
///
/// ```
/// use std::time::Duration;
///
/// let value = coring::run(async {
///     coring::time::sleep(Duration::from_millis(1)).await;
///     42
/// });
/// assert_eq!(value, 42);
/// ```
///
/// # Panics
/// - If `coroutine` panics.
/// - Within a worker, because this call would block the worker's other coroutines.
/// - If neither engine works, or the engine fails; [`run_with`] returns these as errors.
pub fn run<F>(coroutine: F) -> F::Output
where
    F: Future + 'static,
    F::Output: 'static,
{
    run_with(EngineChoice::Auto, coroutine)
        .unwrap_or_else(|error| panic!("cannot run the coroutine: {error}"))
}

/// As [`run`], with a choice of engine.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let sum = coring::run_with(coring::EngineChoice::Epoll, async { 1 + 1 })?;
/// assert_eq!(sum, 2);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If that engine does not work here (one line with the cause and the cure), or fails later.
///
/// # Panics
/// If `coroutine` panics, and within a worker.
pub fn run_with<F>(engine: EngineChoice, coroutine: F) -> io::Result<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    assert!(
        !is_within_worker(),
        "a worker already runs on this thread: spawn the coroutine there"
    );
    let refused = |refused: Refused| io::Error::other(refused.to_string());
    let selected = engine.probe().map_err(refused)?;
    worker(&selected, engine).map_err(refused)?.run(coroutine)
}

/// Makes a worker with the selected engine. With `Auto`, a worker whose ring cannot be made uses
/// epoll instead: a memory limit may have left room for the trial ring, but not for this one.
fn worker(selected: &Selected, choice: EngineChoice) -> Result<Worker, Refused> {
    let metrics = Arc::<WorkerMetrics>::default();
    // `usize::MAX`: a program without a server has no limit on the memory for received bytes.
    let make = |selected: &Selected| Worker::new(selected, usize::MAX, &metrics);
    match make(selected) {
        Err(refused) if choice == EngineChoice::Auto && refused.is_uring() => {
            make(&Selected::epoll_fallback(&refused))
        }
        made => made,
    }
}
