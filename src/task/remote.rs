//! Starting coroutines on another worker, and a worker on each core.

use std::io;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::thread;

use super::run::worker;
use crate::engine::EngineChoice;
use crate::rt::{
    self, JoinError, Outcome, OutcomeSetter, RemoteWorker, catch_outcome, is_within_worker,
    spawn_detached, spawn_joined,
};
use crate::sys::cores::{Cores, Pin as PinCores};
use crate::sys::lock::lock;

/// A worker, as coroutines of other workers and other threads know it. It may have ended.
#[derive(Debug, Clone)]
pub struct Worker(RemoteWorker);

/// The worker of this coroutine.
///
/// # Panics
/// Outside a worker.
pub fn current() -> Worker {
    Worker(rt::remote())
}

/// Starts a coroutine on another worker, from any thread. `make` is sent there, and called there to
/// make the coroutine: so only `make` and the value are `Send`, and the coroutine itself can use
/// `Rc`, sockets, and whatever else is its worker's. It begins in that worker's next turn.
///
/// If the worker has ended, or ends first, the handle returns [`JoinError::Cancelled`]. If the
/// handle is dropped, the coroutine continues. To stop it, send it a message.
///
/// ```
/// use coring::remote;
///
/// let sums = remote::run_on_all_cores(|core| async move {
///     let mut sum = 0;
///     for (n, worker) in core.workers.iter().enumerate() {
///         let doubled = remote::spawn(worker, move || async move { 2 * n });
///         sum += doubled.await.expect("no panic");
///     }
///     sum
/// });
/// assert!(sums.iter().all(|sum| *sum == sums[0]));
/// ```
pub fn spawn<F, M>(worker: &Worker, make: M) -> JoinHandle<F::Output>
where
    M: FnOnce() -> F + Send + 'static,
    F: Future + 'static,
    F::Output: Send + 'static,
{
    let (setter, outcome) = rt::outcome();
    worker.0.call(move || match catch_outcome(make) {
        Ok(coroutine) => {
            let handle = spawn_joined(coroutine);
            spawn_detached(async move { setter.set(handle.await) });
        }
        Err(error) => setter.set(Err(error)),
    });
    JoinHandle(outcome)
}

/// The handle of a coroutine on another worker; see [`spawn`]. It can be awaited on any worker.
#[derive(Debug)]
#[must_use = "dropping it detaches the coroutine: use `drop` if that is meant"]
pub struct JoinHandle<T>(Outcome<T>);

impl<T> JoinHandle<T> {
    /// Whether the coroutine has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_set()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// One of the workers of [`run_on_all_cores`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Core {
    /// The number of this core's worker, an index of `workers`.
    pub number: usize,
    /// All workers. They live until the main coroutines of all of them have returned.
    pub workers: Vec<Worker>,
}

/// Runs a main coroutine on each core, on a thread and a worker of its own, and returns their
/// values by the numbers of the cores. `main` is called on each of these threads. The number of
/// cores is that of a [`Server`](crate::Server): it heeds the affinity mask and the CPU quota.
///
/// A worker whose main coroutine has returned still runs what other workers spawn on it, until all
/// main coroutines have returned. Coroutines that still run then are dropped.
///
/// ```
/// let numbers = coring::remote::run_on_all_cores(|core| async move { core.number });
/// assert!(numbers.iter().copied().eq(0..numbers.len()));
/// ```
///
/// # Panics
/// - If a main coroutine panics, when the others have returned.
/// - Within a worker, because this call would block the worker's other coroutines.
/// - If neither engine works, or the engine fails, or a thread cannot be started.
pub fn run_on_all_cores<F>(main: impl Fn(Core) -> F + Sync) -> Vec<F::Output>
where
    F: Future + 'static,
    F::Output: Send + 'static,
{
    assert!(
        !is_within_worker(),
        "a worker already runs on this thread: call this outside of it"
    );
    let cores = Cores::choose(0, PinCores::Auto);
    let (setters, ended): (Vec<_>, Vec<_>) = (0..cores.count).map(|_| rt::outcome()).unzip();
    let running = Arc::new(Mutex::new(Running {
        count: cores.count,
        setters,
    }));
    let (report, reports) = mpsc::channel();
    thread::scope(|scope| {
        let mut peers = Vec::new();
        let mut threads = Vec::new();
        for (number, ended) in ended.into_iter().enumerate() {
            let (give_workers, workers) = mpsc::channel();
            peers.push(give_workers);
            let plan = Plan {
                number,
                running: Member(running.clone()),
                ended,
                report: report.clone(),
                workers,
            };
            let (main, cores) = (&main, &cores);
            threads.push(scope.spawn(move || {
                cores.pin(number);
                plan.run(main)
            }));
        }
        drop(report);
        let mut workers: Vec<(usize, Worker)> = reports.iter().take(threads.len()).collect();
        workers.sort_by_key(|(number, _)| *number);
        let workers: Vec<Worker> = workers.into_iter().map(|(_, worker)| worker).collect();
        if workers.len() == threads.len() {
            for peer in &peers {
                // It fails if that thread has panicked, which its join reports.
                let _ = peer.send(workers.clone());
            }
        }
        drop(peers);
        let outcomes = threads.into_iter().map(thread::ScopedJoinHandle::join);
        values(outcomes.collect())
    })
}

/// The values of the main coroutines, from what their threads have returned: `None` if a main
/// coroutine did not begin because another thread has failed.
///
/// # Panics
/// If a thread has failed, for the reason of that thread.
pub(super) fn values<T>(outcomes: Vec<thread::Result<io::Result<Option<T>>>>) -> Vec<T> {
    let values = outcomes.into_iter().filter_map(|outcome| match outcome {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => panic!("cannot run the coroutine: {error}"),
        Err(panic) => resume_unwind(panic),
    });
    values.collect()
}

/// The main coroutines that have not returned, and those that wait for that.
struct Running {
    count: usize,
    setters: Vec<OutcomeSetter<()>>,
}

/// One of the main coroutines. Dropped when it has returned or panicked, or if it never began.
struct Member(Arc<Mutex<Running>>);

impl Drop for Member {
    fn drop(&mut self) {
        let mut running = lock(&self.0);
        running.count -= 1;
        let setters = match running.count {
            0 => std::mem::take(&mut running.setters),
            _ => Vec::new(),
        };
        drop(running);
        setters.into_iter().for_each(|setter| setter.set(Ok(())));
    }
}

/// The plan of one thread of [`run_on_all_cores`].
struct Plan {
    number: usize,
    running: Member,
    ended: Outcome<()>,
    report: mpsc::Sender<(usize, Worker)>,
    workers: mpsc::Receiver<Vec<Worker>>,
}

impl Plan {
    fn run<F>(self, main: impl Fn(Core) -> F) -> io::Result<Option<F::Output>>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let Self {
            number,
            running,
            ended,
            report,
            workers,
        } = self;
        let worker = worker(EngineChoice::Auto)?;
        let _ = report.send((number, Worker(worker.remote())));
        drop(report);
        let Ok(workers) = workers.recv() else {
            return Ok(None);
        };
        let main = main(Core { number, workers });
        let main = worker.run(async move {
            let member = running;
            let value = main.await;
            drop(member);
            let _ = ended.await;
            value
        });
        main.map(Some)
    }
}
