//! A worker: an engine and an executor on one thread. Its loop, [`Worker::run`], drives both in
//! turns: [`Running::turn`] is one of them, and [`visit`] its call to the kernel.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::EventfdFlags;

use super::blocking::{THREADS_MAX, Threads};
use super::clock::monotonic_ms;
use super::current;
use super::epoll::Epoll;
use super::run::Run;
use super::select::{Refused, Selected};
use super::uring::Uring;
use crate::buf::Pool;
use crate::metrics::WorkerMetrics;
use crate::rt::{Executor, Turn};
use crate::sys::mutants::mutate;

/// A worker: what its thread needs to run coroutines.
#[derive(Debug)]
pub struct Worker {
    pub(super) run: Run,
    pub(super) engine: Engine,
    pub(super) executor: Executor,
    pub(super) threads: Threads,
}

impl Worker {
    /// A worker on this thread, and on no other, with the engine that was `selected`. From
    /// `blocks_max` blocks of memory on, nothing is received ahead of who asks for it.
    ///
    /// # Errors
    /// When that engine cannot be made once more for this worker.
    pub fn new(
        selected: &Selected,
        blocks_max: usize,
        metrics: &Arc<WorkerMetrics>,
    ) -> Result<Self, Refused> {
        let wake =
            rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(Refused::call("eventfd2"))?;
        let wake = Arc::new(wake);
        let unpark = wake.clone();
        let executor = Executor::new(
            metrics.clone(),
            monotonic_ms(),
            Box::new(move || {
                // The counter can only be full when the worker has not slept for 2^64 wake-ups.
                let _ = rustix::io::write(unpark.as_fd(), &1_u64.to_ne_bytes());
            }),
        );
        let pool = Pool::new();
        let metrics = metrics.clone();
        let engine = match selected {
            Selected::Uring { .. } => {
                let uring = Uring::new(pool, blocks_max, wake, metrics).map_err(Refused::ring)?;
                Engine::Uring(Box::new(UringEngine(std::mem::ManuallyDrop::new(uring))))
            }
            Selected::Epoll { .. } => Engine::Epoll(Box::new(Epoll::new(pool, wake, metrics)?)),
        };
        Ok(Self {
            run: Run::new(),
            engine,
            executor,
            threads: Threads::new(THREADS_MAX),
        })
    }

    /// A worker of the simulated machine that this thread is in.
    ///
    /// # Errors
    /// When this machine has no more descriptors.
    #[cfg(feature = "sim")]
    pub(crate) fn simulated(metrics: &Arc<WorkerMetrics>) -> Result<Self, Refused> {
        let selected = Selected::Uring { rung: "sim" };
        Ok(Self {
            // Other threads would bring chance into it.
            threads: Threads::new(0),
            ..Self::new(&selected, usize::MAX, metrics)?
        })
    }

    /// Runs coroutines until `main` is done; then drops those that are left, and returns when the
    /// kernel has nothing of this worker's any more.
    ///
    /// # Errors
    /// When the engine fails.
    ///
    /// # Panics
    /// When `main` does.
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

    /// A worker whose loop is to be turned: it begins with `main`.
    pub(crate) fn start<T: 'static>(self, main: impl Future<Output = T> + 'static) -> Running<T> {
        let output = Rc::new(RefCell::new(None));
        let put = output.clone();
        let alive = Rc::new(());
        let main_alive = Rc::downgrade(&alive);
        self.executor.spawn(async move {
            let _alive = alive;
            *put.borrow_mut() = Some(main.await);
        });
        Running {
            worker: self,
            output,
            main_alive,
        }
    }
}

/// A worker at work. Dropping it drops its coroutines, and returns when the kernel has nothing of
/// it any more.
pub(crate) struct Running<T> {
    worker: Worker,
    output: Rc<RefCell<Option<T>>>,
    main_alive: Weak<()>,
}

impl<T> Running<T> {
    /// Makes this worker the thread's current one while `body` runs.
    pub(crate) fn scope<R>(&self, body: impl FnOnce() -> R) -> R {
        current::scope(&self.worker, || self.worker.executor.enter(body))
    }

    /// One turn of the loop: wake whom time and other threads wake, run what can run, visit the
    /// kernel. What `main` returned, once it has.
    pub(crate) fn turn(&self) -> io::Result<Option<T>> {
        let Worker {
            engine, executor, ..
        } = &self.worker;
        let now_ms = monotonic_ms();
        if executor.is_due(now_ms) {
            // Bytes that arrived in time must be known before a deadline is judged.
            mutate!(JudgeUnheard, false, engine.look()?);
        }
        executor.advance(now_ms);
        let turn = executor.turn();
        if let Some(output) = self.output.take() {
            return Ok(Some(output));
        }
        assert!(
            self.main_alive.strong_count() > 0,
            "the worker's main coroutine panicked"
        );
        visit(engine, executor, turn)?;
        Ok(None)
    }
}

#[cfg(feature = "sim")]
impl<T> Running<T> {
    /// The rest of the visit in which the worker fell asleep on a simulated kernel.
    pub(crate) fn wake_up(&self) -> io::Result<()> {
        let Worker {
            engine, executor, ..
        } = &self.worker;
        if let Engine::Uring(uring) = engine {
            uring.0.visit(None)?;
        }
        executor.inbox().awake();
        Ok(())
    }

    /// The sockets whose receives wait for a buffer.
    #[cfg(feature = "mutants")]
    pub(crate) fn queued_receives(&self) -> Vec<std::os::fd::RawFd> {
        match &self.worker.engine {
            Engine::Uring(uring) => uring.0.queued_receives(),
            Engine::Epoll(_) => Vec::new(),
        }
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.scope(|| self.worker.executor.clear());
    }
}

/// Visits the kernel, and sleeps there if nothing can run before something completes.
fn visit(engine: &Engine, executor: &Executor, turn: Turn) -> io::Result<()> {
    let trim_ms = engine.pool().trim(executor.now_ms());
    let inbox = executor.inbox();
    let may_sleep = !turn.runnable && inbox.prepare_sleep();
    let sleep = may_sleep.then(|| {
        let next_ms = turn.next_ms.into_iter().chain(trim_ms).min();
        let Some(next_ms) = next_ms else {
            executor.note_sleep(0, u64::MAX);
            return None;
        };
        let now_ms = monotonic_ms();
        executor.note_sleep(now_ms, next_ms);
        Some(Duration::from_millis(next_ms.saturating_sub(now_ms)))
    });
    match engine {
        Engine::Uring(uring) => uring.0.visit(sleep)?,
        Engine::Epoll(epoll) => {
            epoll.visit(sleep)?;
        }
    }
    if may_sleep {
        inbox.awake();
    }
    Ok(())
}

/// One worker's way to the kernel.
#[derive(Debug)]
pub(in crate::engine) enum Engine {
    /// Completions from a ring.
    Uring(Box<UringEngine>),
    /// Readiness, where there is no ring to be had.
    Epoll(Box<Epoll>),
}

/// Calls in a row that look for what has come, while each brings something.
const LOOKS_MAX: u32 = 1000;

impl Engine {
    pub(super) fn pool(&self) -> &Pool {
        match self {
            Self::Uring(uring) => uring.0.pool(),
            Self::Epoll(epoll) => epoll.pool(),
        }
    }

    /// Takes in everything that has come by now, without waiting, and lets it have its effect.
    /// False: there was nothing.
    pub(super) fn look(&self) -> io::Result<bool> {
        match self {
            Self::Uring(uring) => uring.0.look(),
            Self::Epoll(epoll) => {
                let mut calls = 0;
                // One call of epoll_wait(2) tells of a limited number of sockets.
                while calls < LOOKS_MAX && epoll.visit(None)? > 0 {
                    calls += 1;
                }
                Ok(calls > 0)
            }
        }
    }
}

/// The ring, and what of it must go last.
#[derive(Debug)]
pub(in crate::engine) struct UringEngine(pub(super) std::mem::ManuallyDrop<Uring>);

impl Drop for UringEngine {
    fn drop(&mut self) {
        if mutate!(SkipFinish, true, self.0.finish()) {
            // SAFETY: dropped once, here; the kernel is done with everything it was given.
            unsafe { std::mem::ManuallyDrop::drop(&mut self.0) };
        }
        // Otherwise the memory is leaked: the kernel may still write to it.
    }
}
