//! Signal handling: the first signal drains the server, the second one stops it.

use std::io;
use std::thread;

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

/// Handles the signals since [`install`] on a thread of its own, which ends with the process.
///
/// # Errors
/// Fails if the thread cannot be started.
pub(crate) fn handle(mut signals: Signals, server: Handle, limit: Duration) -> io::Result<()> {
    let handle = move || {
        let mut draining = false;
        for signal in signals.forever() {
            match signal {
                // A file, the access log say, has reached RLIMIT_FSIZE. The write fails with EFBIG;
                // without a handler the signal would end the process.
                SIGXFSZ => {}
                SIGHUP => report("SIGHUP: ignored, because there is no configuration to reload"),
                _ if draining => {
                    report("stopping now");
                    server.stop();
                }
                // The message first: a server without connections ends at once.
                _ => {
                    draining = true;
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
        .spawn(handle)
        .map(drop)
}
