//! A channel for one value, between two coroutines of a worker.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::rt::{ClonedWaker, drop_waker, opaque, wake};

/// Makes a channel for one value. Both ends stay on their worker.
///
/// ```
/// coring::run(async {
///     let (sender, receiver) = coring::sync::oneshot::channel();
///     coring::spawn(async move { sender.send(42) });
///     assert_eq!(receiver.await, Ok(42));
/// });
/// ```
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(RefCell::new(OneshotState {
        value: None,
        has_sender: true,
        is_closed: false,
        receiver: None,
        sender: None,
    }));
    (Sender(shared.clone()), Receiver(shared))
}

/// The end that sends. If it is dropped without a value, the receiver gets a [`RecvError`].
pub struct Sender<T>(Rc<RefCell<OneshotState<T>>>);

/// The end that receives: awaiting it returns the value. If the future is dropped, a value that was
/// sent is dropped, and a later one goes back to its sender. To wait with a timeout and go on
/// afterwards, await `&mut receiver`.
#[must_use = "this future does nothing unless it is awaited"]
pub struct Receiver<T>(Rc<RefCell<OneshotState<T>>>);

/// The error of a receiver whose sender was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecvError;

/// The error of [`Receiver::try_recv`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryRecvError {
    /// No value was sent yet.
    Empty,
    /// The sender was dropped, or the value was received already.
    Closed,
}

struct OneshotState<T> {
    value: Option<T>,
    has_sender: bool,
    /// The receiver takes no value any more.
    is_closed: bool,
    receiver: Option<Waker>,
    /// The task that waits in [`Sender::closed`].
    sender: Option<Waker>,
}

impl<T> Sender<T> {
    /// Sends the value, without waiting.
    ///
    /// # Errors
    /// The value, if the receiver was dropped or closed.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut state = self.0.borrow_mut();
        if state.is_closed {
            return Err(value);
        }
        state.value = Some(value);
        Ok(()) // the drop of `self` wakes the receiver
    }

    /// Waits until the receiver is dropped or closed: the value is no longer wanted. Dropping the
    /// future has no effect.
    ///
    /// ```
    /// coring::run(async {
    ///     let (mut sender, receiver) = coring::sync::oneshot::channel::<u32>();
    ///     drop(receiver);
    ///     sender.closed().await;
    ///     assert_eq!(sender.send(1), Err(1));
    /// });
    /// ```
    pub async fn closed(&mut self) {
        poll_fn(|context| {
            let mut waker = ClonedWaker::of(context);
            let mut state = self.0.borrow_mut();
            if state.is_closed {
                return Poll::Ready(());
            }
            waker.store(&mut state.sender);
            Poll::Pending
        })
        .await;
    }

    /// Whether the receiver was dropped or closed.
    pub fn is_closed(&self) -> bool {
        self.0.borrow().is_closed
    }
}

impl<T> Receiver<T> {
    /// Takes the value if it was sent.
    ///
    /// ```
    /// use coring::sync::oneshot::{TryRecvError, channel};
    ///
    /// let (sender, mut receiver) = channel();
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    /// assert_eq!(sender.send(1), Ok(()));
    /// assert_eq!(receiver.try_recv(), Ok(1));
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
    /// ```
    ///
    /// # Errors
    /// If there is no value.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let mut state = self.0.borrow_mut();
        match state.value.take() {
            Some(value) => Ok(value),
            None if state.has_sender && !state.is_closed => Err(TryRecvError::Empty),
            None => Err(TryRecvError::Closed),
        }
    }

    /// Takes no value from now on: a value that was not sent yet goes back to its sender. One that
    /// was sent before can still be received.
    pub fn close(&mut self) {
        let mut state = self.0.borrow_mut();
        state.is_closed = true;
        let sender = state.sender.take();
        drop(state);
        sender.into_iter().for_each(wake);
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut waker = ClonedWaker::of(context);
        match self.try_recv() {
            Ok(value) => Poll::Ready(Ok(value)),
            Err(TryRecvError::Closed) => Poll::Ready(Err(RecvError)),
            Err(TryRecvError::Empty) => {
                waker.store(&mut self.0.borrow_mut().receiver);
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        state.has_sender = false;
        let (receiver, sender) = (state.receiver.take(), state.sender.take());
        drop(state);
        sender.into_iter().for_each(drop_waker);
        receiver.into_iter().for_each(wake);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.close();
        let mut state = self.0.borrow_mut();
        let (value, receiver) = (state.value.take(), state.receiver.take());
        drop(state);
        receiver.into_iter().for_each(drop_waker);
        // Dropped last: its destructor may use the sender.
        drop(value);
    }
}

opaque!(Sender, Receiver);

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sender was dropped without a value")
    }
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no value was sent yet"),
            Self::Closed => f.write_str("no value will be sent any more"),
        }
    }
}

impl std::error::Error for RecvError {}
impl std::error::Error for TryRecvError {}
