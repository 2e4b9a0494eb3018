//! Starting the workers: all of them, on the same engine, or none.
//!
//! Each worker makes its engine on its own thread and reports; none serves before all have one.
//! If a worker cannot have what was selected, and the choice is ours, all take the other engine.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use super::Result;
use super::accept::Factory;
use super::control::{Control, Phase};
use super::error::{Error, ErrorKind};
use super::worker::{self, Plan};
use crate::engine::{EngineChoice, Refused, Selected, Worker};
use crate::rt::discard;

/// A worker's thread.
pub(super) type Thread = JoinHandle<io::Result<()>>;

/// How a worker's attempt went.
enum Report {
    Ready,
    Refused(Refused),
    /// Its thread is gone.
    Gone,
}

/// What all reports together mean for each.
enum Verdict {
    Serve,
    TryAgain(Selected),
}

/// A worker's side of the agreement.
pub(super) struct Seat {
    reports: SyncSender<Report>,
    verdicts: Receiver<Verdict>,
    settled: Cell<bool>,
}

impl Seat {
    /// Makes the worker with the engine that all can have; none if the start has failed.
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
                    self.settled.set(true);
                    return worker;
                }
                Err(_) => {
                    self.settled.set(true);
                    return None;
                }
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.settled.get() {
            // Nobody listens if the start has failed already.
            let _ = self.reports.send(Report::Gone);
        }
    }
}

/// Starts a worker for each plan. Returns the engine that they have agreed on.
pub(super) fn start(
    plans: Vec<Plan>,
    factories: Vec<Factory>,
    selected: Selected,
    choice: EngineChoice,
    control: &Arc<Control>,
) -> Result<(Selected, Vec<Thread>)> {
    let factories = Arc::new(factories);
    let (reports, inbox) = sync_channel(plans.len());
    let mut verdicts = Vec::new();
    let mut threads = Vec::new();
    let mut outcome = Ok(());
    for plan in plans {
        let (verdict, verdict_of) = channel();
        let seat = Seat {
            reports: reports.clone(),
            verdicts: verdict_of,
            settled: Cell::new(false),
        };
        let (factories, together) = (factories.clone(), Together(control.clone()));
        let selected = selected.clone();
        let thread = std::thread::Builder::new()
            .name(format!("coring-{}", plan.number))
            .spawn(move || {
                let _together = together;
                worker::run(plan, &factories, seat, selected)
            });
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                let message =
                    format!("cannot start a thread: {error}; allow more, or run fewer cores");
                outcome = Err(Error::new(ErrorKind::Runtime, message));
            }
        }
        verdicts.push(verdict);
    }
    let agreed = outcome.and_then(|()| settle(selected, choice, &inbox, &verdicts));
    // Who still waits for a verdict hears by this that there will be none.
    drop(verdicts);
    match agreed {
        Ok(selected) => Ok((selected, threads)),
        Err(error) => {
            for thread in threads {
                // What it may say is less than what we know already.
                let _ = thread.join().map_err(discard);
            }
            Err(error)
        }
    }
}

/// Collects the reports until all workers can serve, or one cannot be helped.
fn settle(
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
            verdicts.iter().for_each(|seat| tell(seat, Verdict::Serve));
            return Ok(selected);
        };
        if !why.is_of_ring() {
            return Err(Error::new(ErrorKind::Runtime, why));
        }
        if choice != EngineChoice::Auto {
            return Err(Error::new(ErrorKind::Engine, why));
        }
        selected = Selected::instead(&why);
        for seat in verdicts {
            tell(seat, Verdict::TryAgain(selected.clone()));
        }
    }
}

/// A worker that is gone meanwhile has said so, or takes the others with it.
fn tell(seat: &Sender<Verdict>, verdict: Verdict) {
    let _ = seat.send(verdict);
}

/// Workers live and end together: one that ends by itself takes the others with it.
struct Together(Arc<Control>);

impl Drop for Together {
    fn drop(&mut self) {
        if !self.0.has_reached(Phase::Draining) {
            self.0.enter(Phase::Stopping);
        }
    }
}
