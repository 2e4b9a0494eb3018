//! How the coroutines of a worker learn that it drains, and how they can delay its end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::event::Event;
use super::foreign::wake;
use super::task::current;
use super::waker::ClonedWaker;

/// The state of a worker's drain.
#[derive(Debug, Default)]
pub(super) struct Drain {
    begun: Rc<Event>,
    /// The number of live [`DrainHold`] guards.
    holds: Cell<usize>,
    /// The waker of the task in [`drain_released`].
    released: RefCell<Option<Waker>>,
}

/// Tells the coroutines of the current worker that it drains.
///
/// # Panics
/// Outside a worker.
pub fn begin_drain() {
    drain().begun.fire();
}

/// Waits until the server that this coroutine belongs to drains. A draining server accepts no more
/// connections, and ends when the running requests have ended. Work that does not end by itself (an
/// event stream, a background coroutine) should end at this point. In a program of
/// [`run`](crate::run), which has no server, this future never completes.
///
/// ```
/// # use std::time::Duration;
/// # use coring::{Request, Response, Body};
/// async fn ticks(_: Request) -> Response {
///     let (mut sender, body) = Body::channel(1024);
///     coring::spawn(async move {
///         while coring::time::timeout(Duration::from_secs(1), coring::draining()).await.is_err() {
///             if sender.write("tick\n").await.is_err() {
///                 return;
///             }
///         }
///         sender.finish();
///     });
///     Response::text(body)
/// }
/// ```
///
/// # Panics
/// Outside a worker.
pub fn draining() -> impl Future<Output = ()> + Unpin + 'static {
    drain().begun.wait()
}

/// Makes the server's drain wait until the returned guard is dropped, or until
/// [`Limits::drain_timeout`](crate::Limits::drain_timeout) has passed. The drain waits for calls of
/// a service in any case. It does not wait for coroutines that a service has spawned: without a
/// guard they are dropped.
///
/// ```
/// # use coring::{Request, Response, StatusCode};
/// async fn order(_: Request) -> Response {
///     let hold = coring::hold_drain();
///     coring::spawn(async move {
///         // For example, sends an e-mail.
///         drop(hold);
///     });
///     Response::new(StatusCode::ACCEPTED)
/// }
/// ```
///
/// # Panics
/// Outside a worker.
pub fn hold_drain() -> DrainHold {
    let drain = drain();
    drain.holds.set(drain.holds.get() + 1);
    DrainHold(drain)
}

/// A guard that delays the end of a drain until it is dropped; see [`hold_drain`].
#[derive(Debug)]
#[must_use = "the drain waits only while this guard lives"]
pub struct DrainHold(Rc<Drain>);

impl Drop for DrainHold {
    fn drop(&mut self) {
        self.0.holds.set(self.0.holds.get() - 1);
        if self.0.holds.get() == 0 {
            self.0.released.take().into_iter().for_each(wake);
        }
    }
}

/// Waits until no [`DrainHold`] is left.
///
/// # Panics
/// Outside a worker.
pub async fn drain_released() {
    let drain = drain();
    poll_fn(|context| {
        let mut waker = ClonedWaker::of(context);
        if drain.holds.get() == 0 {
            return Poll::Ready(());
        }
        waker.store(&mut drain.released.borrow_mut());
        Poll::Pending
    })
    .await;
}

fn drain() -> Rc<Drain> {
    current(|executor| executor.drain.clone())
}
