//! A panic hook that reports panics as messages.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::thread;
use std::time::Duration;

use super::{flush, push};

/// How long a panicking thread waits until its message is written. Normally the thread then
/// unwinds. But if a destructor panics during that, the process aborts, and queued messages are
/// lost.
const PANIC_FLUSH_TIMEOUT: Duration = Duration::from_millis(20);

/// Replaces the panic hook of the process with one that reports each panic as a message: one line,
/// and a backtrace if `RUST_BACKTRACE` requests it.
///
/// A panicking thread waits until its message is written, for at most 20 ms. It does not wait if an
/// earlier message is not written yet.
pub fn report_panics() {
    panic::set_hook(Box::new(|panic| {
        if push(text(panic)) {
            flush(PANIC_FLUSH_TIMEOUT);
        }
    }));
}

/// The message for a panic.
fn text(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("no message").replace('\n', " ");
    let current = thread::current();
    let name = current.name().unwrap_or("an unnamed thread");
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
