//! Messages to the operator, on standard error: notes, errors and panics.
//!
//! The reader of standard error may be slow or stall (a log collector that hangs, a terminal after
//! ^S), and a write then blocks. So a message is queued, and a thread of its own writes it: the
//! thread that has something to report never waits, be it a worker or the one that reads signals.
//! The queue is bounded; messages that find it full are lost, and the next one that is written says
//! how many. A program calls [`flush`] before it exits, to give the last messages some time.
//!
//! A service that has something to report calls [`report`], for the same reason:
//!
//! ```
//! coring::messages::report("the database is back");
//! ```
//!
//! Rust's default panic hook writes on the thread that panics, which is a worker if a service does.
//! [`report_panics`] replaces it.

mod panics;
mod queue;

use std::fmt::Display;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::Timespec;

use crate::sys::output::{Blocking, wait_for_room};
use crate::sys::signals::block_write_signals;
pub use panics::report_panics;
use queue::Queue;

/// [`flush`] waits no longer than this.
const PATIENCE_MAX: Duration = Duration::from_secs(3600);

static STDERR: Queue = Queue::new();

/// Reports a line, with the program's name before it. It never blocks; the line may be lost if
/// standard error is not read.
pub fn report(line: impl Display) {
    write(format!("coring: {line}\n"));
}

/// As [`report`], for a text that has line ends of its own.
pub fn write(text: impl Into<String>) {
    push(text.into());
}

/// Waits until every message is written, but no longer than `patience`, and an hour at most. True
/// if every one is.
pub fn flush(patience: Duration) -> bool {
    let now = Instant::now();
    let end = now + patience.min(PATIENCE_MAX);
    if STDERR.wait_until_idle(now) {
        true
    } else if has_writer() {
        STDERR.wait_until_idle(end)
    } else {
        write_here(end)
    }
}

/// Queues a message. True if everything before it has been written.
fn push(message: String) -> bool {
    let was_idle = STDERR.push(message);
    has_writer();
    was_idle
}

/// Whether there is a thread that writes; it is started if not. None may be had where threads are
/// limited.
fn has_writer() -> bool {
    let mut state = STDERR.lock();
    if !state.has_writer {
        let thread = thread::Builder::new().name("coring-messages".to_owned());
        let started = thread.spawn(|| {
            block_write_signals();
            STDERR.write_to(Blocking(io::stderr()))
        });
        state.has_writer = started.is_ok();
    }
    state.has_writer
}

/// Writes what is queued on this thread, as long as standard error has room: a program that cannot
/// have another thread reports at least that.
fn write_here(end: Instant) -> bool {
    let mut output = Blocking(io::stderr());
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        if !wait_for_room(&output.0, Some(&left)).unwrap_or(true) {
            return false;
        }
        if !STDERR.write_one(&mut output) {
            return true;
        }
    }
}
