//! How long workers live: one that does not react is ended, and one that has reached a limit is
//! replaced.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::pread;
use rustix::process::Signal;

use super::place::{Cause, Running};
use super::{Loaded, Pool};
use crate::messages;
use crate::task::spawn;
use crate::task::time::sleep;

/// How often a worker is looked at, at least. It says as often that it runs.
const TICK: Duration = Duration::from_secs(1);
/// And at most.
const TICK_MIN: Duration = Duration::from_millis(10);
/// A timeout is at least this many ticks.
const TICKS: u32 = 8;
/// How long a process has for the traceback, after SIGABRT.
pub(super) const UNTIL_KILL: Duration = Duration::from_secs(1);

/// How often a worker is looked at, for a timeout.
pub(in crate::python) fn tick(timeout: Option<Duration>) -> Duration {
    timeout.map_or(TICK, |timeout| (timeout / TICKS).clamp(TICK_MIN, TICK))
}

/// What shows that a worker goes on, in the page that it shares with coring.
///
/// Ticks are counted, not time: nothing is held against a worker that was stopped together with
/// coring.
pub(super) struct Pulse {
    page: OwnedFd,
    /// A worker with one thread runs one request at a time, whose number is at the page's
    /// beginning. All others have a main thread that counts next to it.
    is_of_request: bool,
    last: [u8; 8],
    /// For how many ticks it has been the same.
    ticks: u32,
}

impl Pulse {
    pub(super) fn new(page: OwnedFd, loaded: &Loaded) -> Self {
        Self {
            page,
            is_of_request: loaded.threads == 1 && ["sync", "gthread"].contains(&&*loaded.class),
            last: [0; 8],
            ticks: 0,
        }
    }

    /// For how many ticks the worker has not gone on.
    fn look(&mut self) -> u32 {
        let mut now = [0; 8];
        let at = if self.is_of_request { 0 } else { 8 };
        // If it cannot be read, nothing is known.
        let is_known = pread(&self.page, &mut now, at) == Ok(8);
        let is_idle = self.is_of_request && now == [0; 8];
        self.ticks = match is_known && !is_idle && now == self.last {
            true => self.ticks + 1,
            false => 0,
        };
        self.last = now;
        self.ticks
    }
}

impl Pool {
    /// Looks after a worker until it ends, if anything limits its life.
    pub(super) fn look_after(self: &Rc<Self>, running: &Rc<Running>, pulse: Pulse) {
        let options = &running.options;
        let is_limited = options.timeout.is_some()
            || options.workers_lifetime.is_some()
            || options.workers_max_rss.is_some();
        if is_limited {
            let (pool, running) = (self.clone(), running.clone());
            spawn(async move { pool.limit(&running, pulse).await });
        }
    }

    async fn limit(&self, running: &Running, mut pulse: Pulse) {
        let tick = tick(running.options.timeout);
        // One more than the timeout has, since it began between two of them.
        let ticks_max = running.options.timeout.map(|timeout| {
            let ticks = timeout.as_millis().div_ceil(tick.as_millis());
            u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(1)
        });
        loop {
            sleep(tick).await;
            if running.status.get().is_some() {
                return;
            }
            // At its end its main thread no longer counts; it has the graceful timeout then.
            let is_ending = running.is_retired.get() || self.is_stopping.get();
            if is_ending && !pulse.is_of_request {
                return;
            }
            if ticks_max.is_some_and(|most| pulse.look() >= most) {
                return self.abort(running, &pulse).await;
            }
            self.replace_if(running, self.reached(running));
        }
    }

    /// Has another worker take the place of one that has reached a limit.
    pub(super) fn replace_if(&self, running: &Running, cause: Option<Cause>) {
        // A worker that was told to end stays if there is no other one; a limit is for good.
        let is_asked = running.asks.get().is_some_and(|cause| cause != Cause::Told);
        if cause.is_some() && !is_asked && !self.drains.load(Ordering::Relaxed) {
            running.asks.set(cause);
            self.changed();
        }
    }

    /// The limit that a worker has reached.
    fn reached(&self, running: &Running) -> Option<Cause> {
        let options = &running.options;
        let (lifetime, most) = (options.workers_lifetime, options.workers_max_rss);
        if lifetime.is_some_and(|lifetime| running.since.elapsed() >= lifetime) {
            return Some(Cause::Lifetime);
        }
        let most = most?;
        let bytes = self
            .controls
            .borrow()
            .get(&running.number)?
            .resident_bytes()?;
        let is_due = bytes > most && running.since.elapsed() >= running.patience;
        is_due.then_some(Cause::Memory(bytes))
    }

    /// Ends a worker that does not go on. It writes where its threads are.
    async fn abort(&self, running: &Running, pulse: &Pulse) {
        let number = running.number;
        let limit = running.options.timeout.unwrap_or_default();
        let (state, outcome) = match pulse.is_of_request {
            true => ("has run a request", "the request gets 504"),
            false => ("has not reacted", "the requests that it had begun get 504"),
        };
        messages::report(format_args!(
            "worker {number} {state} for {limit:?} (--timeout): it is ended by SIGABRT; {outcome}"
        ));
        running.is_late.set(true);
        for signal in [Signal::ABORT, Signal::KILL] {
            if let Some(control) = self.controls.borrow().get(&number) {
                control.signal(signal);
            }
            sleep(UNTIL_KILL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::pwrite;

    use super::*;
    use crate::sys::file::anonymous_file;

    fn pulse(class: &str) -> (Pulse, OwnedFd) {
        let page = anonymous_file("page").expect("a file in memory");
        pwrite(&page, &[0; 16], 0).expect("a write");
        let loaded = Loaded {
            interface: String::new(),
            class: class.to_owned(),
            threads: 1,
            detail: String::new(),
        };
        let copy = page.try_clone().expect("a descriptor");
        (Pulse::new(copy, &loaded), page)
    }

    #[test]
    fn a_worker_of_one_thread_goes_on_while_its_request_changes_or_there_is_none() {
        let (mut pulse, page) = pulse("sync");
        assert_eq!([pulse.look(), pulse.look()], [0, 0]);
        pwrite(&page, b"request1", 0).expect("a write");
        assert_eq!([pulse.look(), pulse.look(), pulse.look()], [0, 1, 2]);
        pwrite(&page, b"request2", 0).expect("a write");
        assert_eq!([pulse.look(), pulse.look()], [0, 1]);
        pwrite(&page, &[0; 8], 0).expect("a write");
        assert_eq!([pulse.look(), pulse.look()], [0, 0]);
    }

    #[test]
    fn a_timeout_is_a_number_of_ticks() {
        let tick_of = |timeout| tick(Some(Duration::from_millis(timeout)));
        assert_eq!(tick_of(1), TICK_MIN);
        assert_eq!(tick_of(800), Duration::from_millis(100));
        assert_eq!(tick_of(30_000), TICK);
        assert_eq!(tick(None), TICK);
    }

    #[test]
    fn an_event_loop_goes_on_while_it_counts() {
        let (mut pulse, page) = pulse("asgi");
        pwrite(&page, b"request1\x01", 0).expect("a write");
        assert_eq!([pulse.look(), pulse.look(), pulse.look()], [0, 1, 2]);
        pwrite(&page, b"request1\x02", 0).expect("a write");
        assert_eq!(pulse.look(), 0);
    }
}
