//! Signal handling: the first signal drains the server, the second one stops it.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

use coring::messages::report;
use coring::{Handle, unblock_signals};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::units::Duration;

/// The signals that the program handles.
const SIGNALS: [i32; 5] = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGXFSZ];

/// Installs the handlers, and unblocks the signals, because the parent process may have ignored or
/// blocked them. Must be called before the server starts: then no early signal is lost, and every
/// thread inherits the mask.
///
/// # Errors
/// Fails if the kernel refuses.
pub(crate) fn install() -> io::Result<Signals> {
    let signals = Signals::new(SIGNALS)?;
    unblock_signals(&SIGNALS);
    Ok(signals)
}

/// What a signal ends, besides the server.
pub(crate) type Workers = Option<Arc<coring::python::Workers>>;

/// Handles the signals since [`install`] on a thread of its own, which ends with the process. The
/// result has the time at which the drain began, once it has.
///
/// # Errors
/// Fails if the thread cannot be started.
pub(crate) fn handle(
    mut signals: Signals,
    server: Handle,
    workers: Workers,
    limit: Duration,
) -> io::Result<Arc<OnceLock<Instant>>> {
    let drain: Arc<OnceLock<Instant>> = Arc::default();
    let began = drain.clone();
    let handle = move || {
        for signal in signals.forever() {
            match signal {
                // A file, the access log say, has reached RLIMIT_FSIZE. The write fails with EFBIG;
                // without a handler the signal would end the process.
                SIGXFSZ => {}
                SIGHUP => report("SIGHUP: ignored, because there is no configuration to reload"),
                _ if drain.set(Instant::now()).is_err() => {
                    report("stopping now");
                    server.stop();
                    if let Some(workers) = &workers {
                        workers.stop(std::time::Duration::ZERO);
                    }
                }
                // The message first: a server without connections ends at once.
                _ => {
                    report(format_args!(
                        "draining: running requests have {limit}; a second signal stops the server"
                    ));
                    server.drain();
                }
            }
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(handle)?;
    Ok(began)
}
