//! Signals, and what they do to a running server. It refuses to know what is served, and decides
//! nothing but drain or stop.

use std::io;
use std::thread;

use coring::messages::report;
use coring::{Handle, unblock_signals};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::units::Duration;

/// The signals that the program obeys.
const SIGNALS: [i32; 5] = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGXFSZ];

/// Takes the signals over, also where the parent process ignored or blocked them. Before the server
/// starts, so that none that comes early is lost and every thread lets them through.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn install() -> io::Result<Signals> {
    let signals = Signals::new(SIGNALS)?;
    unblock_signals(&SIGNALS);
    Ok(signals)
}

/// Obeys the signals that came and will come, on a thread of its own that ends with the process.
///
/// # Errors
/// When no thread can be had.
pub(crate) fn obey(mut signals: Signals, server: Handle, limit: Duration) -> io::Result<()> {
    let obey = move || {
        let mut draining = false;
        for signal in signals.forever() {
            match signal {
                // An access log that may not grow: whoever writes it learns so from write(2).
                SIGXFSZ => {}
                SIGHUP => {
                    report("SIGHUP: there is no configuration to reload; it goes on as it is")
                }
                _ if draining => {
                    server.stop();
                    report("stopping now");
                }
                _ => {
                    server.drain();
                    draining = true;
                    report(format_args!(
                        "draining: up to {limit}; a second signal ends it now"
                    ));
                }
            }
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(obey)
        .map(drop)
}
