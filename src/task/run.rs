//! A worker for a program without a server. The worker lives as long as its first coroutine.

use std::io;
use std::sync::Arc;

use crate::engine::{EngineChoice, Guest, HostedWorker, Refused, Selected, Worker};
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
    worker(engine)?.run(coroutine)
}

/// Makes a worker for a program without a server.
pub(super) fn worker(engine: EngineChoice) -> io::Result<Worker> {
    let metrics = Arc::<WorkerMetrics>::default();
    with_engine(engine, |selected| {
        Worker::new(selected, BLOCKS_MAX, &metrics)
    })
}

/// As [`run_with`], for another executor, the host, which turns the worker's loop. [`Guest`] shows
/// how; the features `tokio` and `glommio` do it for these hosts.
///
/// # Errors
/// If that engine does not work here: one line with the cause and the cure.
pub fn run_as_guest<F>(engine: EngineChoice, coroutine: F) -> io::Result<Guest<F::Output>>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let metrics = Arc::<WorkerMetrics>::default();
    let make = |selected: &Selected| HostedWorker::new(selected, BLOCKS_MAX, &metrics);
    Ok(with_engine(engine, make)?.start(coroutine))
}

/// A program without a server has no limit on the memory for received bytes.
const BLOCKS_MAX: usize = usize::MAX;

/// Makes a worker with the engine that works here. With `Auto`, a worker whose ring cannot be made
/// uses epoll instead: a memory limit may have left room for the trial ring, but not for this one.
fn with_engine<W>(
    choice: EngineChoice,
    make: impl Fn(&Selected) -> Result<W, Refused>,
) -> io::Result<W> {
    let made = choice.probe().and_then(|selected| match make(&selected) {
        Err(refused) if choice == EngineChoice::Auto && refused.is_uring() => {
            make(&Selected::epoll_fallback(&refused))
        }
        made => made,
    });
    made.map_err(|refused| io::Error::other(refused.to_string()))
}
