//! Reloads: all workers are replaced by ones with the newest code, or stay if that does not run.

use std::path::Path;

use super::{Pool, StartError};
use crate::messages;
use crate::python::pool::start::NotReady;
use crate::python::reload::{PATH, State};

impl Pool {
    /// A file has changed: whatever code is loaded from now on is newer.
    pub(super) fn reload(&self, path: &Path) {
        self.code.set(self.code.get() + 1);
        self.show(State::Loading);
        messages::report(format_args!(
            "reload: {} changed; workers are replaced",
            path.display()
        ));
        self.changed();
    }

    /// Whether another attempt to load the newest code would fail.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.get() == Some(self.code.get())
    }

    /// A place has a worker that was started with `code`.
    pub(super) fn begun(&self, place: u32, code: u64) {
        let before = self.places[place as usize].replace(code);
        if code != self.code.get() {
            return;
        }
        self.show(State::Runs);
        let is_last = self.places.iter().all(|other| other.get() == code);
        if before != code && is_last {
            messages::report("reload: all workers run the new code");
        }
    }

    /// Code could not be loaded. `true`: that was to be expected, so there will be a reload.
    pub(super) fn could_not_load(&self, code: u64, not_ready: &NotReady) -> bool {
        if self.newest.is_none() || matches!(not_ready.error, StartError::Io(_)) {
            return false;
        }
        if code == self.code.get() {
            self.broken.set(Some(code));
            self.show(State::Failed(not_ready.reason.clone()));
            let outcome = match self.count_ready() {
                0 => "a saved file may mend that; until then every request gets the page",
                _ => "the code that ran before still does; GET",
            };
            messages::report(format_args!(
                "reload: {}; {outcome} {PATH}, which shows why",
                not_ready.error
            ));
        }
        true
    }

    /// The number of workers that are ready has changed.
    pub(super) fn show_ready(&self) {
        if let Some(newest) = &self.newest {
            newest.set_workers(self.count_ready());
        }
    }

    fn count_ready(&self) -> usize {
        let controls = self.controls.borrow();
        controls.values().filter(|one| one.is_ready.get()).count()
    }

    fn show(&self, state: State) {
        if let Some(newest) = &self.newest {
            newest.set(state);
        }
    }
}
