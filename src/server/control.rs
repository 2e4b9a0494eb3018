//! The phase of a server. Any thread advances it; the workers wait for it.

use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Poll, Waker};

use crate::sys::lock::lock;

/// The phases of a server, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The server accepts connections.
    Serving,
    /// It accepts no more connections, and completes running requests.
    Draining,
    /// It aborts running requests and ends.
    Stopping,
}

/// The phase of a server, and the wakers of the workers that wait for the next one.
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

    /// Enters `phase`, unless the server is already in it or in a later one.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
        let mut waiting = lock(&self.waiting);
        waiting.drain(..).for_each(Waker::wake);
    }

    /// Whether the server is in `phase` or a later one.
    pub(crate) fn has_reached(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::SeqCst) >= phase as u8
    }

    /// Waits until the server is in `phase` or a later one.
    pub(crate) async fn reached(&self, phase: Phase) {
        poll_fn(|context| {
            if self.has_reached(phase) {
                return Poll::Ready(());
            }
            let mut waiting = lock(&self.waiting);
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            drop(waiting);
            // The phase may have changed before the waker was registered.
            if self.has_reached(phase) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}
