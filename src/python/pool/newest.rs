//! Reloads: all workers are replaced by ones with the newest code, or stay if that does not run.

use std::path::Path;
use std::rc::Rc;

use super::place::{Place, Running};
use super::start::NotReady;
use super::{Pool, StartError};
use crate::messages;
use crate::python::options::Options;
use crate::python::reload::{PATH, State};

impl Pool {
    /// Whatever code is loaded from now on is newer: a file has changed, at this path, or the
    /// operator says so.
    pub(super) fn reload(&self, path: Option<&Path>) {
        self.code.set(self.code.get() + 1);
        self.show(State::Loading);
        let cause = path.map(|path| format!("{} changed; ", path.display()));
        messages::report(format_args!(
            "reload: {}workers are replaced",
            cause.unwrap_or_default()
        ));
        self.changed();
    }

    /// As [`Pool::reload`], with other options for that code. How many workers are kept changes
    /// only if these say another number than the ones before, since signals may have changed it.
    pub(super) fn configure(&self, options: Options) {
        let count = usize::try_from(options.workers).ok();
        let is_other = options.workers != self.proven.borrow().1.workers;
        self.count.set(count.filter(|_| is_other));
        self.options.replace(Rc::new(options));
        self.reload(None);
    }

    /// The code that a worker is to run: the newest, or the last that was ready in a worker if the
    /// newest could not be loaded.
    pub(super) fn code_to_start(&self) -> u64 {
        match self.is_broken() {
            true => self.proven.borrow().0,
            false => self.code.get(),
        }
    }

    /// The options of workers that run `code`: the newest one, or that which was ready last.
    pub(super) fn options_of(&self, code: u64) -> Rc<Options> {
        match &*self.proven.borrow() {
            (proven, options) if *proven == code => options.clone(),
            _ => self.options.borrow().clone(),
        }
    }

    /// Whether the newest code could not be loaded, so that workers with older code stay.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.get() == Some(self.code.get())
    }

    /// Whether a place without a worker has to wait until a file is saved.
    pub(super) fn waits_for_save(&self) -> bool {
        self.newest.is_some() && self.is_broken()
    }

    /// A place has a worker that was started with `code` and `options`, and is ready.
    pub(super) fn begun(self: &Rc<Self>, place: &Place, code: u64, options: Rc<Options>) {
        self.proven.replace((code, options));
        self.close_zygotes();
        let before = place.code.replace(code);
        if code != self.code.get() {
            return;
        }
        self.follow_count();
        self.show(State::Runs);
        let is_last = self
            .places
            .borrow()
            .iter()
            .all(|other| other.code.get() == code);
        if before != code && is_last {
            messages::report("reload: all workers run the new code");
        }
    }

    /// Code could not be loaded, where `current` is to be replaced. `true`: that is no matter of
    /// this place, because workers run older code, or the code is about to change.
    pub(super) fn could_not_load(
        &self,
        current: Option<&Running>,
        code: u64,
        not_ready: &NotReady,
    ) -> bool {
        let is_old = current.is_some_and(|running| running.code < code);
        // A place may be without a worker when there is other code.
        let is_unproven = self.first.borrow().is_none() && self.proven.borrow().0 < code;
        let is_expected = is_old || is_unproven || self.newest.is_some();
        if !is_expected || self.is_broken() || matches!(not_ready.error, StartError::Io(_)) {
            return false;
        }
        if code == self.code.get() {
            self.broken.set(Some(code));
            self.close_zygotes();
            self.show(State::Failed(not_ready.reason.clone()));
            let outcome = match (&self.newest, self.count_ready()) {
                (None, _) => "the workers stay as they are, until the next reload".to_owned(),
                (Some(_), 0) => format!(
                    "a saved file may mend that; until then every request gets the page {PATH}, \
                     which shows why"
                ),
                (Some(_), _) => {
                    format!("the code that ran before still does; GET {PATH}, which shows why")
                }
            };
            messages::report(format_args!("reload: {}; {outcome}", not_ready.error));
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
