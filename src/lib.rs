//! **coring** is an HTTP server for Linux: completion-driven on io_uring, a thread per core that
//! shares nothing, one coroutine per connection.
//!
//! ```no_run
//! fn main() -> coring::Result<()> {
//!     coring::Server::builder()
//!         .bind("127.0.0.1:8000")
//!         .serve(|| async |request: coring::Request| match request.path() {
//!             "/" => coring::Response::html("<b>hello world</b>"),
//!             _ => coring::Response::not_found("<h1>Not Found</h1>"),
//!         })
//! }
//! ```
//!
//! Coroutines need no server: [`run`] runs one, with what it [`spawn`]s, on this thread.
//!
//! ```
//! use std::time::Duration;
//!
//! coring::run(async {
//!     let handles = [3, 1, 2].map(|n| {
//!         coring::spawn(async move {
//!             coring::time::sleep(Duration::from_millis(n)).await;
//!             n
//!         })
//!     });
//!     assert_eq!(coring::task::join_all(handles).await, [Ok(3), Ok(1), Ok(2)]);
//! });
//! ```
//!
//! The [`guide`] says how that works, and what it is called elsewhere; `examples/` has whole
//! programs.
//!
//! The factory given to `serve` runs once on each worker, so a service is never shared between
//! threads: it need not be `Send`, and it may keep state without locks. The library installs
//! no signal handler; [`Builder::start`] returns a [`Handle`] that drains or stops the server. A
//! server's threads block `SIGPIPE` and `SIGXFSZ`, so a failed write is an error whatever the
//! program does about these signals; threads that a service starts inherit that.
//!
//! Nor does the library replace the panic hook. Rust's own one writes to standard error on the
//! thread that panics: a program whose service may panic calls [`messages::report_panics`], so that
//! a log collector that hangs does not hold up a worker.

#![deny(unsafe_code)]

#[allow(
    unsafe_code,
    reason = "blocks are counted by hand and lent to the kernel"
)]
mod buf;
#[allow(unsafe_code, reason = "the kernel is given descriptors and memory")]
mod engine;
pub mod fs;
#[doc = include_str!("guide.md")]
pub mod guide {}
mod http;
pub mod messages;
pub mod metrics;
pub mod net;
pub mod process;
#[allow(unsafe_code, reason = "a waker is a number in a pointer")]
mod rt;
mod server;
mod service;
#[cfg(feature = "sim")]
#[allow(
    unsafe_code,
    reason = "a simulated kernel follows the pointers it is given"
)]
pub mod sim;
#[allow(unsafe_code, reason = "some of Linux has no safe function as yet")]
mod sys;
pub mod task;

pub use crate::http::field::Fields;
pub use crate::http::{FieldLines, InvalidField};
pub use ::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
pub use buf::{Chunk, Part};
pub use engine::{EngineChoice, Refused, Selected};
pub use rt::{DrainHold, draining, hold_drain};
pub use server::testing;
pub use server::{
    AccessLog, Builder, Cores, Error, ErrorKind, HalfClose, Handle, Limits, Pin, Result, Server,
};
pub use service::{
    Body, BodyError, BodySender, ContentError, Files, Gone, InvalidRequest, NextResponse, Request,
    RequestBuilder, Response, Router, Service, ServiceFactory, TryWriteError, Upgraded,
    UpgradedReader, UpgradedWriter,
};
pub use sys::kernel::release as kernel_release;
pub use sys::signals::unblock_signals;
pub use task::run::{run, run_with};
pub use task::spawn;

/// Handing values from one coroutine to another.
pub mod sync {
    pub use crate::task::channel::{Closed, Receiver, Sender, channel};
}

/// Waiting for a time to pass, and no longer than that.
pub mod time {
    pub use crate::rt::{Elapsed, Timeout};
    pub use crate::task::time::{sleep, timeout};
}

/// Parts of the core, to be measured and tested by themselves: for `bench/` and `tests/fuzz/`, and
/// a feature.
#[cfg(feature = "sim")]
pub mod parts {
    pub use crate::buf::{
        BLOCK_BYTES, Chunk, FileSpan, Outgoing, Part, Pool, PoolBox, RecvBuf, SendQueue,
    };
    pub use crate::http::{Fault, Head, Version, conditional, date, field, h1, range, target};
    pub use crate::rt::{
        Executor, JoinError, JoinHandle, Timer, Wheel, now_ms, sleep_ms, spawn_joined, wake_all,
        yield_now,
    };
    pub use crate::service::{Relative, with_slash};
}
