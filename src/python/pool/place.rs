//! A place for a worker: when one has ended or wants to end, another one is started there.

use std::cell::Cell;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::start::{Next, Process};
use super::{Loaded, Pool, StartError};
use crate::messages;
use crate::python::news::News;
use crate::python::options::Options;
use crate::task::spawn;
use crate::task::time::{sleep, timeout};

/// A worker that ends sooner than this after it was ready is started again with a pause.
pub(super) const STABLE: Duration = Duration::from_secs(1);
/// The first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// The same for workers that are replaced for their memory.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long a worker that is to end has beyond the drain's limit, by which it ends itself.
const BEYOND_DRAIN: Duration = Duration::from_secs(2);

/// How long after a worker's SIGTERM coring has its own, if both are sent to all processes.
const UNTIL_DRAIN: Duration = Duration::from_millis(200);

/// A place for a worker.
#[derive(Default)]
pub(super) struct Place {
    /// The code that its worker runs.
    pub(super) code: Cell<u64>,
    /// How long its worker lives at least before it is replaced for its memory.
    patience: Cell<Duration>,
    /// There is to be no worker any more.
    is_closed: Cell<bool>,
}

impl Place {
    /// Has the next worker wait before it is replaced for its memory, if the one before was so soon
    /// after its start: the limit may be less than any worker takes.
    fn wait_for_memory(&self, before: Option<&Running>) {
        let Some((before, bytes)) = before.and_then(|before| match before.asks.get() {
            Some(Cause::Memory(bytes)) => Some((before, bytes)),
            _ => None,
        }) else {
            return;
        };
        let patience = self.patience.get();
        if before.since.elapsed() >= PATIENCE.1.max(2 * patience) {
            return self.patience.set(Duration::ZERO);
        }
        if patience == PATIENCE.0 {
            messages::report(format_args!(
                "workers reach --workers-max-rss soon after their start ({} MiB): give more; until \
                 then they are replaced after a pause that doubles up to {:?}",
                bytes >> 20,
                PATIENCE.1,
            ));
        }
        self.patience
            .set((2 * patience).clamp(PATIENCE.0, PATIENCE.1));
    }
}

/// Why another worker is to take the place of one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It got SIGTERM.
    Told,
    /// It has had as many requests as it may.
    Requests,
    /// It has lived as long as it may.
    Lifetime,
    /// It has this number of bytes in memory, more than it may.
    Memory(u64),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told => f.write_str("was told to end"),
            Self::Requests => f.write_str("has had its number of requests (--max-requests)"),
            Self::Lifetime => f.write_str("has lived for its time (--workers-lifetime)"),
            Self::Memory(bytes) => {
                write!(f, "takes {} MiB (--workers-max-rss)", bytes >> 20)
            }
        }
    }
}

/// A worker that was ready.
pub(super) struct Running {
    pub(super) number: u32,
    /// Those that it was started with.
    pub(super) options: Rc<Options>,
    /// Which code it was started with.
    pub(super) code: u64,
    /// Which shared socket it was started with.
    end: u64,
    pub(super) since: Instant,
    /// How long it lives at least before it is replaced for its memory.
    pub(super) patience: Duration,
    /// Why another one is to take its place.
    pub(super) asks: Cell<Option<Cause>>,
    /// It has another one in its place, and finishes its requests.
    pub(super) is_retired: Cell<bool>,
    /// It was ended because it did not go on.
    pub(super) is_late: Cell<bool>,
    /// How it has ended.
    pub(super) status: Cell<Option<ExitStatus>>,
}

impl Running {
    /// There is no other worker for its place. It stays if only SIGTERM has asked for that.
    fn stay(&self) {
        if self.asks.get() == Some(Cause::Told) {
            self.asks.set(None);
        }
    }
}

/// The turn to start a worker.
pub(super) struct Turn<'a>(&'a Cell<bool>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Pool {
    /// Keeps one worker more.
    pub(super) fn add_place(self: &Rc<Self>) {
        let place = Rc::<Place>::default();
        place.code.set(self.code.get());
        self.places.borrow_mut().push(place.clone());
        let pool = self.clone();
        spawn(async move { pool.keep(&place).await });
    }

    /// Keeps one worker less, but at least one.
    pub(super) fn remove_place(&self) {
        let mut places = self.places.borrow_mut();
        if places.len() > 1
            && let Some(place) = places.pop()
        {
            place.is_closed.set(true);
            drop(places);
            self.changed();
        }
    }

    /// Keeps as many workers as the newest options say, if these have changed it.
    pub(super) fn follow_count(self: &Rc<Self>) {
        let Some(count) = self.count.take() else {
            return;
        };
        if self.places.borrow().len() != count {
            self.resize(|| {
                while self.places.borrow().len() > count {
                    self.remove_place();
                }
                while self.places.borrow().len() < count {
                    self.add_place();
                }
            });
        }
    }

    /// Keeps one worker more or less, also beside a number that is not followed yet.
    pub(super) fn count_by(self: &Rc<Self>, difference: isize) {
        let count = self.count.get();
        self.count
            .set(count.map(|count| count.saturating_add_signed(difference).max(1)));
        self.resize(|| match difference > 0 {
            true => self.add_place(),
            false => self.remove_place(),
        });
    }

    /// Changes how many workers are kept, and tells of that.
    fn resize(&self, change: impl FnOnce()) {
        let old = self.places.borrow().len();
        change();
        let new = self.places.borrow().len();
        if new != old {
            self.call_hook(format_args!("nworkers_changed {new} {old}"));
        }
        match new {
            1 => messages::report("1 worker is kept, the least there may be"),
            count => messages::report(format_args!("{count} workers are kept")),
        }
    }

    /// Keeps one worker running.
    async fn keep(self: Rc<Self>, place: &Place) {
        let mut pause = PAUSES.0;
        let mut current: Option<Rc<Running>> = None;
        while !self.is_stopping.get() {
            if place.is_closed.get() {
                if let Some(current) = &current {
                    self.retire(current, None);
                }
                return;
            }
            let has_ended = || {
                let current = current.as_deref();
                current.is_some_and(|running| running.status.get().is_some())
            };
            self.until(|| has_ended() || place.is_closed.get() || self.is_due(current.as_deref()))
                .await;
            if let Some(ended) = current.take_if(|running| running.status.get().is_some()) {
                pause = self.report_end(&ended, pause).await;
            }
            if let Some(cut) = current.as_deref().filter(|one| self.is_cut_off(one))
                && cut.since.elapsed() < STABLE
            {
                pause = self.pause(pause).await;
            }
            let turn = self.turn().await;
            let is_over = self.is_stopping.get() || place.is_closed.get();
            if is_over || !self.is_due(current.as_deref()) {
                continue;
            }
            let number = self.next_number.replace(self.next_number.get() + 1);
            let (code, end) = (self.code_to_start(), self.end.get());
            let begun = self.begin(number, code).await;
            drop(turn);
            match begun {
                Ok((process, loaded)) => {
                    let options = process.options.clone();
                    self.show_ready();
                    place.wait_for_memory(current.as_deref());
                    let origin = (code, end, place.patience.get());
                    let running = self.follow(number, origin, process, &loaded);
                    if let Some(old) = current.replace(running) {
                        self.retire(&old, Some(number));
                    }
                    self.tell_first(Ok(Some(loaded)));
                    self.begun(place, code, options);
                }
                Err(_) if self.is_stopping.get() || self.is_superseded(code) => {}
                Err(not_ready) if self.could_not_load(current.as_deref(), code, &not_ready) => {
                    self.tell_first(Ok(None));
                    current.iter().for_each(|old| old.stay());
                    if self.is_due(current.as_deref()) {
                        pause = self.pause(pause).await;
                    }
                }
                Err(not_ready) => {
                    self.report_failure(number, not_ready.error, current.as_deref(), pause);
                    pause = self.pause(pause).await;
                }
            }
        }
    }

    /// Whether another worker is to be started where `current` is.
    fn is_due(&self, current: Option<&Running>) -> bool {
        let is_wanted =
            |running: &Running| running.asks.get().is_some() || self.is_cut_off(running);
        let is_old = |running: &Running| running.code < self.code.get();
        current.is_none_or(is_wanted) && !self.waits_for_save()
            || current.is_some_and(is_old) && !self.is_broken()
    }

    /// Whether a worker cannot receive requests any more.
    fn is_cut_off(&self, running: &Running) -> bool {
        running.end < self.end.get()
    }

    /// Waits for the turn to start a worker: there is one at a time.
    pub(super) async fn turn(&self) -> Turn<'_> {
        while self.is_starting.replace(true) {
            sleep(Duration::from_millis(5)).await;
        }
        Turn(&self.is_starting)
    }

    /// Waits after a failure, unless there is other code. Returns how long the next one waits.
    async fn pause(&self, pause: Duration) -> Duration {
        let code = self.code.get();
        let has_changed = pin!(self.until(|| self.code.get() != code));
        match timeout(pause, has_changed).await {
            Ok(()) => PAUSES.0,
            Err(_) => PAUSES.1.min(pause * 2),
        }
    }

    /// Says that a worker has ended. Returns the next pause.
    async fn report_end(&self, ended: &Running, pause: Duration) -> Duration {
        if self.is_stopping.get() {
            return pause;
        }
        // That of one that was cut off is reported already.
        if !self.is_cut_off(ended) {
            let status = ended.status.get().unwrap_or_default();
            messages::report(format_args!(
                "worker {} has ended ({status}); another one is started",
                ended.number
            ));
        }
        match ended.since.elapsed() >= STABLE {
            true => PAUSES.0,
            false => self.pause(pause).await,
        }
    }

    fn report_failure(
        &self,
        number: u32,
        error: StartError,
        current: Option<&Running>,
        pause: Duration,
    ) {
        let reason = match &error {
            // It has said it itself.
            StartError::Worker(_) => String::new(),
            error => format!(" ({error})"),
        };
        if self.tell_first(Err(error)) {
            return;
        }
        match current {
            Some(old) => {
                old.stay();
                messages::report(format_args!(
                    "worker {number} could not start{reason}; worker {} continues",
                    old.number
                ));
            }
            None => messages::report(format_args!(
                "worker {number} could not start{reason}; the next attempt is in {} ms",
                pause.as_millis()
            )),
        }
    }

    /// Follows a worker that is ready.
    fn follow(
        self: &Rc<Self>,
        number: u32,
        (code, end, patience): (u64, u64, Duration),
        process: Process,
        loaded: &Loaded,
    ) -> Rc<Running> {
        let running = Rc::new(Running {
            number,
            options: process.options.clone(),
            code,
            end,
            since: Instant::now(),
            patience,
            asks: Cell::new(None),
            is_retired: Cell::new(false),
            is_late: Cell::new(false),
            status: Cell::new(None),
        });
        match process.pulse(loaded) {
            Ok(pulse) => self.look_after(&running, pulse),
            Err(error) => {
                messages::report(format_args!("worker {number} is not looked after: {error}"))
            }
        }
        let (pool, watched) = (self.clone(), running.clone());
        spawn(async move { pool.watch(watched, process).await });
        running
    }

    /// Follows what a worker reports until its end, of which the cores are told.
    async fn watch(self: &Rc<Self>, running: Rc<Running>, mut process: Process) {
        let status = loop {
            match process.next().await {
                Next::Report(report) => match &report[..] {
                    b"replace" => {
                        let (pool, running) = (self.clone(), running.clone());
                        spawn(async move { pool.consider(&running).await });
                    }
                    b"spent" => self.replace_if(&running, Some(Cause::Requests)),
                    b"shut" if running.end == self.end.get() => self.replace_shared(),
                    _ => {}
                },
                Next::Ended(status) => break status,
            }
        };
        // It was waited for elsewhere only if the program does so for all its children.
        let status = status.unwrap_or_else(|_| ExitStatus::from_raw(0));
        self.forget(running.number);
        self.show_ready();
        for core in &self.cores {
            let (number, is_late) = (running.number, running.is_late.get());
            core.tell(News::Left { number, is_late });
        }
        // Another SIGTERM may end it when Python is about to.
        let is_expected = status.success() || status.signal() == Some(Signal::TERM.as_raw());
        if running.is_retired.get() && !is_expected {
            let number = running.number;
            messages::report(format_args!("worker {number} has ended ({status})"));
        }
        running.status.set(Some(status));
        // There cannot be another one in the place of an attached one.
        if process.options.attached.is_some() {
            self.is_stopping.set(true);
        }
        self.changed();
    }

    /// A worker has asked for another one in its place. It gets none if the server is about to end.
    async fn consider(&self, running: &Running) {
        sleep(UNTIL_DRAIN).await;
        if running.asks.get().is_none() && !self.drains.load(Ordering::Relaxed) {
            running.asks.set(Some(Cause::Told));
            self.changed();
        }
    }

    /// Gives a worker no further requests, and has it end when it has finished its own.
    fn retire(self: &Rc<Self>, old: &Running, successor: Option<u32>) {
        let number = old.number;
        if let (Some(cause), Some(successor)) = (old.asks.get(), successor) {
            messages::report(format_args!(
                "worker {number} {cause}; worker {successor} is in its place"
            ));
        }
        old.is_retired.set(true);
        for core in &self.cores {
            core.tell(News::Retired(number));
        }
        if let Some(control) = self.controls.borrow().get(&number) {
            control.quit();
        }
        let pool = self.clone();
        let limit = old.options.drain_timeout;
        spawn(async move {
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
