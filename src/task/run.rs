//! A worker for a program that has no server: it lives as long as its first coroutine.

use std::io;
use std::sync::Arc;

use crate::engine::{EngineChoice, Refused, Selected, Worker};
use crate::metrics::WorkerMetrics;
use crate::rt::is_within_worker;

/// Runs a coroutine on this thread, with a worker and an engine of its own, io_uring where it
/// works and epoll elsewhere, and returns what it returns. Coroutines that it has spawned and that
/// still run then are dropped.
///
/// ```
/// use std::time::Duration;
///
/// let answer = coring::run(async {
///     coring::time::sleep(Duration::from_millis(1)).await;
///     42
/// });
/// assert_eq!(answer, 42);
/// ```
///
/// # Panics
/// When `coroutine` does; within a worker, whose other coroutines would stand still; where neither
/// engine works, which [`run_with`] tells as an error.
pub fn run<F>(coroutine: F) -> F::Output
where
    F: Future + 'static,
    F::Output: 'static,
{
    run_with(EngineChoice::Auto, coroutine)
        .unwrap_or_else(|error| panic!("a worker for this coroutine: {error}"))
}

/// As [`run`], with the engine that is wanted.
///
/// # Errors
/// When that engine does not work here, with the cause and the cure, or fails while it runs.
///
/// # Panics
/// When `coroutine` does; within a worker.
pub fn run_with<F>(engine: EngineChoice, coroutine: F) -> io::Result<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    assert!(
        !is_within_worker(),
        "a worker runs on this thread already: spawn the coroutine there"
    );
    let refused = |refused: Refused| io::Error::other(refused.to_string());
    let selected = engine.probe().map_err(refused)?;
    worker(&selected, engine).map_err(refused)?.run(coroutine)
}

/// A worker as selected, or with the other engine if the choice is ours: a limit on memory may
/// leave room for the trial and not for this one.
fn worker(selected: &Selected, choice: EngineChoice) -> Result<Worker, Refused> {
    let metrics = Arc::<WorkerMetrics>::default();
    // How much is received is the program's own affair.
    let make = |selected: &Selected| Worker::new(selected, usize::MAX, &metrics);
    match make(selected) {
        Err(refused) if choice == EngineChoice::Auto && refused.is_of_ring() => {
            make(&Selected::instead(&refused))
        }
        made => made,
    }
}
