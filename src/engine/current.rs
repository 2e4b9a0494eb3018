//! The current worker of a thread, which is where a coroutine's calls find their engine.

use std::cell::Cell;
use std::os::fd::OwnedFd;

use super::blocking::BlockingPool;
use super::worker::{Engine, Worker};
use crate::buf::Pool;
use crate::rt::Run;

/// The worker that runs on a thread, and its run.
#[derive(Debug, Clone, Copy)]
struct Current {
    worker: *const Worker,
    /// `None`: no worker runs.
    run: Option<Run>,
}

thread_local! {
    static CURRENT: Cell<Current> = const {
        Cell::new(Current {
            worker: std::ptr::null(),
            run: None,
        })
    };
}

/// The panic message of a call that needs a worker, on a thread without one.
pub(super) const NO_WORKER: &str = "this needs a worker: call it from a coroutine";
/// The panic message of a handle that is used in another run than its own.
const WRONG_RUN: &str = "a socket was used outside the coring::run or the server that created it";

/// Makes `worker` the thread's current one while `body` runs.
pub(super) fn scope<R>(worker: &Worker, body: impl FnOnce() -> R) -> R {
    struct Restore(Current);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(Current {
        worker,
        run: Some(worker.executor.run),
    }));
    body()
}

/// The buffer pool of the current worker.
///
/// # Panics
/// Outside a worker.
#[inline]
pub fn pool() -> Pool {
    with_current(|engine| engine.pool().clone())
}

/// Closes a descriptor: on a ring with the next batch of submissions, on epoll at once.
pub(super) fn close(fd: OwnedFd) {
    let mut fd = Some(fd);
    try_with_current(|engine| {
        if let Engine::Uring(uring) = engine {
            fd.take().into_iter().for_each(|fd| uring.0.close(fd));
        }
    });
}

#[inline]
pub(super) fn with_current<R>(body: impl FnOnce(&Engine) -> R) -> R {
    try_with_current(body).expect(NO_WORKER)
}

#[inline]
pub(super) fn try_with_current<R>(body: impl FnOnce(&Engine) -> R) -> Option<R> {
    with_worker(|worker| body(&worker.engine))
}

/// Calls `body` with the current worker's blocking pool.
pub(super) fn with_blocking_pool<R>(body: impl FnOnce(&BlockingPool) -> R) -> R {
    with_worker(|worker| body(&worker.blocking)).expect(NO_WORKER)
}

#[inline]
pub(super) fn with_worker<R>(body: impl FnOnce(&Worker) -> R) -> Option<R> {
    let current = CURRENT.get();
    current.run?;
    // SAFETY: while `run` is set, `worker` points to a worker that outlives the call of `scope`,
    // because `scope` restores the former value before it returns.
    Some(body(unsafe { &*current.worker }))
}

/// Calls `body` with the engine of the current worker. Returns `None` if its run is not `run`.
#[inline(always)]
pub(super) fn try_with_run<R>(run: Run, body: impl FnOnce(&Engine) -> R) -> Option<R> {
    let current = CURRENT.get();
    if current.run != Some(run) {
        return None;
    }
    // SAFETY: as in `with_worker`.
    Some(body(unsafe { &(*current.worker).engine }))
}

/// As [`try_with_run`], but panics outside that run.
///
/// # Panics
/// If no worker runs on this thread, or the current run is not `run`.
#[inline(always)]
pub(super) fn with_run<R>(run: Run, body: impl FnOnce(&Engine) -> R) -> R {
    try_with_run(run, body).unwrap_or_else(|| match CURRENT.get().run {
        Some(_) => panic!("{WRONG_RUN}"),
        None => panic!("{NO_WORKER}"),
    })
}
