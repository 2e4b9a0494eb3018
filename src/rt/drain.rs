//! The end of a worker as its coroutines see it: it is announced, and they may hold it up.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::event::Event;
use super::foreign::wake;
use super::task::current;
use super::waker::note_waker;

/// The state of a worker's drain.
#[derive(Debug, Default)]
pub(super) struct Drain {
    begun: Rc<Event>,
    holds: Cell<usize>,
    /// Waits until nobody holds the drain up.
    released: RefCell<Option<Waker>>,
}

/// Tells the current worker's coroutines that it drains.
///
/// # Panics
/// Outside a worker.
pub fn begin_drain() {
    drain().begun.happen();
}

/// Waits until the server that this coroutine belongs to drains: it accepts no more connections,
/// and will end when what runs has ended. Something that could go on for ever (an event stream, a
/// background coroutine) should end now. A program of [`run`](crate::run), which has no server, is
/// never told.
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

/// Has the server's drain wait for this coroutine, until the guard is dropped or the drain's limit
/// is reached ([`Limits::drain_timeout`](crate::Limits::drain_timeout)). A service's own call is
/// waited for anyway; a coroutine that it has spawned is not, and would be dropped.
///
/// ```
/// # use coring::{Request, Response, StatusCode};
/// async fn order(_: Request) -> Response {
///     let hold = coring::hold_drain();
///     coring::spawn(async move {
///         // Sends a mail, say.
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

/// Holds a drain up while it lives; see [`hold_drain`].
#[derive(Debug)]
#[must_use = "the drain is held up while this lives"]
pub struct DrainHold(Rc<Drain>);

impl Drop for DrainHold {
    fn drop(&mut self) {
        self.0.holds.set(self.0.holds.get() - 1);
        if self.0.holds.get() == 0 {
            self.0.released.take().into_iter().for_each(wake);
        }
    }
}

/// Waits until nobody holds the drain up.
///
/// # Panics
/// Outside a worker.
pub async fn drain_released() {
    let drain = drain();
    poll_fn(|context| {
        if drain.holds.get() == 0 {
            return Poll::Ready(());
        }
        drop(note_waker(
            &mut drain.released.borrow_mut(),
            context.waker(),
        ));
        Poll::Pending
    })
    .await;
}

fn drain() -> Rc<Drain> {
    current(|executor| executor.drain.clone())
}
