//! A task that somebody may wait for: its outcome is kept until it is asked for. It knows the
//! executor only as what runs and wakes tasks.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::foreign::{discard, wake};
use super::task::current;
use super::waker::TaskId;

/// The other end of a spawned coroutine: await it for what the coroutine returns.
///
/// Dropping it lets the coroutine run on by itself. It stays on its worker's thread.
pub struct JoinHandle<T> {
    join: Rc<Join<T>>,
    task: TaskId,
}

/// Why a spawned coroutine, or a call on another thread, returned nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinError {
    /// The coroutine was aborted, or its worker ended before it did.
    Cancelled,
    /// It panicked with this message. The worker and its other coroutines continue.
    Panicked(Box<str>),
    /// The system refused to start a thread for the call, with this error number.
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
    /// Ends the coroutine where it waits: in the next turn of the worker's loop its future is
    /// dropped, and whoever awaits the handle gets [`JoinError::Cancelled`]. One that has ended
    /// keeps its outcome.
    pub fn abort(&self) {
        self.join.is_aborted.set(true);
        self.task.wake();
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.join.outcome.take() {
            return Poll::Ready(outcome);
        }
        self.join.waiter.set(Some(context.waker().clone()));
        Poll::Pending
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}

/// Starts a coroutine on the current worker, whose outcome can be waited for.
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
        waiter: Cell::new(None),
        is_aborted: Cell::new(false),
    });
    let joined = Joined {
        future,
        join: Some(join.clone()),
    };
    let task = current(|executor| executor.spawn(joined));
    JoinHandle { join, task }
}

/// What a task and its handle share.
struct Join<T> {
    outcome: Cell<Option<Result<T, JoinError>>>,
    /// Who awaits the handle.
    waiter: Cell<Option<Waker>>,
    is_aborted: Cell<bool>,
}

/// The task: the coroutine, and where its outcome goes; nowhere any more once that is told.
struct Joined<F: Future> {
    future: F,
    join: Option<Rc<Join<F::Output>>>,
}

impl<F: Future> Joined<F> {
    fn end(join: &mut Option<Rc<Join<F::Output>>>, outcome: Result<F::Output, JoinError>) {
        if let Some(join) = join.take() {
            join.outcome.set(Some(outcome));
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
        // SAFETY: it is a part of what is pinned, and stays there until it is dropped.
        let future = unsafe { Pin::new_unchecked(&mut this.future) };
        match catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Self::end(&mut this.join, Ok(output)),
            Err(panic) => {
                let message = message(&*panic).into();
                Self::end(&mut this.join, Err(JoinError::Panicked(message)));
                // The executor counts it.
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

/// Calls `job`. A panic in it, which the panic hook has reported, is an error.
pub fn outcome_of<T>(job: impl FnOnce() -> T) -> Result<T, JoinError> {
    catch_unwind(AssertUnwindSafe(job)).map_err(|panic| {
        let message = message(&*panic).into();
        discard(panic);
        JoinError::Panicked(message)
    })
}

/// What a panic was called with, if that was text.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
