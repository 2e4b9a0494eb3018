//! Tasks with a handle: the outcome of such a task is kept until the handle is polled. This module
//! uses the executor only to run and to wake tasks.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::foreign::{drop_panic_payload, drop_waker, wake};
use super::task::current;
use super::waker::{ClonedWaker, TaskId};

/// The handle of a spawned coroutine. Awaiting it returns the coroutine's outcome.
///
/// Dropping the handle does not stop the coroutine. The handle stays on its worker's thread.
pub struct JoinHandle<T> {
    join: Rc<Join<T>>,
    task: TaskId,
}

/// Why a spawned coroutine, or a call on another thread, returned no value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinError {
    /// The coroutine was aborted, or its worker ended before the coroutine did.
    Cancelled,
    /// The coroutine or the call panicked with this message. The worker and its other coroutines
    /// continue.
    Panicked(Box<str>),
    /// The kernel refused to start a thread for the call, with this `errno`.
    NoThread(i32),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("the task was cancelled"),
            Self::Panicked(message) => write!(f, "the task panicked: {message}"),
            Self::NoThread(errno) => {
                let error = io::Error::from_raw_os_error(*errno);
                write!(f, "cannot start a thread: {error}")
            }
        }
    }
}

impl std::error::Error for JoinError {}

/// Lets a function that returns [`io::Result`] use `?` on the outcome of a task.
impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::NoThread(errno) => Self::from_raw_os_error(errno),
            error => Self::other(error),
        }
    }
}

impl<T> JoinHandle<T> {
    /// Cancels the coroutine: its future is dropped in the worker's next turn, and awaiting the
    /// handle returns [`JoinError::Cancelled`]. A coroutine that has already ended keeps its
    /// outcome.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// coring::run(async {
    ///     let sleeper = coring::spawn(coring::time::sleep(Duration::from_secs(60)));
    ///     sleeper.abort();
    ///     assert_eq!(sleeper.await, Err(coring::task::JoinError::Cancelled));
    /// });
    /// ```
    pub fn abort(&self) {
        self.join.is_aborted.set(true);
        self.task.wake();
    }

    /// Whether the coroutine has ended: returned, panicked, or was cancelled. Awaiting the handle
    /// then does not wait.
    ///
    /// ```
    /// coring::run(async {
    ///     let handle = coring::spawn(async {});
    ///     assert!(!handle.is_finished());
    ///     coring::task::yield_now().await;
    ///     assert!(handle.is_finished());
    /// });
    /// ```
    pub fn is_finished(&self) -> bool {
        self.join.is_finished.get()
    }

    /// A handle that only aborts the coroutine, so that another one may await its outcome.
    pub fn abort_handle(&self) -> AbortHandle
    where
        T: 'static,
    {
        AbortHandle {
            join: self.join.clone(),
            task: self.task,
        }
    }
}

/// Aborts a coroutine that another one waits for. Made by [`JoinHandle::abort_handle`] and
/// [`JoinSet::spawn`](crate::task::JoinSet::spawn). Dropping it does not abort.
///
/// ```
/// coring::run(async {
///     let sleeper = coring::spawn(std::future::pending::<()>());
///     let abort = sleeper.abort_handle();
///     coring::spawn(async move { abort.abort() });
///     assert_eq!(sleeper.await, Err(coring::task::JoinError::Cancelled));
/// });
/// ```
#[derive(Clone)]
pub struct AbortHandle {
    join: Rc<dyn Abort>,
    task: TaskId,
}

impl AbortHandle {
    /// As [`JoinHandle::abort`].
    pub fn abort(&self) {
        self.join.is_aborted().set(true);
        self.task.wake();
    }

    /// As [`JoinHandle::is_finished`].
    pub fn is_finished(&self) -> bool {
        self.join.is_finished().get()
    }
}

/// The part of a [`Join`] that does not depend on the type of the outcome.
trait Abort {
    fn is_aborted(&self) -> &Cell<bool>;
    fn is_finished(&self) -> &Cell<bool>;
}

impl<T> Abort for Join<T> {
    fn is_aborted(&self) -> &Cell<bool> {
        &self.is_aborted
    }

    fn is_finished(&self) -> &Cell<bool> {
        &self.is_finished
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        let waiter = self.join.waiter.take();
        waiter.into_iter().for_each(drop_waker);
        // Nothing can take the outcome any more, although an `AbortHandle` may keep its place.
        self.join.is_detached.set(true);
        drop(self.join.outcome.take());
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.join.outcome.take() {
            return Poll::Ready(outcome);
        }
        let mut waker = ClonedWaker::of(context);
        waker.store(&mut self.join.waiter.borrow_mut());
        Poll::Pending
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbortHandle")
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}

/// Starts a coroutine on the current worker. The returned handle waits for its outcome.
///
/// # Panics
/// Outside a worker.
pub fn spawn_joined<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let join = Rc::new(Join {
        outcome: Cell::new(None),
        waiter: RefCell::default(),
        is_aborted: Cell::new(false),
        is_finished: Cell::new(false),
        is_detached: Cell::new(false),
    });
    let joined = Joined {
        future,
        join: Some(join.clone()),
    };
    let task = current(|executor| executor.spawn(joined));
    JoinHandle { join, task }
}

/// The state that a task shares with its handle.
struct Join<T> {
    outcome: Cell<Option<Result<T, JoinError>>>,
    /// The waker of the task that awaits the handle.
    waiter: RefCell<Option<Waker>>,
    is_aborted: Cell<bool>,
    is_finished: Cell<bool>,
    /// The handle was dropped.
    is_detached: Cell<bool>,
}

/// The task: a coroutine that stores its outcome for the handle.
struct Joined<F: Future> {
    future: F,
    /// `None` once the outcome is stored.
    join: Option<Rc<Join<F::Output>>>,
}

impl<F: Future> Joined<F> {
    fn end(join: &mut Option<Rc<Join<F::Output>>>, outcome: Result<F::Output, JoinError>) {
        if let Some(join) = join.take() {
            if !join.is_detached.get() {
                join.outcome.set(Some(outcome));
            }
            join.is_finished.set(true);
            join.waiter.take().into_iter().for_each(wake);
        }
    }
}

impl<F: Future> Future for Joined<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `future` is not moved out of its place below, and `join` is not pinned.
        let this = unsafe { self.get_unchecked_mut() };
        if this.join.as_ref().is_none_or(|join| join.is_aborted.get()) {
            return Poll::Ready(());
        }
        // SAFETY: `this` is pinned, and `future` stays in its place there until it is dropped.
        let future = unsafe { Pin::new_unchecked(&mut this.future) };
        match catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Self::end(&mut this.join, Ok(output)),
            Err(panic) => {
                let message = message(&*panic).into();
                Self::end(&mut this.join, Err(JoinError::Panicked(message)));
                // The executor counts the panic.
                resume_unwind(panic);
            }
        }
        Poll::Ready(())
    }
}

impl<F: Future> Drop for Joined<F> {
    fn drop(&mut self) {
        Self::end(&mut self.join, Err(JoinError::Cancelled));
    }
}

/// Runs `body`. Returns a panic in it as an error; the panic hook has then reported the panic.
pub fn catch_outcome<T>(body: impl FnOnce() -> T) -> Result<T, JoinError> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| {
        let message = message(&*panic).into();
        drop_panic_payload(panic);
        JoinError::Panicked(message)
    })
}

/// The message of a panic, or a substitute if its payload is not a string.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
