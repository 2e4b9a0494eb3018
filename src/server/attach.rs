//! Workers on threads of the program's own, each turned by the executor that runs there.

use std::fmt;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use super::Result;
use super::accept::{Acceptor, Factory};
use super::control::{Control, Phase};
use super::error::Error;
use super::worker::{WorkerPlan, serve_and_drain};
use crate::engine::{Guest, HostedWorker, Selected};
use crate::sys::signals::block_write_signals;

/// The threads on which workers of one server run.
pub(super) type WorkerThreads = Arc<Mutex<Vec<ThreadId>>>;

/// The place of one worker that [`Builder::attach_all`](crate::Builder::attach_all) has prepared.
/// It is sent to the thread that turns the worker. Dropping it stops the server: no worker serves
/// without the others.
pub struct Seat {
    plan: WorkerPlan,
    factories: Arc<Vec<Factory>>,
    selected: Selected,
    end: AttachedEnd,
}

impl Seat {
    pub(super) fn new(
        plan: WorkerPlan,
        factories: Arc<Vec<Factory>>,
        selected: Selected,
        threads: WorkerThreads,
        running: Sender<Error>,
    ) -> Self {
        let end = AttachedEnd {
            control: plan.control.clone(),
            threads,
            thread: None,
            running,
        };
        Self {
            plan,
            factories,
            selected,
            end,
        }
    }

    /// Where the host reports why its worker failed: [`Handle::wait`](crate::Handle::wait) returns
    /// it, and waits until this is dropped.
    #[cfg(feature = "glommio")]
    pub(crate) fn failures(&self) -> Sender<Error> {
        self.end.running.clone()
    }

    /// Makes the worker on the calling thread, on which the guest is turned. The factory runs here.
    /// The thread blocks `SIGPIPE` and `SIGXFSZ` from now on.
    ///
    /// # Errors
    /// Fails if the engine that was chosen for all workers cannot be made for this one.
    pub fn take(mut self) -> Result<Guest<()>> {
        block_write_signals();
        let services: Vec<Acceptor> = self.factories.iter().map(Factory::make).collect();
        let metrics = &self.plan.all_metrics[self.plan.number];
        let blocks_max = self.plan.limits.receive_blocks_max;
        let worker = HostedWorker::new(&self.selected, blocks_max, metrics);
        let worker = worker.map_err(Error::no_engine)?;
        self.end.begin();
        let (plan, end) = (self.plan, self.end);
        Ok(worker.start(async move {
            let _end = end;
            serve_and_drain(plan, services).await;
        }))
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat")
            .field("number", &self.plan.number)
            .finish_non_exhaustive()
    }
}

/// Is dropped at the end of an attached worker. Stops the server then, unless a drain has begun.
struct AttachedEnd {
    control: Arc<Control>,
    threads: WorkerThreads,
    thread: Option<ThreadId>,
    /// [`Handle::wait`](crate::Handle::wait) waits until all of them are dropped.
    #[cfg_attr(
        not(feature = "glommio"),
        expect(dead_code, reason = "held until the end")
    )]
    running: Sender<Error>,
}

impl AttachedEnd {
    /// Notes that the worker runs on this thread.
    fn begin(&mut self) {
        let thread = thread::current().id();
        self.thread = Some(thread);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(thread);
    }
}

impl Drop for AttachedEnd {
    fn drop(&mut self) {
        if !self.control.has_reached(Phase::Draining) {
            self.control.enter(Phase::Stopping);
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = threads
            .iter()
            .position(|thread| Some(*thread) == self.thread);
        ours.map(|ours| threads.swap_remove(ours));
    }
}
