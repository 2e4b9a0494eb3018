//! The waker of the task in which another executor turns a worker.

use std::fmt;
use std::sync::PoisonError;
use std::task::Waker;

use super::foreign::{drop_waker, wake};
use super::sync::Mutex;
use super::wake_queue::RemoteWakeQueue;
use crate::sys::mutants::mutate;

/// Ends the sleep of a worker whose loop is turned by another executor's task. The worker stores
/// that task's waker *before* it announces its sleep, so a thread that sees the announcement finds
/// the waker.
#[derive(Default)]
pub struct HostWaker(Mutex<Option<Waker>>);

impl HostWaker {
    /// As [`RemoteWakeQueue::prepare_sleep`], for a worker whose sleep `waker` ends.
    pub fn prepare_sleep(&self, waker: &Waker, wake_queue: &RemoteWakeQueue) -> bool {
        mutate!(ForgetHost, (), self.store(waker));
        wake_queue.prepare_sleep()
    }

    fn store(&self, waker: &Waker) {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if stored.as_ref().is_some_and(|old| old.will_wake(waker)) {
            return;
        }
        let old = stored.replace(waker.clone());
        drop(stored);
        // Dropped without the lock: its destructor is the host's code.
        old.into_iter().for_each(drop_waker);
    }

    /// Wakes the host's task. Any thread may call it at any time.
    pub fn wake(&self) {
        let stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waker = stored.clone();
        drop(stored);
        waker.into_iter().for_each(wake);
    }

    /// Drops the stored waker. The host's task will turn the worker no more.
    pub fn clear(&self) {
        let old = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        old.into_iter().for_each(drop_waker);
    }
}

impl fmt::Debug for HostWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostWaker").finish_non_exhaustive()
    }
}
