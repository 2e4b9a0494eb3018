//! Reads the settings again on HUP, as gunicorn does: new workers follow them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use coring::messages::report;
use coring::python::Workers;

use super::{RunArgs, RunError};

/// The settings, as `--print-config` names them, that workers follow. All others are those of the
/// server.
const OF_WORKERS: &[&str] = &[
    "app",
    "app_dir",
    "chdir",
    "config",
    "env",
    "env_file",
    "factory",
    "interface",
    "lifespan",
    "log_config",
    "log_level",
    "loop",
    "max_requests",
    "max_requests_jitter",
    "preload",
    "proc_name",
    "profile",
    "python",
    "pythonpath",
    "start_timeout",
    "threads",
    "timeout",
    "worker_class",
    "worker_connections",
    "workers",
    "workers_lifetime",
    "workers_max_rss",
];

/// The workers, and the settings that coring was started with.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) workers: Workers,
    lines: String,
    notes: Vec<String>,
    drain_timeout: Duration,
    is_attached: bool,
    /// Reads the settings from all their sources.
    read: fn() -> Result<RunArgs, Unread>,
    hups: Hups,
}

/// How often HUP has come.
#[derive(Debug, Default)]
struct Hups(Mutex<u64>);

impl Hups {
    /// There is another one. Returns its number.
    fn add(&self) -> u64 {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        *count
    }

    /// Does what the one with this number asks for, unless there was a later one, which reads what
    /// is newer. None comes meanwhile, so they take effect in their order.
    fn follow(&self, number: u64, act: impl FnOnce()) {
        let count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *count == number {
            act();
        }
    }
}

/// Why the settings could not be read again.
#[derive(Debug)]
pub(crate) enum Unread {
    /// A process has said it on standard error.
    Reported,
    /// In one line.
    Because(String),
}

impl Application {
    pub(super) fn new(
        workers: Workers,
        arguments: &RunArgs,
        drain_timeout: Duration,
        read: fn() -> Result<RunArgs, Unread>,
    ) -> Self {
        Self {
            workers,
            lines: arguments.settled.lines.clone(),
            notes: arguments.notes(),
            drain_timeout,
            is_attached: arguments.attach.is_given(),
            read,
            hups: Hups::default(),
        }
    }

    /// Has the workers replaced by ones that follow the settings as they are now. Another thread
    /// reads these, since a configuration file is a program, which may take any time.
    pub(crate) fn reload(self: &Arc<Self>) {
        if self.is_attached {
            // Its settings are arguments alone.
            return self.workers.reload();
        }
        let application = self.clone();
        let number = self.hups.add();
        let thread = thread::Builder::new().name("settings".to_owned());
        if let Err(error) = thread.spawn(move || application.read_again(number)) {
            report(format_args!(
                "reload: no thread can be started: {error}; nothing is changed"
            ));
        }
    }

    fn read_again(&self, number: u64) {
        let options = (self.read)().and_then(|arguments| {
            let options = arguments.options(self.drain_timeout);
            let options = options.map_err(|error| Unread::Because(error.to_string()))?;
            Ok((arguments, options))
        });
        self.hups.follow(number, || match options {
            Ok((arguments, options)) => {
                self.tell(&arguments);
                self.workers.reload_with(options);
            }
            Err(Unread::Reported) => report(
                "reload: the configuration cannot be read; settings and workers stay as they \
                 are, until the next reload",
            ),
            Err(Unread::Because(reason)) => report(format_args!(
                "reload: {reason}; settings and workers stay as they are, until the next reload"
            )),
        });
    }

    /// Says what is new in the settings and of no effect.
    fn tell(&self, arguments: &RunArgs) {
        for note in arguments.notes() {
            if !self.notes.contains(&note) {
                report(note);
            }
        }
        let names = changed(&self.lines, &arguments.settled.lines);
        if !names.is_empty() {
            report(format_args!(
                "reload: only a restart of coring changes {}",
                names.join(", ")
            ));
        }
    }
}

impl RunError {
    /// Why settings are not followed.
    pub(crate) fn unread(&self) -> Unread {
        match self.is_reported() {
            true => Unread::Reported,
            false => Unread::Because(self.to_string()),
        }
    }
}

/// The settings of the server with another value than before.
fn changed(before: &str, now: &str) -> Vec<String> {
    let (before, now) = (values(before), values(now));
    let changed = now.into_iter().filter(|(name, value)| {
        !OF_WORKERS.contains(name) && before.get(name).is_none_or(|old| old != value)
    });
    changed.map(|(name, _)| name.to_owned()).collect()
}

/// The values of lines `name = value # source`.
fn values(lines: &str) -> BTreeMap<&str, &str> {
    let parts = lines.lines().filter_map(|line| line.split_once(" = "));
    parts
        .map(|(name, rest)| {
            (
                name,
                rest.rsplit_once(" # ").map_or(rest, |(value, _)| value),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn settings_of_the_server_that_change_are_named() {
        let before = "bind = :80 # the default\nworkers = 1 # the default\nuser = a # x\n";
        let now = "bind = :81 # conf.py\nworkers = 2 # conf.py\nuser = a # conf.py\n";
        assert_eq!(changed(before, now), ["bind"]);
        assert!(changed(now, now).is_empty());
    }

    /// The second one comes when the first one is about to take effect.
    #[test]
    fn hups_take_effect_in_their_order() {
        let (hups, followed) = (Hups::default(), Mutex::new(Vec::new()));
        let follow = |number| followed.lock().expect("a lock").push(number);
        let first = hups.add();
        thread::scope(|scope| {
            hups.follow(first, || {
                let later = scope.spawn(|| {
                    let second = hups.add();
                    hups.follow(second, || follow(second));
                });
                // It would be over by then.
                thread::sleep(Duration::from_millis(100));
                assert!(!later.is_finished());
                follow(first);
            });
        });
        hups.follow(first, || follow(first));
        assert_eq!(*followed.lock().expect("a lock"), [1, 2]);
    }

    #[test]
    fn the_settings_of_workers_exist() {
        let mut root = crate::flags::Flags::command();
        root.build();
        let run = root.find_subcommand("run").expect("is declared");
        for name in OF_WORKERS
            .iter()
            .filter(|name| !["app", "profile"].contains(name))
        {
            let exists =
                |argument: &clap::Arg| argument.get_long() == Some(&name.replace('_', "-"));
            assert!(run.get_arguments().any(exists), "{name}");
        }
    }
}
