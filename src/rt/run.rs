//! The identity of a run: one call of `coring::run`, or the life of one worker of a server.

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use super::sync::per_thread;
use super::wake_queue::RemoteWorker;

/// The number of a run, unique in the process. A handle may outlive its run: a program can keep a
/// socket from one `coring::run` and use it in the next, where operation ids start again from zero.
/// So each handle stores its run, and panics when it is used in another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run(NonZeroU32);

per_thread! {
    /// The runs of this thread that have not ended. There are several if it turns several guests.
    static LIVE: RefCell<Vec<(Run, RemoteWorker)>> = const { RefCell::new(Vec::new()) };
}

impl Run {
    /// The run of a new worker of this thread.
    pub(super) fn begin(worker: RemoteWorker) -> Self {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let next = |runs: u32| runs.checked_add(1);
        let runs = RUNS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let number = runs.ok().and_then(|runs| NonZeroU32::new(runs + 1));
        let run = Self(number.expect("fewer than 2^32 runs in one process"));
        LIVE.with(|live| live.borrow_mut().push((run, worker)));
        run
    }

    /// Notes that the worker has ended.
    pub(super) fn end(self) {
        // Fails at the end of the thread, where the list may be gone already.
        let _ = LIVE.try_with(|live| live.borrow_mut().retain(|(run, _)| *run != self));
    }

    /// Lets the worker call `function` before its next turn, and wakes it for that. Does nothing if
    /// the run has ended, or is another thread's.
    #[cold]
    pub fn call<R>(self, function: impl FnOnce() -> R + Send + 'static) {
        let worker = LIVE.try_with(|live| {
            let live = live.borrow();
            let ours = live.iter().find(|(run, _)| *run == self);
            ours.map(|(_, worker)| worker.clone())
        });
        if let Ok(Some(worker)) = worker {
            worker.call(move || drop(function()));
        }
    }
}
