//! A signal from one coroutine to others that carries no value.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::wait_queue::WaitQueue;
use crate::rt::{ClonedWaker, drop_waker, wake};

/// Tells a coroutine of the same worker, or all of them, that something has happened.
///
/// [`Notify::notify_one`] is remembered once if no coroutine waits. [`Notify::notify_waiters`]
/// reaches those that wait at that moment. As in tokio, but for one worker: it is shared in an
/// `Rc`.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use coring::sync::Notify;
///
/// coring::run(async {
///     let shared = Rc::new((Notify::new(), Cell::new(0)));
///     let other = shared.clone();
///     coring::spawn(async move {
///         other.1.set(42);
///         other.0.notify_one();
///     });
///     shared.0.notified().await;
///     assert_eq!(shared.1.get(), 42);
/// });
/// ```
#[derive(Default)]
pub struct Notify(RefCell<NotifyState>);

#[derive(Default)]
struct NotifyState {
    /// A notification came when no coroutine waited.
    has_permit: bool,
    /// The calls of `notify_waiters`.
    calls: u64,
    queue: WaitQueue,
}

/// The future of [`Notify::notified`].
#[must_use = "this future does nothing unless it is awaited"]
pub struct Notified<'a> {
    notify: &'a Notify,
    /// `calls` when this was made. The future is ready when that has changed.
    calls: u64,
    number: Option<u64>,
    is_done: bool,
}

impl Notify {
    /// Makes a `Notify` without a notification.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for a notification. Coroutines are notified in the order in which they began to wait
    /// (that of their first poll).
    ///
    /// If the future is dropped, it leaves its place in the queue. If [`Notify::notify_one`] had
    /// chosen it already, the notification goes to the next one.
    ///
    /// A call of [`Notify::notify_waiters`] counts from the moment at which the future is made,
    /// even if it was not polled yet. So a condition can be checked between `notified` and its
    /// `.await`.
    pub fn notified(&self) -> Notified<'_> {
        Notified {
            notify: self,
            calls: self.0.borrow().calls,
            number: None,
            is_done: false,
        }
    }

    /// Notifies the coroutine that has waited longest. If none waits, the next one that waits is
    /// notified at once; several such calls count as one.
    ///
    /// ```
    /// coring::run(async {
    ///     let notify = coring::sync::Notify::new();
    ///     notify.notify_one();
    ///     notify.notified().await; // ready at once
    /// });
    /// ```
    pub fn notify_one(&self) {
        let woken = self.0.borrow_mut().notify_one();
        woken.into_iter().for_each(wake);
    }

    /// Notifies all coroutines that wait now, and none that begins to wait later.
    ///
    /// ```
    /// use std::rc::Rc;
    ///
    /// coring::run(async {
    ///     let begin = Rc::new(coring::sync::Notify::new());
    ///     let runners = [1, 2].map(|n| {
    ///         let begin = begin.clone();
    ///         coring::spawn(async move {
    ///             begin.notified().await;
    ///             n
    ///         })
    ///     });
    ///     coring::task::yield_now().await;
    ///     begin.notify_waiters();
    ///     assert_eq!(coring::task::join_all(runners).await, [Ok(1), Ok(2)]);
    /// });
    /// ```
    pub fn notify_waiters(&self) {
        let mut state = self.0.borrow_mut();
        state.calls += 1;
        let woken = state.queue.take_all();
        drop(state);
        woken.into_iter().for_each(wake);
    }
}

impl NotifyState {
    /// The waker of the future that is notified; if none waits, the permit is stored.
    fn notify_one(&mut self) -> Option<Waker> {
        if self.queue.is_empty() {
            self.has_permit = true;
            return None;
        }
        self.queue.grant_first()
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waker = ClonedWaker::of(context);
        let this = &mut *self;
        let mut state = this.notify.0.borrow_mut();
        if this.is_done || state.queue.use_grant(&mut this.number) || state.calls != this.calls {
            this.is_done = true;
            return Poll::Ready(());
        }
        if this.number.is_none() && std::mem::take(&mut state.has_permit) {
            this.is_done = true;
            return Poll::Ready(());
        }
        state.queue.wait(&mut this.number, 1, &mut waker);
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if self.number.is_some() {
            let mut state = self.notify.0.borrow_mut();
            let left = state.queue.leave(self.number);
            let next = left.had_grant.then(|| state.notify_one()).flatten();
            drop(state);
            left.waker.into_iter().for_each(drop_waker);
            next.into_iter().for_each(wake);
        }
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify").finish_non_exhaustive()
    }
}

impl fmt::Debug for Notified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notified")
            .field("is_done", &self.is_done)
            .finish_non_exhaustive()
    }
}
