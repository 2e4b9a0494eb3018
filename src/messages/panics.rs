//! Panics as messages.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::thread;
use std::time::Duration;

use super::{flush, push};

/// How long a thread that panics waits for its message to be written. It goes on by unwinding,
/// unless a destructor panics too: then the process aborts, and what is still queued is lost.
const BEFORE_AN_ABORT: Duration = Duration::from_millis(20);

/// Reports panics as messages from now on: each one as a line, with a backtrace where
/// `RUST_BACKTRACE` asks for it. It replaces the process's panic hook.
///
/// A thread that panics waits for its message to be written, for 20 ms at most, and not at all if
/// an earlier message has yet to be written.
pub fn report_panics() {
    panic::set_hook(Box::new(|panic| {
        if push(text(panic)) {
            flush(BEFORE_AN_ABORT);
        }
    }));
}

fn text(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("no message").replace('\n', " ");
    let current = thread::current();
    let name = current.name().unwrap_or("a thread without a name");
    let mut text = format!("coring: panic in {name}: {message}");
    if let Some(place) = panic.location() {
        text.push_str(&format!(", at {}:{}", place.file(), place.line()));
    }
    text.push('\n');
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        text.push_str(&format!("{backtrace}\n"));
    }
    text
}
