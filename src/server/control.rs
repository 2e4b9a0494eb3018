//! How far a server is in its life, told to its workers by other threads.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Poll, Waker};

/// The phases of a server, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Connections are accepted.
    Serving,
    /// No more connections; what runs is completed.
    Draining,
    /// Now.
    Stopping,
}

/// The phase, and who waits for it to change.
#[derive(Debug)]
pub(crate) struct Control {
    phase: AtomicU8,
    waiting: Mutex<Vec<Waker>>,
}

impl Control {
    pub(crate) fn new() -> Self {
        Self {
            phase: AtomicU8::new(Phase::Serving as u8),
            waiting: Mutex::default(),
        }
    }

    /// Goes on to `phase`, or stays in a later one.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.drain(..).for_each(Waker::wake);
    }

    /// Whether `phase` has come.
    pub(crate) fn has_reached(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::SeqCst) >= phase as u8
    }

    /// Waits until `phase` has come.
    pub(crate) async fn reached(&self, phase: Phase) {
        poll_fn(|context| {
            if self.has_reached(phase) {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            drop(waiting);
            // The phase may have changed before our waker was there to be woken.
            if self.has_reached(phase) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}
