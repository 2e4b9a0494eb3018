//! Coroutines that are waited for in the order in which they end.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::spawn;
use crate::rt::{AbortHandle, ClonedWaker, JoinError, JoinHandle, drop_waker, wake};

/// A set of coroutines. Dropping it aborts those that still run.
///
/// ```
/// use std::time::Duration;
///
/// coring::run(async {
///     let mut set = coring::task::JoinSet::new();
///     for ms in [20, 10] {
///         set.spawn(async move {
///             coring::time::sleep(Duration::from_millis(ms)).await;
///             ms
///         });
///     }
///     assert_eq!(set.join_next().await, Some(Ok(10)));
///     assert_eq!(set.join_next().await, Some(Ok(20)));
///     assert_eq!(set.join_next().await, None);
/// });
/// ```
pub struct JoinSet<T> {
    handles: BTreeMap<u64, JoinHandle<T>>,
    next_number: u64,
    ended: Rc<RefCell<Ended>>,
}

/// The coroutines of a set that have ended.
#[derive(Default)]
struct Ended {
    /// Their numbers, in the order in which they ended.
    numbers: VecDeque<u64>,
    /// The task that waits in [`JoinSet::join_next`].
    waiter: Option<Waker>,
}

/// A part of a coroutine of the set. It is dropped when the coroutine ends in any way.
struct Member {
    number: u64,
    ended: Rc<RefCell<Ended>>,
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut ended = self.ended.borrow_mut();
        ended.numbers.push_back(self.number);
        let waiter = ended.waiter.take();
        drop(ended);
        waiter.into_iter().for_each(wake);
    }
}

impl<T: 'static> JoinSet<T> {
    /// Makes an empty set.
    pub fn new() -> Self {
        Self {
            handles: BTreeMap::new(),
            next_number: 0,
            ended: Rc::default(),
        }
    }

    /// Starts a coroutine in the set. The returned handle can abort it.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn spawn(&mut self, coroutine: impl Future<Output = T> + 'static) -> AbortHandle {
        let member = Member {
            number: self.next_number,
            ended: self.ended.clone(),
        };
        self.next_number += 1;
        let number = member.number;
        let handle = spawn(async move {
            let _member = member;
            coroutine.await
        });
        let abort = handle.abort_handle();
        self.handles.insert(number, handle);
        abort
    }

    /// Waits for the next coroutine that ends, and returns its outcome; `None` if the set is empty.
    /// If the future is dropped, no outcome is lost.
    pub async fn join_next(&mut self) -> Option<Result<T, JoinError>> {
        poll_fn(|context| self.poll_join_next(context)).await
    }

    /// As [`JoinSet::join_next`], without waiting: `None` also if none has ended.
    ///
    /// ```
    /// coring::run(async {
    ///     let mut set = coring::task::JoinSet::new();
    ///     set.spawn(async { 1 });
    ///     assert_eq!(set.try_join_next(), None);
    ///     coring::task::yield_now().await;
    ///     assert_eq!(set.try_join_next(), Some(Ok(1)));
    /// });
    /// ```
    pub fn try_join_next(&mut self) -> Option<Result<T, JoinError>> {
        match self.poll_join_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => None,
        }
    }

    /// Waits for all coroutines, and returns their values in the order in which they ended. If the
    /// future is dropped, the coroutines are aborted.
    ///
    /// # Panics
    /// If a coroutine panicked or was aborted.
    pub async fn join_all(mut self) -> Vec<T> {
        let mut values = Vec::with_capacity(self.len());
        while let Some(outcome) = self.join_next().await {
            values.push(outcome.unwrap_or_else(|error| panic!("{error}")));
        }
        values
    }

    /// Aborts all coroutines. [`JoinSet::join_next`] still returns their outcomes.
    pub fn abort_all(&mut self) {
        self.handles.values().for_each(JoinHandle::abort);
    }

    /// Aborts all coroutines, and waits until they have ended. If the future is dropped, they end
    /// all the same.
    ///
    /// ```
    /// coring::run(async {
    ///     let mut set = coring::task::JoinSet::new();
    ///     set.spawn(std::future::pending::<()>());
    ///     set.shutdown().await;
    ///     assert!(set.is_empty());
    /// });
    /// ```
    pub async fn shutdown(&mut self) {
        self.abort_all();
        while self.join_next().await.is_some() {}
    }

    /// Lets all coroutines run on by themselves, and empties the set.
    pub fn detach_all(&mut self) {
        self.handles.clear();
        self.ended = Rc::default();
    }

    /// The number of coroutines whose outcomes were not returned yet.
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// Whether the set has no coroutine.
    pub fn is_empty(&self) -> bool {
        self.handles.is_empty()
    }

    fn poll_join_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<T, JoinError>>> {
        if self.handles.is_empty() {
            return Poll::Ready(None);
        }
        let mut waker = ClonedWaker::of(context);
        let mut ended = self.ended.borrow_mut();
        let Some(number) = ended.numbers.pop_front() else {
            waker.store(&mut ended.waiter);
            return Poll::Pending;
        };
        drop(ended);
        let handle = self.handles.get_mut(&number);
        let handle = handle.expect("a coroutine has its handle until its outcome is returned");
        let outcome = Pin::new(handle).poll(context);
        match outcome {
            Poll::Ready(_) => drop(self.handles.remove(&number)),
            // A foreign waker polls while the coroutine is being dropped. Its outcome follows.
            Poll::Pending => self.ended.borrow_mut().numbers.push_front(number),
        }
        outcome.map(Some)
    }
}

impl<T: 'static> Default for JoinSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for JoinSet<T> {
    fn drop(&mut self) {
        self.handles.values().for_each(JoinHandle::abort);
        let waiter = self.ended.borrow_mut().waiter.take();
        waiter.into_iter().for_each(drop_waker);
    }
}

impl<T> fmt::Debug for JoinSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinSet")
            .field("len", &self.handles.len())
            .finish_non_exhaustive()
    }
}
