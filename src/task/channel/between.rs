//! A bounded queue between workers, or between other threads and a worker.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{ChannelState, Closed, Share, TryRecvError, TrySendError};
use crate::rt::{Mutex, opaque, yield_now};

/// Makes a channel that queues up to `capacity` values, and whose ends may be on any threads. For
/// two coroutines of one worker, [`sync::channel`](crate::sync::channel) costs less.
///
/// ```
/// coring::run(async {
///     let (sender, mut receiver) = coring::remote::channel(16);
///     std::thread::spawn(move || {
///         coring::run(async move {
///             for n in 0..100 {
///                 sender.send(n).await.expect("a receiver");
///             }
///         });
///     });
///     let mut sum = 0;
///     while let Some(n) = receiver.recv().await {
///         sum += n;
///     }
///     assert_eq!(sum, 4950);
/// });
/// ```
///
/// # Panics
/// If `capacity` is 0.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Mutex::new(ChannelState::new(capacity)));
    let sender = Sender {
        shared: shared.clone(),
        sent: AtomicU32::new(0),
    };
    let receiver = Receiver {
        shared,
        received: 0,
    };
    (sender, receiver)
}

/// At most this many values are sent or received without a pause. Another core can make room, or
/// send, as fast as this one goes on, and the other coroutines of a worker must have their turn.
const BURST_MAX: u32 = 64;

/// The sending end. Its clones send into the same channel. When the last sender is dropped, the
/// receiver gets the values that are still queued, and then `None`.
pub struct Sender<T> {
    shared: Arc<Mutex<ChannelState<T>>>,
    sent: AtomicU32,
}

/// The receiving end. When it is dropped, the queued values are dropped, and senders get their
/// values back.
pub struct Receiver<T> {
    shared: Arc<Mutex<ChannelState<T>>>,
    /// The values since the last pause.
    received: u32,
}

impl<T> Sender<T> {
    /// Sends `value`. Waits while the channel is full; waiting senders are served in their order.
    /// If the future is dropped before it is ready, the value was not sent, and is dropped.
    ///
    /// # Errors
    /// [`Closed`], with the value, if the receiver was dropped.
    pub async fn send(&self, value: T) -> Result<(), Closed<T>> {
        if self.sent.fetch_add(1, Ordering::Relaxed) % BURST_MAX == BURST_MAX - 1 {
            yield_now().await;
        }
        super::send(&*self.shared, value).await
    }

    /// Sends `value` if there is room now, and no other sender waits for room.
    ///
    /// Any thread can call this, also one without a worker.
    ///
    /// ```
    /// let (sender, mut receiver) = coring::remote::channel(1);
    /// std::thread::spawn(move || sender.try_send("from another thread"));
    /// coring::run(async move {
    ///     assert_eq!(receiver.recv().await, Some("from another thread"));
    /// });
    /// ```
    ///
    /// # Errors
    /// With the value, if there is no room, or the receiver was dropped.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        super::try_send(&*self.shared, value)
    }
}

impl<T> Receiver<T> {
    /// Receives the next value, in the order of sending; `None` when all senders were dropped and
    /// no value is left. If the future is dropped, no value is lost.
    pub async fn recv(&mut self) -> Option<T> {
        if self.received == BURST_MAX {
            // Before the pause: a future that is dropped during it has made it.
            self.received = 0;
            yield_now().await;
        }
        let value = poll_fn(|context| super::poll_recv(&*self.shared, context)).await;
        self.received += 1;
        value
    }

    /// Receives the next value if one is queued now.
    ///
    /// ```
    /// use coring::sync::TryRecvError;
    ///
    /// let (sender, mut receiver) = coring::remote::channel::<u32>(1);
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    /// drop(sender);
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    /// ```
    ///
    /// # Errors
    /// If no value is queued.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        super::try_recv(&*self.shared)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.with(|state| state.senders += 1);
        Self {
            shared: self.shared.clone(),
            sent: AtomicU32::new(0),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        super::drop_sender(&*self.shared);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        super::drop_receiver(&*self.shared);
    }
}

opaque!(Sender, Receiver);
