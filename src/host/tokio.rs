//! coring's workers as guests of tokio (feature `tokio`): a handler can await tokio's timers and
//! sockets, and the clients that are built on them, beside what coring offers.
//!
//! A guest stays on its thread, so it runs on a current-thread runtime, or on a [`LocalSet`]. The
//! runtime needs its timers and its sockets (`enable_all`).
//!
//! ```
//! use std::time::Duration;
//!
//! use coring::{EngineChoice, run_as_guest};
//!
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! let guest = run_as_guest(EngineChoice::Auto, async {
//!     tokio::time::sleep(Duration::from_millis(1)).await;
//!     coring::time::sleep(Duration::from_millis(1)).await;
//!     42
//! })?;
//! assert_eq!(runtime.block_on(coring::tokio::drive(guest))?, 42);
//! # std::io::Result::Ok(())
//! ```
//!
//! [`LocalSet`]: ::tokio::task::LocalSet

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use ::tokio::task::yield_now;
use ::tokio::time::{Instant, Sleep, sleep};

use crate::engine::{Guest, Turned};
use crate::server::{Builder, Error, Result};
use crate::service::{Service, ServiceFactory};

/// Turns a guest until its first coroutine has returned. Dropping this future drops the guest.
///
/// # Errors
/// If the guest's engine fails, or its descriptor cannot be watched.
///
/// # Panics
/// If the guest's first coroutine panics, or the runtime lacks timers or sockets.
pub async fn drive<T: 'static>(mut guest: Guest<T>) -> io::Result<T> {
    let descriptor = guest.as_fd().try_clone_to_owned()?;
    #[allow(
        deprecated,
        reason = "its fault is with values that do not own their descriptor; an OwnedFd does"
    )]
    let descriptor = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
    let mut timer = pin!(sleep(Duration::ZERO));
    poll_fn(|context| {
        // Before the turn: what the kernel reports later wakes this task.
        watch(&descriptor, context)?;
        match guest.turn(context.waker())? {
            Turned::Done(output) => return Poll::Ready(Ok(output)),
            Turned::Again => wake_again(context),
            Turned::Waits(Some(time)) => wake_after(timer.as_mut(), time, context),
            Turned::Waits(None) => {}
        }
        Poll::Pending
    })
    .await
}

/// Serves with one worker on the calling thread, until the server is drained or stopped through a
/// handle, or fails. For a [`Handle`](crate::Handle), call [`Builder::attach`] and [`drive`].
///
/// ```no_run
/// use std::time::Duration;
///
/// use coring::{Request, Response, Server};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
///     let service = || async |_: Request| {
///         tokio::time::sleep(Duration::from_millis(5)).await;
///         Response::text("slept in tokio")
///     };
///     let server = Server::builder().bind("127.0.0.1:8000");
///     Ok(runtime.block_on(coring::tokio::serve(server, service))?)
/// }
/// ```
///
/// # Errors
/// Those of [`Builder::attach`]. Also fails if the worker's engine fails.
pub async fn serve<F, K>(builder: Builder, factory: F) -> Result<()>
where
    F: ServiceFactory<K> + Send + Sync + 'static,
    F::Service: Service + 'static,
{
    let (handle, guest) = builder.attach(factory)?;
    let outcome = drive(guest).await;
    outcome.map_err(|error| Error::engine_failed(&error))?;
    handle.wait()
}

/// Lets the task be woken when the descriptor becomes readable from now on.
fn watch(descriptor: &AsyncFd<OwnedFd>, context: &mut Context<'_>) -> io::Result<()> {
    while let Poll::Ready(readable) = descriptor.poll_read_ready(context) {
        readable?.clear_ready();
    }
    Ok(())
}

/// Lets the task be woken when the runtime has looked at its timers and sockets. A task that wakes
/// itself would be polled up to 61 times before, if it runs in a `LocalSet`.
fn wake_again(context: &mut Context<'_>) {
    if pin!(yield_now()).poll(context).is_ready() {
        context.waker().wake_by_ref();
    }
}

/// Lets the task be woken after `time` at the latest. A timer that fires earlier stays: to move it
/// with every turn would cost more than the turn that it causes.
fn wake_after(mut timer: Pin<&mut Sleep>, time: Duration, context: &mut Context<'_>) {
    let until = Instant::now() + time;
    if timer.is_elapsed() || until < timer.deadline() {
        timer.as_mut().reset(until);
    }
    if timer.poll(context).is_ready() {
        context.waker().wake_by_ref();
    }
}
