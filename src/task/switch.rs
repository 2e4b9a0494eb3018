//! Two coroutines that hand the worker directly to each other, as greenlets do.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::rt::{ClonedWaker, drop_waker, wake, wake_next};

/// One end of a pair by which two coroutines of a worker take turns: each gives the other a value
/// and waits for one. The one that is given a value runs next, before all other coroutines that are
/// ready. (After 64 such switches in a turn of the worker's loop, the others and the kernel have
/// their turn first.)
///
/// ```
/// coring::run(async {
///     let (mut here, mut there) = coring::task::Switch::pair();
///     coring::spawn(async move {
///         let mut sum = 0;
///         let mut next = there.wait().await;
///         while let Some(n) = next {
///             sum += n;
///             next = there.switch(sum).await;
///         }
///     });
///     assert_eq!(here.switch(1).await, Some(1));
///     assert_eq!(here.switch(10).await, Some(11));
/// });
/// ```
pub struct Switch<S, R> {
    /// What this end gives.
    gives: Rc<RefCell<Way<S>>>,
    /// What the other end gives.
    takes: Rc<RefCell<Way<R>>>,
}

/// One direction of a pair.
struct Way<T> {
    value: Option<T>,
    waiter: Option<Waker>,
    /// One of its ends was dropped.
    is_closed: bool,
}

impl<S, R> Switch<S, R> {
    /// Makes two ends. Each is moved into one of the coroutines. A coroutine begins with
    /// [`Switch::wait`], or, if it is the first to give a value, with [`Switch::switch`].
    pub fn pair() -> (Self, Switch<R, S>) {
        let (first, second) = (Way::new(), Way::new());
        let other = Switch {
            gives: second.clone(),
            takes: first.clone(),
        };
        let this = Self {
            gives: first,
            takes: second,
        };
        (this, other)
    }

    /// Gives `value` to the other coroutine, lets it run next, and waits for its value. Returns
    /// `None` if the other end was dropped, or is dropped meanwhile.
    ///
    /// If the future is dropped, the other coroutine keeps the value, and what it gives in return
    /// is what the next call waits for. A value that it has not taken yet is replaced by that of
    /// the next call.
    pub async fn switch(&mut self, value: S) -> Option<R> {
        if !self.give(value) {
            return None;
        }
        self.wait().await
    }

    /// Gives `value` to the other coroutine, and lets it run next. False: its end was dropped.
    fn give(&self, value: S) -> bool {
        let mut gives = self.gives.borrow_mut();
        if gives.is_closed {
            return false;
        }
        let replaced = gives.value.replace(value);
        let other = gives.waiter.take();
        drop(gives);
        other.into_iter().for_each(wake_next);
        drop(replaced);
        true
    }

    /// Waits for a value of the other coroutine, and gives it none. Returns `None` if the other end
    /// was dropped. If the future is dropped, no value is lost.
    pub async fn wait(&mut self) -> Option<R> {
        poll_fn(|context| {
            let mut waker = ClonedWaker::of(context);
            let mut takes = self.takes.borrow_mut();
            let value = takes.value.take();
            if value.is_some() || takes.is_closed {
                return Poll::Ready(value);
            }
            waker.store(&mut takes.waiter);
            Poll::Pending
        })
        .await
    }
}

impl<T> Way<T> {
    fn new() -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            value: None,
            waiter: None,
            is_closed: false,
        }))
    }
}

impl<S, R> Drop for Switch<S, R> {
    fn drop(&mut self) {
        let mut gives = self.gives.borrow_mut();
        gives.is_closed = true;
        let other = gives.waiter.take();
        drop(gives);
        let mut takes = self.takes.borrow_mut();
        takes.is_closed = true;
        let (value, mine) = (takes.value.take(), takes.waiter.take());
        drop(takes);
        mine.into_iter().for_each(drop_waker);
        other.into_iter().for_each(wake);
        // Dropped last: its destructor may use the other end.
        drop(value);
    }
}

impl<S, R> fmt::Debug for Switch<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").finish_non_exhaustive()
    }
}
