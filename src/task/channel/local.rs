//! A bounded queue between coroutines of one worker. It needs no lock and no atomic operation.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use super::{ChannelState, Closed, Share, TryRecvError, TrySendError};
use crate::rt::opaque;

/// Makes a channel that queues up to `capacity` values. Both ends stay on their worker.
///
/// ```
/// coring::run(async {
///     let (sender, mut receiver) = coring::sync::channel(1);
///     coring::spawn(async move {
///         for n in 0..3 {
///             sender.send(n).await.expect("a receiver");
///         }
///     });
///     let mut received = Vec::new();
///     while let Some(n) = receiver.recv().await {
///         received.push(n);
///     }
///     assert_eq!(received, [0, 1, 2]);
/// });
/// ```
///
/// # Panics
/// If `capacity` is 0.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(RefCell::new(ChannelState::new(capacity)));
    (Sender(shared.clone()), Receiver(shared))
}

/// The sending end. Its clones send into the same channel. When the last sender is dropped, the
/// receiver gets the values that are still queued, and then `None`.
pub struct Sender<T>(Rc<RefCell<ChannelState<T>>>);

/// The receiving end. When it is dropped, the queued values are dropped, and senders get their
/// values back.
pub struct Receiver<T>(Rc<RefCell<ChannelState<T>>>);

impl<T> Sender<T> {
    /// Sends `value`. Waits while the channel is full; waiting senders are served in their order.
    /// If the future is dropped before it is ready, the value was not sent, and is dropped.
    ///
    /// # Errors
    /// [`Closed`], with the value, if the receiver was dropped.
    pub async fn send(&self, value: T) -> Result<(), Closed<T>> {
        super::send(&*self.0, value).await
    }

    /// Sends `value` if there is room now, and no other sender waits for room.
    ///
    /// ```
    /// use coring::sync::{TrySendError, channel};
    ///
    /// let (sender, receiver) = channel(1);
    /// assert_eq!(sender.try_send(1), Ok(()));
    /// assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
    /// drop(receiver);
    /// assert_eq!(sender.try_send(3), Err(TrySendError::Closed(3)));
    /// ```
    ///
    /// # Errors
    /// With the value, if there is no room, or the receiver was dropped.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        super::try_send(&*self.0, value)
    }
}

impl<T> Receiver<T> {
    /// Receives the next value, in the order of sending; `None` when all senders were dropped and
    /// no value is left. If the future is dropped, no value is lost.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|context| super::poll_recv(&*self.0, context)).await
    }

    /// Receives the next value if one is queued now.
    ///
    /// ```
    /// use coring::sync::{TryRecvError, channel};
    ///
    /// let (sender, mut receiver) = channel(1);
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    /// sender.try_send(1)?;
    /// drop(sender);
    /// assert_eq!(receiver.try_recv(), Ok(1));
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    /// # Ok::<(), coring::sync::TrySendError<i32>>(())
    /// ```
    ///
    /// # Errors
    /// If no value is queued.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        super::try_recv(&*self.0)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.with(|state| state.senders += 1);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        super::drop_sender(&*self.0);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        super::drop_receiver(&*self.0);
    }
}

opaque!(Sender, Receiver);
