//! **coring** is an HTTP server for Linux, built on io_uring: one thread per core, no state shared
//! between the threads, one coroutine per connection. Where io_uring is forbidden it uses epoll.
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
//! Coroutines do not need a server: [`run`] runs a coroutine, and all that it [`spawn`]s, on the
//! calling thread.
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
//! The [`guide`] explains coroutines, completions and the ownership of buffers. `examples/` has
//! complete programs.
//!
//! The factory given to `serve` runs once on each worker. So a service is never shared between
//! threads: it need not be `Send`, and it may keep state without locks.
//!
//! The library installs no signal handlers, unless a program calls [`signal`](mod@signal):
//! [`Builder::start`] returns a [`Handle`] that drains or
//! stops the server. The server's threads block `SIGPIPE` and `SIGXFSZ`, so that a failed write
//! returns an error whatever the program does about these signals. Threads and child processes that
//! a service starts inherit this signal mask; [`process::spawn`] starts a child process without it.
//!
//! The library does not replace the panic hook. Rust's default hook writes to standard error on the
//! thread that panics, which blocks a worker while nothing reads standard error (a log collector
//! that hangs). A program whose service may panic should call [`messages::report_panics`].

#![deny(unsafe_code)]

#[allow(
    unsafe_code,
    reason = "blocks are reference-counted by hand and lent to the kernel"
)]
mod buf;
pub mod client;
#[allow(
    unsafe_code,
    reason = "descriptors and memory are handed to the kernel"
)]
mod engine;
pub mod fs;
#[doc = include_str!("guide.md")]
pub mod guide {}
/// The examples of that page are tested.
#[cfg(doctest)]
#[doc = include_str!("../docs/library.md")]
mod library {}
#[cfg(any(feature = "glommio", feature = "tokio"))]
mod host;
mod http;
pub mod messages;
pub mod metrics;
pub mod net;
pub mod process;
pub mod python;
#[allow(unsafe_code, reason = "a raw waker stores a number in its pointer")]
mod rt;
mod server;
mod service;
#[cfg(feature = "sim")]
#[allow(
    unsafe_code,
    reason = "the simulated kernel dereferences the pointers it is given"
)]
pub mod sim;
#[allow(unsafe_code, reason = "some system calls have no safe wrapper")]
mod sys;
pub mod task;

pub use crate::http::field::Fields;
pub use crate::http::forwarded::{InvalidPeers, TrustedPeers};
pub use crate::http::{FieldLines, InvalidField};
pub use ::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
pub use buf::{Chunk, Part};
pub use engine::{EngineChoice, Guest, Refused, Selected, Turned};
#[cfg(feature = "glommio")]
pub use host::glommio;
#[cfg(feature = "tokio")]
pub use host::tokio;
pub use rt::{DrainHold, draining, hold_drain};
pub use server::testing;
pub use server::{
    AccessLog, AccessLogFormat, Builder, Cores, Error, ErrorKind, HalfClose, Handle, InvalidFormat,
    Limits, Pin, Result, Seat, Server,
};
pub use service::{
    Body, BodyError, BodySender, ContentError, Files, Gone, InvalidRequest, NextResponse, Request,
    RequestBuilder, Response, Router, Service, ServiceFactory, TryWriteError, Upgraded,
    UpgradedReader, UpgradedWriter,
};
#[cfg(feature = "tower")]
pub use service::{Tower, TowerBody, tower};
pub use sys::kernel::release as kernel_release;
pub use sys::signals::unblock_signals;
pub use task::run::{run, run_as_guest, run_with};
pub use task::spawn;

/// Channels and locks between the coroutines of a worker. Nothing here is `Send`; channels between
/// workers are in [`remote`].
pub mod sync {
    pub use crate::task::channel::local::{Receiver, Sender, channel};
    pub use crate::task::channel::{Closed, TryRecvError, TrySendError};
    pub use crate::task::mutex::{Mutex, MutexGuard, TryLockError};
    pub use crate::task::notify::{Notified, Notify};
    pub use crate::task::semaphore::{
        AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit, TryAcquireError,
    };

    /// A channel for one value.
    pub mod oneshot {
        pub use crate::task::oneshot::{Receiver, RecvError, Sender, TryRecvError, channel};
    }
}

/// Across workers and threads: coroutines that are started on another worker, a worker on each
/// core, and channels whose ends are `Send`.
pub mod remote {
    pub use crate::task::channel::between::{Receiver, Sender, channel};
    pub use crate::task::remote::{Core, JoinHandle, Worker, current, run_on_all_cores, spawn};
}

/// Unix signals.
pub mod signal {
    pub use crate::task::signal::{Signal, SignalKind, ctrl_c, signal};
}

/// Sleeps, timeouts and intervals.
pub mod time {
    pub use crate::rt::{Elapsed, Timeout};
    pub use crate::task::interval::{Interval, MissedTickBehavior, interval, interval_at};
    pub use crate::task::time::{sleep, sleep_until, timeout};
}

/// Internals for `bench/` and `tests/fuzz/`. Anything here may change in any release.
#[cfg(feature = "sim")]
pub mod parts {
    pub use crate::buf::{
        BLOCK_BYTES, Chunk, FileSpan, Outgoing, Part, Pool, PoolBox, RecvBuf, SendQueue,
    };
    pub use crate::engine::monotonic_ms;
    pub use crate::http::{Fault, Head, Version, conditional, date, field, h1, range, target};
    pub use crate::python::bench::{LinkBench, Told};
    pub use crate::rt::{
        Executor, JoinError, JoinHandle, Timer, Wheel, now_ms, sleep_ms, spawn_joined, wake_all,
        yield_now,
    };
    pub use crate::service::{Relative, with_slash};
}
