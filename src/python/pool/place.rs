//! A place for a worker: when one has ended or wants to end, another one is started there.

use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::start::{Next, Process};
use super::{Pool, StartError};
use crate::messages;
use crate::python::news::{leave_message, retire_message};
use crate::task::spawn;
use crate::task::time::sleep;

/// A worker that ends sooner than this after it was ready is started again with a pause.
const STABLE: Duration = Duration::from_secs(1);
/// The first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How long a worker that is to end has beyond the drain's limit, by which it ends itself.
const BEYOND_DRAIN: Duration = Duration::from_secs(2);

/// A worker that was ready.
struct Running {
    number: u32,
    since: Instant,
    /// It has asked for another one in its place.
    asks: Cell<bool>,
    /// It has another one in its place, and finishes its requests.
    is_retired: Cell<bool>,
    /// How it has ended.
    status: Cell<Option<ExitStatus>>,
}

impl Pool {
    /// Keeps one worker running.
    pub(super) async fn keep(self: Rc<Self>, place: u32) {
        let mut pause = PAUSES.0;
        let mut number = place;
        let mut current: Option<Rc<Running>> = None;
        while !self.is_stopping.get() {
            match self.begin_in_turn(number).await {
                Ok(running) => {
                    if let Some(old) = current.replace(running) {
                        messages::report(format_args!(
                            "worker {} was told to end; worker {number} is in its place",
                            old.number
                        ));
                        self.retire(&old);
                    }
                }
                Err(error) => self.report_failure(number, error, current.as_deref(), pause),
            }
            number += self.options.workers;
            let Some(running) = &current else {
                sleep(pause).await;
                pause = PAUSES.1.min(pause * 2);
                continue;
            };
            self.until(|| running.asks.get() || running.status.get().is_some())
                .await;
            let Some(status) = running.status.get() else {
                continue;
            };
            if self.is_stopping.get() {
                return;
            }
            messages::report(format_args!(
                "worker {} has ended ({status}); another one is started",
                running.number
            ));
            if running.since.elapsed() >= STABLE {
                pause = PAUSES.0;
            } else {
                sleep(pause).await;
                pause = PAUSES.1.min(pause * 2);
            }
            current = None;
        }
    }

    fn report_failure(
        &self,
        number: u32,
        error: StartError,
        current: Option<&Running>,
        pause: Duration,
    ) {
        if self.is_stopping.get() || self.tell_first(Err(error)) {
            return;
        }
        match current {
            Some(old) => {
                old.asks.set(false);
                messages::report(format_args!(
                    "worker {number} could not start; worker {} continues",
                    old.number
                ));
            }
            None => messages::report(format_args!(
                "worker {number} could not start; the next attempt is in {} ms",
                pause.as_millis()
            )),
        }
    }

    /// Starts a worker when no other one is being started.
    async fn begin_in_turn(self: &Rc<Self>, number: u32) -> Result<Rc<Running>, StartError> {
        while self.is_starting.replace(true) {
            sleep(Duration::from_millis(5)).await;
        }
        let begun = self.begin(number).await;
        self.is_starting.set(false);
        let (process, loaded) = begun?;
        self.tell_first(Ok(loaded));
        let running = Rc::new(Running {
            number,
            since: Instant::now(),
            asks: Cell::new(false),
            is_retired: Cell::new(false),
            status: Cell::new(None),
        });
        let (pool, watched) = (self.clone(), running.clone());
        spawn(async move { pool.watch(&watched, process).await });
        Ok(running)
    }

    /// Follows what a worker reports until its end, of which the cores are told.
    async fn watch(&self, running: &Running, mut process: Process) {
        let status = loop {
            match process.next().await {
                Next::Report(report) => {
                    if report == b"replace" {
                        running.asks.set(true);
                        self.changed();
                    }
                }
                Next::Ended(status) => break status,
            }
        };
        // It was waited for elsewhere only if the program does so for all its children.
        let status = status.unwrap_or_else(|_| ExitStatus::from_raw(0));
        self.controls.borrow_mut().remove(&running.number);
        for core in &self.cores {
            core.tell(running.number, leave_message(running.number), Vec::new());
        }
        // Another SIGTERM may end it when Python is about to.
        let is_expected = status.success() || status.signal() == Some(Signal::TERM.as_raw());
        if running.is_retired.get() && !is_expected {
            let number = running.number;
            messages::report(format_args!("worker {number} has ended ({status})"));
        }
        running.status.set(Some(status));
        self.changed();
    }

    /// Gives a worker no further requests, and has it end when it has finished its own.
    fn retire(self: &Rc<Self>, old: &Running) {
        let number = old.number;
        old.is_retired.set(true);
        for core in &self.cores {
            core.tell(number, retire_message(number), Vec::new());
        }
        if let Some(control) = self.controls.borrow().get(&number) {
            control.quit();
        }
        let pool = self.clone();
        spawn(async move {
            let limit = pool.options.drain_timeout;
            sleep(limit + BEYOND_DRAIN).await;
            if let Some(control) = pool.controls.borrow().get(&number) {
                messages::report(format_args!(
                    "worker {number} has not finished its requests within {limit:?}; it is killed"
                ));
                control.kill();
            }
        });
    }
}
