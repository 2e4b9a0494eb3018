//! A number of permits, and the futures that wait for them. The mutex and the channels use it, too.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::wait_queue::WaitQueue;
use crate::rt::{ClonedWaker, drop_waker, wake};

/// Limits how many coroutines of a worker do something at the same time.
///
/// Waiting coroutines get permits in the order of their arrival: one that wants many is not
/// overtaken by one that wants few. As in tokio, but for one worker: it is shared in an `Rc`.
///
/// ```
/// use std::rc::Rc;
/// use std::time::Duration;
/// use coring::sync::Semaphore;
///
/// coring::run(async {
///     let two_at_a_time = Rc::new(Semaphore::new(2));
///     let jobs = (0..6).map(|_| {
///         let permits = two_at_a_time.clone();
///         coring::spawn(async move {
///             let _permit = permits.acquire().await.expect("it is never closed");
///             coring::time::sleep(Duration::from_millis(1)).await;
///         })
///     });
///     coring::task::join_all(jobs).await;
///     assert_eq!(two_at_a_time.available_permits(), 2);
/// });
/// ```
pub struct Semaphore(RefCell<Permits>);

/// The error of [`Semaphore::acquire`] and its like: the semaphore was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcquireError;

/// The error of [`Semaphore::try_acquire`] and its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryAcquireError {
    /// The semaphore was closed.
    Closed,
    /// There are too few permits now, or other coroutines wait for them.
    NoPermits,
}

/// Permits of a [`Semaphore`], which get them back when this is dropped.
#[must_use = "dropping it gives the permits back"]
pub struct SemaphorePermit<'a> {
    semaphore: &'a Semaphore,
    count: usize,
}

/// As [`SemaphorePermit`], but it can be moved into a coroutine.
#[must_use = "dropping it gives the permits back"]
pub struct OwnedSemaphorePermit {
    semaphore: Rc<Semaphore>,
    count: usize,
}

impl Semaphore {
    /// Makes a semaphore with `permits` permits.
    ///
    /// ```
    /// assert_eq!(coring::sync::Semaphore::new(3).available_permits(), 3);
    /// ```
    pub fn new(permits: usize) -> Self {
        Self(RefCell::new(Permits::new(permits)))
    }

    /// Waits for one permit. If the future is dropped, it leaves its place in the queue, and takes
    /// no permit.
    ///
    /// # Errors
    /// If the semaphore was closed.
    pub async fn acquire(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.acquire_many(1).await
    }

    /// Waits for `count` permits, and takes them together. Coroutines that come later wait behind
    /// it. If the future is dropped, it leaves its place in the queue, and takes no permit.
    ///
    /// # Errors
    /// If the semaphore was closed.
    pub async fn acquire_many(&self, count: usize) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.take(count).await?;
        Ok(SemaphorePermit {
            semaphore: self,
            count,
        })
    }

    /// As [`Semaphore::acquire`], for a permit that can be moved into a coroutine.
    ///
    /// ```
    /// use std::rc::Rc;
    ///
    /// coring::run(async {
    ///     let permits = Rc::new(coring::sync::Semaphore::new(1));
    ///     for n in 0..3 {
    ///         // At most one of the three runs, and the loop waits, too.
    ///         let permit = permits.clone().acquire_owned().await.expect("it is never closed");
    ///         coring::spawn(async move {
    ///             coring::task::yield_now().await;
    ///             drop(permit);
    ///         });
    ///     }
    /// });
    /// ```
    ///
    /// # Errors
    /// If the semaphore was closed.
    pub async fn acquire_owned(self: Rc<Self>) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.acquire_many_owned(1).await
    }

    /// As [`Semaphore::acquire_many`], for permits that can be moved into a coroutine.
    ///
    /// # Errors
    /// If the semaphore was closed.
    pub async fn acquire_many_owned(
        self: Rc<Self>,
        count: usize,
    ) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.take(count).await?;
        Ok(OwnedSemaphorePermit {
            semaphore: self,
            count,
        })
    }

    /// Takes one permit if one is free and no coroutine waits.
    ///
    /// ```
    /// let permits = coring::sync::Semaphore::new(1);
    /// let permit = permits.try_acquire().expect("a permit");
    /// assert!(permits.try_acquire().is_err());
    /// drop(permit);
    /// assert!(permits.try_acquire().is_ok());
    /// ```
    ///
    /// # Errors
    /// If the semaphore was closed, or there is no permit.
    pub fn try_acquire(&self) -> Result<SemaphorePermit<'_>, TryAcquireError> {
        self.try_acquire_many(1)
    }

    /// Takes `count` permits if there are `count` free ones and no coroutine waits.
    ///
    /// # Errors
    /// If the semaphore was closed, or there are too few permits.
    pub fn try_acquire_many(&self, count: usize) -> Result<SemaphorePermit<'_>, TryAcquireError> {
        self.0.borrow_mut().try_take(count)?;
        Ok(SemaphorePermit {
            semaphore: self,
            count,
        })
    }

    /// Adds permits, which waiting coroutines get first.
    ///
    /// # Panics
    /// If there are more than `usize::MAX` permits.
    pub fn add_permits(&self, count: usize) {
        self.0.borrow_mut().give(count);
        self.wake_granted();
    }

    /// The permits that are free.
    pub fn available_permits(&self) -> usize {
        self.0.borrow().free
    }

    /// Closes the semaphore: every coroutine that waits, or will wait, gets an error. Permits that
    /// were taken stay valid.
    ///
    /// ```
    /// coring::run(async {
    ///     let permits = coring::sync::Semaphore::new(0);
    ///     permits.close();
    ///     assert!(permits.acquire().await.is_err());
    /// });
    /// ```
    pub fn close(&self) {
        let woken = self.0.borrow_mut().close();
        woken.into_iter().for_each(wake);
    }

    /// Whether the semaphore was closed.
    pub fn is_closed(&self) -> bool {
        self.0.borrow().is_closed
    }

    /// Takes `count` permits, without a guard that gives them back.
    async fn take(&self, count: usize) -> Result<(), AcquireError> {
        let taking = Taking {
            semaphore: self,
            count,
            number: None,
        };
        taking.await
    }

    /// Grants free permits to the coroutines that wait, and wakes these.
    fn wake_granted(&self) {
        loop {
            let next = self.0.borrow_mut().grant_next();
            let Some(waker) = next else { break };
            wake(waker);
        }
    }
}

/// The permits of a semaphore, and the futures that wait for them. The room in a channel is counted
/// by such permits, too.
#[derive(Debug)]
pub(super) struct Permits {
    free: usize,
    is_closed: bool,
    queue: WaitQueue,
}

impl Permits {
    pub(super) fn new(free: usize) -> Self {
        Self {
            free,
            is_closed: false,
            queue: WaitQueue::default(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub(super) fn try_take(&mut self, count: usize) -> Result<(), TryAcquireError> {
        if self.is_closed {
            return Err(TryAcquireError::Closed);
        }
        if self.free < count || !self.queue.is_empty() {
            return Err(TryAcquireError::NoPermits);
        }
        self.free -= count;
        Ok(())
    }

    /// Polls a wait for `count` permits. `number` is that of the wait in the queue, at first
    /// `None`.
    pub(super) fn poll_take(
        &mut self,
        number: &mut Option<u64>,
        count: usize,
        waker: &mut ClonedWaker,
    ) -> Poll<Result<(), AcquireError>> {
        if self.queue.use_grant(number) {
            return Poll::Ready(Ok(()));
        }
        if number.is_none() && self.try_take(count).is_ok() {
            return Poll::Ready(Ok(()));
        }
        if self.is_closed {
            return Poll::Ready(Err(AcquireError));
        }
        self.queue.wait(number, count, waker);
        Poll::Pending
    }

    /// Ends a wait for `count` permits whose future was dropped, and returns its waker. If it was
    /// the first, it may have held up others: [`Permits::grant_next`] finds them.
    pub(super) fn leave(&mut self, number: Option<u64>, count: usize) -> Option<Waker> {
        let left = self.queue.leave(number);
        if left.had_grant {
            self.give(count);
        }
        left.waker
    }

    /// Adds permits. [`Permits::grant_next`] passes them on.
    pub(super) fn give(&mut self, count: usize) {
        self.free = self.free.checked_add(count).expect("too many permits");
    }

    /// Grants the first future in the queue its permits, if there are enough, and returns its
    /// waker.
    pub(super) fn grant_next(&mut self) -> Option<Waker> {
        let amount = self.queue.first_amount()?;
        self.free = self.free.checked_sub(amount)?;
        self.queue.grant_first()
    }

    /// Closes the semaphore, and returns the wakers of all futures that wait.
    pub(super) fn close(&mut self) -> Vec<Waker> {
        self.is_closed = true;
        self.queue.take_all()
    }
}

/// The future that waits for permits. Dropping it removes it from the queue.
struct Taking<'a> {
    semaphore: &'a Semaphore,
    count: usize,
    number: Option<u64>,
}

impl Future for Taking<'_> {
    type Output = Result<(), AcquireError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut waker = ClonedWaker::of(context);
        let this = &mut *self;
        let mut permits = this.semaphore.0.borrow_mut();
        permits.poll_take(&mut this.number, this.count, &mut waker)
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        if self.number.is_some() {
            let mine = self.semaphore.0.borrow_mut().leave(self.number, self.count);
            mine.into_iter().for_each(drop_waker);
            self.semaphore.wake_granted();
        }
    }
}

impl SemaphorePermit<'_> {
    /// Gives the permits up for good: the semaphore does not get them back.
    pub fn forget(mut self) {
        self.count = 0;
    }
}

impl OwnedSemaphorePermit {
    /// Gives the permits up for good: the semaphore does not get them back.
    pub fn forget(mut self) {
        self.count = 0;
    }
}

impl Drop for SemaphorePermit<'_> {
    fn drop(&mut self) {
        self.semaphore.add_permits(self.count);
    }
}

impl Drop for OwnedSemaphorePermit {
    fn drop(&mut self) {
        self.semaphore.add_permits(self.count);
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("available_permits", &self.available_permits())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SemaphorePermit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SemaphorePermit").field(&self.count).finish()
    }
}

impl fmt::Debug for OwnedSemaphorePermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedSemaphorePermit")
            .field(&self.count)
            .finish()
    }
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the semaphore was closed")
    }
}

impl fmt::Display for TryAcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => AcquireError.fmt(f),
            Self::NoPermits => f.write_str("the semaphore has no permits left"),
        }
    }
}

impl std::error::Error for AcquireError {}
impl std::error::Error for TryAcquireError {}
