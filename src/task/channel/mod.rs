//! Bounded queues of values. `local` is one between coroutines of a worker, in a `RefCell`;
//! `between` one between workers, in a lock. Both are shells around the state in this file.

pub(crate) mod between;
pub(crate) mod local;
#[cfg(all(test, loom))]
mod model;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use super::semaphore::{Permits, TryAcquireError};
use crate::rt::{ClonedWaker, Mutex, drop_waker, wake};

/// The error of a send after the receiver was dropped. It contains the value that was not sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Closed<T>(pub T);

/// The error of a send that does not wait. It contains the value that was not sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// There is no room now, or other senders wait for it.
    Full(T),
    /// The receiver was dropped.
    Closed(T),
}

/// The error of a receive that does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryRecvError {
    /// No value is queued.
    Empty,
    /// No value is queued, and all senders were dropped.
    Disconnected,
}

/// A place for state that several owners share.
trait Share<T> {
    /// Calls `body` with the state. `body` runs no foreign code.
    fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R;
}

impl<T> Share<T> for RefCell<T> {
    fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        body(&mut self.borrow_mut())
    }
}

impl<T> Share<T> for Mutex<T> {
    fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        body(&mut self.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The state of a channel. No method runs foreign code: wakers and values are returned.
struct ChannelState<T> {
    values: VecDeque<T>,
    /// A permit for each value for which there is room. Closed when the receiver was dropped.
    room: Permits,
    senders: usize,
    receiver: Option<Waker>,
}

impl<T> ChannelState<T> {
    /// The state of a channel with one sender.
    ///
    /// # Panics
    /// If `capacity` is 0.
    fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a channel's capacity must be greater than 0");
        Self {
            values: VecDeque::new(),
            room: Permits::new(capacity),
            senders: 1,
            receiver: None,
        }
    }

    /// Queues a value for which the sender has a permit. Returns the receiver's waker.
    fn push(&mut self, value: T) -> Result<Option<Waker>, Closed<T>> {
        if self.room.is_closed() {
            return Err(Closed(value));
        }
        self.values.push_back(value);
        Ok(self.receiver.take())
    }

    fn try_push(&mut self, value: T) -> Result<Option<Waker>, TrySendError<T>> {
        match self.room.try_take(1) {
            Ok(()) => self
                .push(value)
                .map_err(|Closed(value)| TrySendError::Closed(value)),
            Err(TryAcquireError::Closed) => Err(TrySendError::Closed(value)),
            Err(TryAcquireError::NoPermits) => Err(TrySendError::Full(value)),
        }
    }

    /// Takes the first value. Also returns the waker of the sender that gets its room.
    fn try_pop(&mut self) -> Result<(T, Option<Waker>), TryRecvError> {
        let value = self.values.pop_front().ok_or(match self.senders {
            0 => TryRecvError::Disconnected,
            _ => TryRecvError::Empty,
        })?;
        self.room.give(1);
        Ok((value, self.room.grant_next()))
    }
}

/// A sender's wait for room. Dropping it removes the sender from the queue.
struct RoomWait<'a, T, S: Share<ChannelState<T>>> {
    shared: &'a S,
    number: Option<u64>,
    _value: std::marker::PhantomData<fn(T)>,
}

impl<T, S: Share<ChannelState<T>>> RoomWait<'_, T, S> {
    /// Ready when the sender has a permit, or the channel is closed.
    fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        let mut waker = ClonedWaker::of(context);
        let number = &mut self.number;
        self.shared
            .with(|state| state.room.poll_take(number, 1, &mut waker))
            .map(|_closed| ())
    }
}

impl<T, S: Share<ChannelState<T>>> Drop for RoomWait<'_, T, S> {
    fn drop(&mut self) {
        if self.number.is_some() {
            let (mine, next) = self.shared.with(|state| {
                let mine = state.room.leave(self.number, 1);
                (mine, state.room.grant_next())
            });
            mine.into_iter().for_each(drop_waker);
            next.into_iter().for_each(wake);
        }
    }
}

async fn send<T>(shared: &impl Share<ChannelState<T>>, value: T) -> Result<(), Closed<T>> {
    let mut wait = RoomWait {
        shared,
        number: None,
        _value: std::marker::PhantomData,
    };
    poll_fn(|context| wait.poll(context)).await;
    let receiver = shared.with(|state| state.push(value))?;
    receiver.into_iter().for_each(wake);
    Ok(())
}

fn try_send<T>(shared: &impl Share<ChannelState<T>>, value: T) -> Result<(), TrySendError<T>> {
    let receiver = shared.with(|state| state.try_push(value))?;
    receiver.into_iter().for_each(wake);
    Ok(())
}

fn poll_recv<T>(shared: &impl Share<ChannelState<T>>, context: &Context<'_>) -> Poll<Option<T>> {
    let mut waker = ClonedWaker::of(context);
    let popped = shared.with(|state| {
        let popped = state.try_pop();
        if let Err(TryRecvError::Empty) = popped {
            waker.store(&mut state.receiver);
        }
        popped
    });
    match popped {
        Ok((value, next)) => {
            next.into_iter().for_each(wake);
            Poll::Ready(Some(value))
        }
        Err(TryRecvError::Disconnected) => Poll::Ready(None),
        Err(TryRecvError::Empty) => Poll::Pending,
    }
}

fn try_recv<T>(shared: &impl Share<ChannelState<T>>) -> Result<T, TryRecvError> {
    let (value, next) = shared.with(ChannelState::try_pop)?;
    next.into_iter().for_each(wake);
    Ok(value)
}

fn drop_sender<T>(shared: &impl Share<ChannelState<T>>) {
    let receiver = shared.with(|state| {
        state.senders -= 1;
        match state.senders {
            0 => state.receiver.take(),
            _ => None,
        }
    });
    receiver.into_iter().for_each(wake);
}

fn drop_receiver<T>(shared: &impl Share<ChannelState<T>>) {
    let (values, senders, receiver) = shared.with(|state| {
        let senders = state.room.close();
        (mem::take(&mut state.values), senders, state.receiver.take())
    });
    receiver.into_iter().for_each(drop_waker);
    senders.into_iter().for_each(wake);
    // Dropped last: the destructors of values may use this channel.
    drop(values);
}

impl<T> fmt::Debug for Closed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closed(..)")
    }
}

impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

impl<T> fmt::Display for Closed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the channel's receiver was dropped")
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the channel is full",
            Self::Closed(_) => "the channel's receiver was dropped",
        })
    }
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the channel is empty",
            Self::Disconnected => "the channel is empty, and all senders were dropped",
        })
    }
}

impl<T> std::error::Error for Closed<T> {}
impl<T> std::error::Error for TrySendError<T> {}
impl std::error::Error for TryRecvError {}
