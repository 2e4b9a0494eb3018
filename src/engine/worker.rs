//! A worker: an engine and an executor on one thread. [`Worker::run`] is its loop,
//! [`RunningWorker::turn`] one turn of the loop, and [`visit`] the part of a turn that calls the
//! kernel.

use std::cell::RefCell;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::EventfdFlags;

use super::blocking::{BlockingPool, THREADS_MAX};
use super::clock::monotonic_ms;
use super::current;
use super::epoll::Epoll;
use super::select::{Refused, Selected};
use super::uring::Uring;
use crate::buf::Pool;
use crate::metrics::WorkerMetrics;
use crate::rt::{Executor, HostWaker, RemoteWorker, Turn};
use crate::sys::mutants::mutate;

/// A worker: the engine, the executor and the blocking pool with which a thread runs coroutines.
#[derive(Debug)]
pub struct Worker {
    pub(super) engine: Engine,
    pub(super) executor: Executor,
    pub(super) blocking: BlockingPool,
}

impl Worker {
    /// Makes a worker for this thread, with the engine that was `selected`. It cannot move to
    /// another thread. Once `blocks_max` blocks of memory are in use, the worker receives bytes
    /// only for readers that are waiting for them.
    ///
    /// # Errors
    /// If the engine cannot be created for this worker, although the probe succeeded.
    pub fn new(
        selected: &Selected,
        blocks_max: usize,
        metrics: &Arc<WorkerMetrics>,
    ) -> Result<Self, Refused> {
        let wake = new_eventfd()?;
        let unpark = wake.clone();
        let unpark = move || {
            // The write fails only if the 64-bit counter is full. That takes 2^64 wake-ups.
            let _ = rustix::io::write(unpark.as_fd(), &1_u64.to_ne_bytes());
        };
        Self::with_eventfd(
            selected,
            blocks_max,
            metrics,
            Eventfd::Wakes(wake),
            Box::new(unpark),
        )
    }

    /// As [`Worker::new`], for a worker that another executor turns: threads that wake its tasks
    /// wake `host`. The second value is the eventfd to which the ring reports its completions.
    pub(super) fn hosted(
        selected: &Selected,
        blocks_max: usize,
        metrics: &Arc<WorkerMetrics>,
        host: Arc<HostWaker>,
    ) -> Result<(Self, Arc<OwnedFd>), Refused> {
        let reports = new_eventfd()?;
        let eventfd = Eventfd::Reports(reports.clone());
        let unpark = Box::new(move || host.wake());
        let worker = Self::with_eventfd(selected, blocks_max, metrics, eventfd, unpark)?;
        Ok((worker, reports))
    }

    fn with_eventfd(
        selected: &Selected,
        blocks_max: usize,
        metrics: &Arc<WorkerMetrics>,
        eventfd: Eventfd,
        unpark: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Self, Refused> {
        let executor = Executor::new(metrics.clone(), monotonic_ms(), unpark);
        let pool = Pool::new();
        let metrics = metrics.clone();
        let engine = match selected {
            Selected::Uring { .. } => {
                let uring = Uring::new(pool, blocks_max, eventfd, metrics);
                let uring = uring.map_err(Refused::ring)?;
                Engine::Uring(Box::new(UringEngine(std::mem::ManuallyDrop::new(uring))))
            }
            Selected::Epoll { .. } => Engine::Epoll(Box::new(Epoll::new(pool, eventfd, metrics)?)),
        };
        Ok(Self {
            engine,
            executor,
            blocking: BlockingPool::new(THREADS_MAX),
        })
    }

    /// This worker without threads of its own: their scheduling would make a simulated run
    /// irreproducible.
    #[cfg(feature = "sim")]
    pub(crate) fn without_threads(mut self) -> Self {
        self.blocking = BlockingPool::new(0);
        self
    }

    /// This worker, for other threads.
    pub fn remote(&self) -> RemoteWorker {
        self.executor.remote()
    }

    /// Runs coroutines until `main` returns, then drops those that are left. Returns once the
    /// kernel uses no memory and no descriptor of this worker any more.
    ///
    /// # Errors
    /// If the engine fails.
    ///
    /// # Panics
    /// If `main` panics.
    pub fn run<T: 'static>(self, main: impl Future<Output = T> + 'static) -> io::Result<T> {
        let running = self.start(main);
        running.scope(|| {
            loop {
                if let Some(output) = running.turn()? {
                    return Ok(output);
                }
            }
        })
    }

    /// Prepares the loop, with `main` as its first coroutine. [`RunningWorker::turn`] runs it.
    pub(crate) fn start<T: 'static>(
        self,
        main: impl Future<Output = T> + 'static,
    ) -> RunningWorker<T> {
        let output = Rc::new(RefCell::new(None));
        let result = output.clone();
        let alive = Rc::new(());
        let main_alive = Rc::downgrade(&alive);
        self.executor.spawn(async move {
            let _alive = alive;
            *result.borrow_mut() = Some(main.await);
        });
        RunningWorker {
            worker: self,
            output,
            main_alive,
        }
    }
}

/// A running worker. Dropping it drops its coroutines, and returns once the kernel uses nothing of
/// the worker any more.
pub(crate) struct RunningWorker<T> {
    pub(super) worker: Worker,
    output: Rc<RefCell<Option<T>>>,
    main_alive: Weak<()>,
}

impl<T> RunningWorker<T> {
    /// Makes this worker the thread's current one while `body` runs.
    pub(crate) fn scope<R>(&self, body: impl FnOnce() -> R) -> R {
        current::scope(&self.worker, || self.worker.executor.enter(body))
    }

    /// Runs one turn of the loop: fires due timers, applies wake-ups from other threads, polls each
    /// ready task once, and visits the kernel. Returns the output of `main` once `main` has
    /// returned.
    pub(crate) fn turn(&self) -> io::Result<Option<T>> {
        match self.run_tasks()? {
            ControlFlow::Break(output) => Ok(Some(output)),
            ControlFlow::Continue(turn) => {
                visit(&self.worker.engine, &self.worker.executor, turn)?;
                Ok(None)
            }
        }
    }

    /// The part of a turn that precedes the visit to the kernel. Breaks with the output of `main`.
    #[inline]
    pub(super) fn run_tasks(&self) -> io::Result<ControlFlow<T, Turn>> {
        let Worker {
            engine, executor, ..
        } = &self.worker;
        let now_ms = monotonic_ms();
        if executor.is_due(now_ms) {
            // Bytes that arrived before a deadline must be received before that deadline fires.
            mutate!(EnforceEarly, false, engine.fetch_completions()?);
        }
        executor.advance(now_ms);
        let turn = executor.turn();
        if let Some(output) = self.output.take() {
            return Ok(ControlFlow::Break(output));
        }
        assert!(
            self.main_alive.strong_count() > 0,
            "the worker's main coroutine panicked"
        );
        Ok(ControlFlow::Continue(turn))
    }
}

#[cfg(feature = "sim")]
impl<T> RunningWorker<T> {
    /// Finishes the visit in which the worker fell asleep on a simulated kernel.
    pub(crate) fn wake_up(&self) -> io::Result<()> {
        let Worker {
            engine, executor, ..
        } = &self.worker;
        if let Engine::Uring(uring) = engine {
            uring.0.visit(None)?;
        }
        executor.wake_queue().awake();
        Ok(())
    }

    /// The sockets whose receives are queued for a provided buffer.
    #[cfg(feature = "mutants")]
    pub(crate) fn queued_receives(&self) -> Vec<std::os::fd::RawFd> {
        match &self.worker.engine {
            Engine::Uring(uring) => uring.0.queued_receives(),
            Engine::Epoll(_) => Vec::new(),
        }
    }
}

impl<T> Drop for RunningWorker<T> {
    fn drop(&mut self) {
        self.scope(|| self.worker.executor.clear());
    }
}

/// Visits the kernel: submits operations and applies completions. If no task is ready, sleeps there
/// until a completion, the next timer, or a wake-up from another thread.
fn visit(engine: &Engine, executor: &Executor, turn: Turn) -> io::Result<()> {
    let trim_ms = engine.pool().trim(executor.now_ms());
    let wake_queue = executor.wake_queue();
    // From here on, a thread that wakes one of our tasks also ends our sleep.
    let may_sleep = !turn.runnable && wake_queue.prepare_sleep();
    let sleep =
        may_sleep.then(|| begin_sleep(executor, turn.next_ms.into_iter().chain(trim_ms).min()));
    match engine {
        Engine::Uring(uring) => uring.0.visit(sleep)?,
        Engine::Epoll(epoll) => {
            epoll.visit(sleep)?;
        }
    }
    if may_sleep {
        wake_queue.awake();
    }
    Ok(())
}

/// Notes that the worker sleeps, until `next_ms` at the latest. Returns for how long.
#[inline]
pub(super) fn begin_sleep(executor: &Executor, next_ms: Option<u64>) -> Option<Duration> {
    let Some(next_ms) = next_ms else {
        executor.note_sleep(0, u64::MAX);
        return None;
    };
    let now_ms = monotonic_ms();
    executor.note_sleep(now_ms, next_ms);
    Some(Duration::from_millis(next_ms.saturating_sub(now_ms)))
}

fn new_eventfd() -> Result<Arc<OwnedFd>, Refused> {
    let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC);
    eventfd.map(Arc::new).map_err(Refused::call("eventfd2"))
}

/// The eventfd of a worker, and its use.
#[derive(Debug)]
pub(in crate::engine) enum Eventfd {
    /// Other threads write to it to end the worker's sleep in the kernel.
    Wakes(Arc<OwnedFd>),
    /// The ring writes to it when completions can be fetched. The worker never sleeps itself.
    Reports(Arc<OwnedFd>),
}

/// One worker's engine.
#[derive(Debug)]
pub(in crate::engine) enum Engine {
    /// io_uring, which reports completions.
    Uring(Box<UringEngine>),
    /// epoll, which reports readiness, where io_uring cannot be used.
    Epoll(Box<Epoll>),
}

/// The most calls of epoll_wait(2) in a row that [`Engine::fetch_completions`] makes.
const VISITS_MAX: u32 = 1000;

impl Engine {
    pub(super) fn pool(&self) -> &Pool {
        match self {
            Self::Uring(uring) => uring.0.pool(),
            Self::Epoll(epoll) => epoll.pool(),
        }
    }

    /// Visits the kernel without waiting. Returns whether the worker may wait now: the kernel has
    /// every operation, and nothing more can be fetched.
    pub(super) fn visit_at_once(&self) -> io::Result<bool> {
        match self {
            Self::Uring(uring) => {
                uring.0.visit(None)?;
                Ok(uring.0.may_wait())
            }
            Self::Epoll(epoll) => Ok(epoll.visit(None)? == 0),
        }
    }

    /// Fetches and applies all completions that are available now, without waiting. Returns false
    /// if there were none.
    pub(super) fn fetch_completions(&self) -> io::Result<bool> {
        match self {
            Self::Uring(uring) => uring.0.fetch_completions(),
            Self::Epoll(epoll) => {
                let mut calls = 0;
                // One call of epoll_wait(2) returns a limited number of events.
                while calls < VISITS_MAX && epoll.visit(None)? > 0 {
                    calls += 1;
                }
                Ok(calls > 0)
            }
        }
    }
}

/// A ring that is freed only after the kernel has finished with it.
#[derive(Debug)]
pub(in crate::engine) struct UringEngine(pub(super) std::mem::ManuallyDrop<Uring>);

impl Drop for UringEngine {
    fn drop(&mut self) {
        if mutate!(SkipFinish, true, self.0.finish()) {
            // SAFETY: dropped once, here. `finish` returned true, so the kernel uses none of this
            // memory.
            unsafe { std::mem::ManuallyDrop::drop(&mut self.0) };
        }
        // Otherwise the memory is leaked, because the kernel may still write to it.
    }
}
