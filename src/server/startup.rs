//! Starts the workers: all of them on the same engine, or none.
//!
//! Each worker creates its engine on its own thread and reports the result. No worker serves before
//! all have an engine. If one cannot create a ring and the engine was not chosen by the caller, all
//! workers use epoll.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use super::Result;
use super::accept::Factory;
use super::control::{Control, Phase};
use super::error::{Error, ErrorKind};
use super::worker::{self, WorkerPlan};
use crate::engine::{EngineChoice, Refused, Selected, Worker};
use crate::rt::drop_panic_payload;

/// A worker's thread.
pub(super) type Thread = JoinHandle<io::Result<()>>;

/// The result of a worker's attempt to create its engine.
enum Report {
    Ready,
    Refused(Refused),
    /// The worker's thread ended without a result.
    Gone,
}

/// The next step of every worker, decided from all reports.
enum Verdict {
    Serve,
    TryAgain(Selected),
}

/// A worker's side of the agreement on an engine.
pub(super) struct StartupBarrier {
    reports: SyncSender<Report>,
    verdicts: Receiver<Verdict>,
    /// Whether the worker knows the outcome of the start, and so has no report to send.
    knows_outcome: Cell<bool>,
}

impl StartupBarrier {
    /// Creates the worker with `make`, and again if all have to use another engine. Returns `None`
    /// if the start has failed.
    pub(super) fn agree(
        &self,
        mut selected: Selected,
        make: impl Fn(&Selected) -> std::result::Result<Worker, Refused>,
    ) -> Option<Worker> {
        loop {
            let (worker, report) = match make(&selected) {
                Ok(worker) => (Some(worker), Report::Ready),
                Err(refused) => (None, Report::Refused(refused)),
            };
            self.reports.send(report).ok()?;
            match self.verdicts.recv() {
                Ok(Verdict::TryAgain(other)) => selected = other,
                Ok(Verdict::Serve) => {
                    self.knows_outcome.set(true);
                    return worker;
                }
                Err(_) => {
                    self.knows_outcome.set(true);
                    return None;
                }
            }
        }
    }
}

impl Drop for StartupBarrier {
    fn drop(&mut self) {
        if !self.knows_outcome.get() {
            // Fails if the start has already failed, because its receiver is gone.
            let _ = self.reports.send(Report::Gone);
        }
    }
}

/// Starts a worker for each plan. Returns the engine of all workers, and their threads.
pub(super) fn start(
    plans: Vec<WorkerPlan>,
    factories: Vec<Factory>,
    selected: Selected,
    choice: EngineChoice,
    control: &Arc<Control>,
) -> Result<(Selected, Vec<Thread>)> {
    let factories = Arc::new(factories);
    let (reports, worker_reports) = sync_channel(plans.len());
    let mut verdicts = Vec::new();
    let mut threads = Vec::new();
    let mut outcome = Ok(());
    for plan in plans {
        let (verdict, verdict_receiver) = channel();
        let barrier = StartupBarrier {
            reports: reports.clone(),
            verdicts: verdict_receiver,
            knows_outcome: Cell::new(false),
        };
        let (factories, stop_on_exit) = (factories.clone(), StopOnExit(control.clone()));
        let selected = selected.clone();
        let thread = std::thread::Builder::new()
            .name(format!("coring-{}", plan.number))
            .spawn(move || {
                let _stop_on_exit = stop_on_exit;
                worker::run(plan, &factories, barrier, selected)
            });
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                let message = format!(
                    "cannot start a thread: {error}; allow more threads, or use fewer cores"
                );
                outcome = Err(Error::new(ErrorKind::Runtime, message));
            }
        }
        verdicts.push(verdict);
    }
    let agreed = outcome.and_then(|()| choose_engine(selected, choice, &worker_reports, &verdicts));
    // Workers that wait for a verdict end when its channel is closed.
    drop(verdicts);
    match agreed {
        Ok(selected) => Ok((selected, threads)),
        Err(error) => {
            for thread in threads {
                // The start has failed with `error`; the outcome of this thread adds nothing to it.
                let _ = thread.join().map_err(drop_panic_payload);
            }
            Err(error)
        }
    }
}

/// Collects the reports until all workers can serve, or until one fails for a reason that another
/// engine does not cure.
fn choose_engine(
    mut selected: Selected,
    choice: EngineChoice,
    reports: &Receiver<Report>,
    verdicts: &[Sender<Verdict>],
) -> Result<Selected> {
    loop {
        let mut refused = None;
        for _ in verdicts {
            match reports.recv() {
                Ok(Report::Ready) => {}
                Ok(Report::Refused(why)) => refused = Some(why),
                Ok(Report::Gone) | Err(_) => {
                    let message = "a worker panicked before it could serve";
                    return Err(Error::new(ErrorKind::Runtime, message));
                }
            }
        }
        let Some(why) = refused else {
            verdicts
                .iter()
                .for_each(|worker| send_verdict(worker, Verdict::Serve));
            return Ok(selected);
        };
        if choice != EngineChoice::Auto || !why.is_uring() {
            return Err(Error::no_engine(why));
        }
        selected = Selected::epoll_fallback(&why);
        for worker in verdicts {
            send_verdict(worker, Verdict::TryAgain(selected.clone()));
        }
    }
}

/// Sends a verdict. A worker that has ended meanwhile does not receive it: either it has reported
/// `Gone`, or its [`StopOnExit`] stops the server.
fn send_verdict(worker: &Sender<Verdict>, verdict: Verdict) {
    let _ = worker.send(verdict);
}

/// Is dropped at the end of a worker's thread. Stops the server then, unless a drain has begun: no
/// worker serves without the others.
struct StopOnExit(Arc<Control>);

impl Drop for StopOnExit {
    fn drop(&mut self) {
        if !self.0.has_reached(Phase::Draining) {
            self.0.enter(Phase::Stopping);
        }
    }
}
