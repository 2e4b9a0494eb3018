//! Signal handling: the first signal to end drains the server, the second one stops it, unless it
//! repeats the first within a second. Others reopen the access log, and replace, add or remove
//! workers.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

use coring::messages::report;
use coring::{AccessLog, Handle, unblock_signals};
use signal_hook::consts::{
    SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGWINCH,
    SIGXFSZ,
};
use signal_hook::iterator::Signals;

use crate::console;
use crate::run::Application;
use crate::units::Duration;

/// The signals that the program handles.
const SIGNALS: &[i32] = &[SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGXFSZ];
/// Those that concern workers.
const WORKER_SIGNALS: &[i32] = &[SIGTTIN, SIGTTOU, SIGWINCH, SIGCHLD];

/// Installs the handlers, and unblocks the signals, because the parent process may have ignored or
/// blocked them. Must be called before the server starts: then no early signal is lost, and every
/// thread inherits the mask.
///
/// # Errors
/// Fails if the kernel refuses.
pub(crate) fn install() -> io::Result<Signals> {
    take(SIGNALS)
}

/// As [`install`], with the signals that concern workers.
///
/// # Errors
/// Fails if the kernel refuses.
pub(crate) fn install_with_workers() -> io::Result<Signals> {
    take(&[SIGNALS, WORKER_SIGNALS].concat())
}

fn take(numbers: &[i32]) -> io::Result<Signals> {
    let signals = Signals::new(numbers)?;
    unblock_signals(numbers);
    Ok(signals)
}

/// What signals concern besides the server, if it runs an application.
pub(crate) type Runs = Option<Arc<Application>>;

/// Handles the signals since [`install`] on a thread of its own, which ends with the process. The
/// result has the time at which the drain began, once it has.
///
/// # Errors
/// Fails if the thread cannot be started.
pub(crate) fn handle(
    mut signals: Signals,
    server: Handle,
    application: Runs,
    limit: Duration,
    logs: Logs,
) -> io::Result<Arc<OnceLock<Instant>>> {
    let drain: Arc<OnceLock<Instant>> = Arc::default();
    let began = drain.clone();
    let handle = move || {
        let mut ending = Ending::default();
        for signal in signals.forever() {
            let application = application.as_ref();
            if act(signal, Some(&server), application, &logs) {
                continue;
            }
            let now = Instant::now();
            match ending.next(signal, now) {
                Step::Drain => {
                    let _ = drain.set(now);
                    // The message first: a server without connections ends at once.
                    report(format_args!(
                        "draining: running requests have {limit}; a second signal stops the server"
                    ));
                    server.drain();
                }
                Step::Repeat => {}
                Step::Stop => {
                    report("stopping now");
                    server.stop();
                    if let Some(application) = application {
                        application.workers.stop(std::time::Duration::ZERO);
                    }
                }
            }
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(handle)?;
    Ok(began)
}

/// How long the same signal is one with the first. Supervisors such as timeout(1) send it to the
/// process and to its group.
const REPEAT: std::time::Duration = std::time::Duration::from_secs(1);

/// The first signal to end.
#[derive(Debug, Default)]
struct Ending(Option<(i32, Instant)>);

/// What another signal to end does.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Drain,
    /// Nothing: it is one with the first.
    Repeat,
    Stop,
}

impl Ending {
    fn next(&mut self, signal: i32, now: Instant) -> Step {
        match self.0 {
            None => {
                self.0 = Some((signal, now));
                Step::Drain
            }
            Some((first, at)) if first == signal && now < at + REPEAT => Step::Repeat,
            Some(_) => Step::Stop,
        }
    }
}

/// Does what a signal asks for, unless that is the end: then it returns `false`. While the first
/// worker starts there is no server yet.
pub(crate) fn act(
    signal: i32,
    server: Option<&Handle>,
    application: Option<&Arc<Application>>,
    logs: &Logs,
) -> bool {
    match (signal, application) {
        (SIGTERM | SIGINT | SIGQUIT, _) => return false,
        (SIGHUP, Some(application)) => {
            logs.reopen(server);
            application.reload();
        }
        (SIGHUP, None) => {
            let logs = logs.reopen(server);
            report(format_args!(
                "SIGHUP: {logs}; there is no configuration to reload"
            ));
        }
        (SIGUSR1, _) => report(format_args!("SIGUSR1: {}", logs.reopen(server))),
        (SIGUSR2, _) => report(
            "SIGUSR2: ignored, because coring does not start a successor of itself; let the \
             service manager restart it, or send SIGHUP to load an application anew",
        ),
        (SIGTTIN, Some(application)) => application.workers.add(),
        (SIGTTOU, Some(application)) => application.workers.remove(),
        // A terminal sends it whenever its window changes.
        (SIGWINCH, Some(_)) if !io::stderr().is_terminal() => {
            report("SIGWINCH: ignored, because coring is no daemon; to end it, send SIGTERM");
        }
        (SIGCHLD, Some(application)) => application.workers.reap_orphans(),
        // SIGXFSZ: a file, the access log say, has reached RLIMIT_FSIZE. The write fails with
        // EFBIG; without a handler the signal would end the process.
        _ => {}
    }
    true
}

/// The logs that are files, which signals open anew.
#[derive(Debug)]
pub(crate) struct Logs {
    has_access_log: bool,
    error_log: Option<PathBuf>,
}

impl Logs {
    pub(crate) fn new(access_log: &AccessLog, error_log: Option<PathBuf>) -> Self {
        Self {
            has_access_log: matches!(access_log, AccessLog::File(_)),
            error_log,
        }
    }

    /// Opens them anew. Returns what has been done.
    fn reopen(&self, server: Option<&Handle>) -> &'static str {
        if let Some(server) = server {
            server.reopen_access_log();
        }
        if let Some(path) = &self.error_log
            && let Err(error) = console::redirect(path, true)
        {
            let path = path.display();
            report(format_args!(
                "the error log {path} cannot be opened anew: {error}; the old file goes on"
            ));
        }
        match (self.has_access_log, &self.error_log) {
            (true, _) => "the access log is opened anew",
            (false, Some(_)) => "the error log is opened anew",
            (false, None) => "there is no access log file",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_signal_is_one_with_the_first() {
        let began = Instant::now();
        for (signal, after, step) in [
            (SIGTERM, std::time::Duration::ZERO, Step::Repeat),
            (SIGTERM, REPEAT / 2, Step::Repeat),
            (SIGTERM, REPEAT, Step::Stop),
            (SIGINT, std::time::Duration::ZERO, Step::Stop),
        ] {
            let mut ending = Ending::default();
            assert_eq!(ending.next(SIGTERM, began), Step::Drain);
            assert_eq!(
                ending.next(signal, began + after),
                step,
                "{signal} {after:?}"
            );
        }
    }
}
