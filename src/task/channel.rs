//! A bounded queue between coroutines of one worker. It needs no lock and no atomic operation.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::rt::{ClonedWaker, drop_waker, wake};

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
    assert!(capacity > 0, "a channel's capacity must be greater than 0");
    let shared = Rc::new(RefCell::new(ChannelState {
        values: VecDeque::new(),
        capacity,
        senders: 1,
        is_closed: false,
        receiver: None,
        waiting: VecDeque::new(),
        next_number: 0,
    }));
    (Sender(shared.clone()), Receiver(shared))
}

/// The sending end. Its clones send into the same channel. When the last sender is dropped, the
/// receiver gets the values that are still queued, and then `None`.
pub struct Sender<T>(Rc<RefCell<ChannelState<T>>>);

/// The receiving end. When it is dropped, the queued values are dropped, and senders get their
/// values back.
pub struct Receiver<T>(Rc<RefCell<ChannelState<T>>>);

/// The error of a send after the receiver was dropped. It contains the value that was not sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Closed<T>(pub T);

struct ChannelState<T> {
    values: VecDeque<T>,
    capacity: usize,
    senders: usize,
    /// The receiver was dropped.
    is_closed: bool,
    receiver: Option<Waker>,
    /// Senders that wait for room, in the order of their numbers. A sender stays here until it has
    /// sent or is dropped, and then wakes the next one. So no wake-up is lost if it is dropped.
    waiting: VecDeque<WaitingSender>,
    next_number: u64,
}

struct WaitingSender {
    number: u64,
    /// `None` once it was woken, until it is polled again.
    waker: Option<Waker>,
}

impl<T> Sender<T> {
    /// Sends `value`. Waits while the channel is full; waiting senders are served in their order.
    /// If the future is dropped before it is ready, the value was not sent, and is dropped.
    ///
    /// # Errors
    /// [`Closed`], with the value, if the receiver was dropped.
    pub async fn send(&self, value: T) -> Result<(), Closed<T>> {
        let mut wait = RoomWait {
            shared: &self.0,
            number: None,
        };
        poll_fn(|context| wait.poll(context)).await;
        let mut shared = self.0.borrow_mut();
        if shared.is_closed {
            return Err(Closed(value));
        }
        shared.values.push_back(value);
        let receiver = shared.receiver.take();
        drop(shared);
        receiver.into_iter().for_each(wake);
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Receives the next value, in the order of sending; `None` when all senders were dropped and
    /// no value is left. If the future is dropped, no value is lost.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|context| {
            let mut waker = ClonedWaker::of(context);
            let mut shared = self.0.borrow_mut();
            let value = shared.values.pop_front();
            if value.is_none() && shared.senders > 0 {
                waker.store(&mut shared.receiver);
                return Poll::Pending;
            }
            let next = shared.next_sender();
            drop(shared);
            next.into_iter().for_each(wake);
            Poll::Ready(value)
        })
        .await
    }
}

impl<T> ChannelState<T> {
    fn has_room(&self) -> bool {
        self.is_closed || self.values.len() < self.capacity
    }

    /// The waker of the sender that has waited longest, if it can send now.
    fn next_sender(&mut self) -> Option<Waker> {
        match self.has_room() {
            true => self.waiting.front_mut()?.waker.take(),
            false => None,
        }
    }
}

/// A sender's wait for room. Dropping it removes the sender from the queue.
struct RoomWait<'a, T> {
    shared: &'a RefCell<ChannelState<T>>,
    /// The sender's number, once it is in the queue.
    number: Option<u64>,
}

impl<T> RoomWait<'_, T> {
    /// Ready when the channel is closed, or has room and no other sender has waited longer.
    fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        let mut waker = ClonedWaker::of(context);
        let mut shared = self.shared.borrow_mut();
        let first = shared.waiting.front().map(|waiting| waiting.number);
        if shared.is_closed || shared.has_room() && (first.is_none() || first == self.number) {
            return Poll::Ready(());
        }
        let number = *self.number.get_or_insert_with(|| {
            let number = shared.next_number;
            shared.next_number += 1;
            let waker = None;
            shared.waiting.push_back(WaitingSender { number, waker });
            number
        });
        let mut waiting = shared.waiting.iter_mut();
        if let Some(mine) = waiting.find(|waiting| waiting.number == number) {
            waker.store(&mut mine.waker);
        }
        Poll::Pending
    }
}

impl<T> Drop for RoomWait<'_, T> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut shared = self.shared.borrow_mut();
            let mut waiting = shared.waiting.iter();
            let place = waiting.position(|waiting| waiting.number == number);
            let mine = place.and_then(|place| shared.waiting.remove(place));
            let next = shared.next_sender();
            drop(shared);
            mine.and_then(|mine| mine.waker)
                .into_iter()
                .for_each(drop_waker);
            next.into_iter().for_each(wake);
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.borrow_mut().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.senders -= 1;
        let receiver = match shared.senders {
            0 => shared.receiver.take(),
            _ => None,
        };
        drop(shared);
        receiver.into_iter().for_each(wake);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.is_closed = true;
        let values = std::mem::take(&mut shared.values);
        let waiting = std::mem::take(&mut shared.waiting);
        let receiver = shared.receiver.take();
        drop(shared);
        receiver.into_iter().for_each(drop_waker);
        waiting
            .into_iter()
            .filter_map(|sender| sender.waker)
            .for_each(wake);
        // Dropped last: the destructors of values may use this channel.
        drop(values);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Closed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closed(..)")
    }
}

impl<T> fmt::Display for Closed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the channel's receiver was dropped")
    }
}

impl<T> std::error::Error for Closed<T> {}
