//! Messages to the operator, on standard error: notes, errors and panics.
//!
//! If the reader of standard error is slow or stalls (a log collector that hangs, a terminal after
//! ^S), a write to it blocks. So messages are queued, and a separate thread writes them: reporting
//! a message blocks neither a worker nor the thread that reads signals. The queue is bounded. If it
//! is full, new messages are lost, and a line with their number is written before the next message.
//! A program should call [`flush`] before it exits, so that the last messages are written.
//!
//! A service should report through [`report`] too, so that it does not block its worker:
//!
//! ```
//! coring::messages::report("the database is back");
//! ```
//!
//! Rust's default panic hook writes to standard error on the thread that panics. If a service
//! panics, that thread is a worker. [`report_panics`] replaces this hook.

mod panics;
mod queue;

use std::fmt::Display;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::Timespec;

use crate::sys::output::{BlockingWriter, wait_for_room};
use crate::sys::signals::block_write_signals;
pub use panics::report_panics;
use queue::Queue;

/// The longest time that [`flush`] waits.
const FLUSH_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

static STDERR: Queue = Queue::new();

/// Queues a message of one line for standard error, with `coring: ` before it. It never blocks. The
/// message is lost if the queue is full because standard error is not read.
pub fn report(line: impl Display) {
    write(format!("coring: {line}\n"));
}

/// Like [`report`], but writes `text` unchanged: without a prefix, and without a line end after it.
pub fn write(text: impl Into<String>) {
    push(text.into());
}

/// Waits until all messages are written, for at most `timeout`, and never for more than an hour.
/// Returns whether all of them are written.
///
/// ```
/// coring::messages::report("stopping");
/// coring::messages::flush(std::time::Duration::from_secs(1));
/// ```
pub fn flush(timeout: Duration) -> bool {
    let now = Instant::now();
    let end = now + timeout.min(FLUSH_TIMEOUT_MAX);
    if STDERR.wait_until_idle(now) {
        true
    } else if ensure_writer() {
        STDERR.wait_until_idle(end)
    } else {
        write_here(end)
    }
}

/// Queues a message. Returns whether all earlier messages have been written.
fn push(message: String) -> bool {
    let was_idle = STDERR.push(message);
    ensure_writer();
    was_idle
}

/// Starts the thread that writes messages, unless it runs. Returns whether it runs: starting it may
/// fail if the number of threads is limited.
fn ensure_writer() -> bool {
    let mut state = STDERR.lock();
    if !state.has_writer {
        let thread = thread::Builder::new().name("coring-messages".to_owned());
        let started = thread.spawn(|| {
            block_write_signals();
            STDERR.write_to(BlockingWriter(io::stderr()))
        });
        state.has_writer = started.is_ok();
    }
    state.has_writer
}

/// Writes the queued messages on this thread, until `end` or until none is left. Returns whether
/// none is left. This is for a program that cannot start another thread: it can report that error.
fn write_here(end: Instant) -> bool {
    let mut output = BlockingWriter(io::stderr());
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
