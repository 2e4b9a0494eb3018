//! Workers on threads of the program's own, each turned by the executor that runs there.

use std::fmt;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, ThreadId};

use super::Result;
use super::accept::{Acceptor, Factory};
use super::control::{Control, Phase};
use super::error::{Error, ErrorKind};
use super::worker::{WorkerPlan, serve_and_drain};
use crate::engine::{Guest, HostedWorker, Selected};
use crate::sys::lock::lock;
use crate::sys::signals::block_write_signals;

/// The threads on which workers of one server run.
pub(super) type WorkerThreads = Arc<Mutex<Vec<ThreadId>>>;

/// The place of one worker that [`Builder::attach_all`](crate::Builder::attach_all) has prepared.
/// It is sent to the thread that turns the worker. Dropping it stops the server: no worker serves
/// without the others.
pub struct Seat {
    number: usize,
    place: Arc<Mutex<Option<Place>>>,
}

/// What the worker of a seat needs, until the seat is taken or dropped. The handle shares it: the
/// drop of the last handle must not wait for a seat, which the same thread may have.
struct Place {
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
            number: plan.number,
            place: Arc::new(Mutex::new(Some(Place {
                plan,
                factories,
                selected,
                end,
            }))),
        }
    }

    /// The same seat, for the handle.
    pub(super) fn share(&self) -> Self {
        Self {
            number: self.number,
            place: self.place.clone(),
        }
    }

    fn place(&self) -> MutexGuard<'_, Option<Place>> {
        lock(&self.place)
    }

    /// Where the host reports why its worker failed: [`Handle::wait`](crate::Handle::wait) returns
    /// it, and waits until this is dropped. `None` if the last handle was dropped.
    #[cfg(feature = "glommio")]
    pub(crate) fn failures(&self) -> Option<Sender<Error>> {
        let place = self.place();
        place.as_ref().map(|place| place.end.running.clone())
    }

    /// Makes the worker on the calling thread, on which the guest is turned. The factory runs here.
    /// The thread blocks `SIGPIPE` and `SIGXFSZ` from now on.
    ///
    /// # Errors
    /// Fails if the engine that was chosen for all workers cannot be made for this one, or if the
    /// last handle was dropped.
    pub fn take(self) -> Result<Guest<()>> {
        let place = self.place().take();
        let Some(Place {
            plan,
            factories,
            selected,
            mut end,
        }) = place
        else {
            let message = "the server has ended, because its last handle was dropped";
            return Err(Error::new(ErrorKind::Runtime, message));
        };
        block_write_signals();
        let services: Vec<Acceptor> = factories.iter().map(Factory::make).collect();
        let metrics = &plan.all_metrics[plan.number];
        let blocks_max = plan.limits.receive_blocks_max;
        let worker = HostedWorker::new(&selected, blocks_max, metrics);
        let worker = worker.map_err(Error::no_engine)?;
        end.begin();
        Ok(worker.start(async move {
            let _end = end;
            serve_and_drain(plan, services).await;
        }))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Dropped without the lock: the place owns factories, which are the program's code.
        let place = self.place().take();
        drop(place);
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat")
            .field("number", &self.number)
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
        let mut threads = lock(&self.threads);
        threads.push(thread);
    }
}

impl Drop for AttachedEnd {
    fn drop(&mut self) {
        if !self.control.has_reached(Phase::Draining) {
            self.control.enter(Phase::Stopping);
        }
        let mut threads = lock(&self.threads);
        let ours = threads
            .iter()
            .position(|thread| Some(*thread) == self.thread);
        ours.map(|ours| threads.swap_remove(ours));
    }
}
