//! The queue by which other threads wake a worker's tasks, and end its sleep.
//!
//! The worker announces that it will sleep, and *then* checks the queue again. A sender queues a
//! wake-up, and *then* checks whether the worker sleeps. Both swap the flag `sleeping`, and the
//! later swap sees everything that preceded the earlier one. So either the sender sees that the
//! worker sleeps, or the worker sees the queued wake-up. No wake-up is lost.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use super::sync::{AtomicBool, Mutex};
use super::waker::{TaskId, WORKER_BITS};
use crate::sys::mutants::mutate;

/// The wake-ups that other threads have queued for a worker's tasks.
pub struct RemoteWakeQueue {
    /// The woken tasks, each of them once, so that repeated wake-ups of one task use no more memory
    /// while its worker is busy.
    woken: Mutex<BTreeSet<TaskId>>,
    /// Whether `woken` may hold tasks. If not, the worker need not take the lock.
    pending: AtomicBool,
    /// The worker sleeps, or is about to, and no sender has ended that sleep yet.
    sleeping: AtomicBool,
    /// Ends the worker's sleep in the kernel. Any thread may call it at any time.
    unpark: Box<dyn Fn() + Send + Sync>,
}

impl RemoteWakeQueue {
    pub(super) fn new(unpark: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            woken: Mutex::default(),
            pending: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            unpark,
        }
    }

    /// Announces that the worker is about to sleep. Returns false, and withdraws the announcement,
    /// if a wake-up is queued: the worker must then not sleep.
    pub fn prepare_sleep(&self) -> bool {
        self.sleeping.swap(true, Ordering::AcqRel);
        let is_queued = mutate!(SleepUnchecked, false, self.pending.load(Ordering::Acquire));
        if is_queued {
            self.awake();
        }
        !is_queued
    }

    /// Announces that the worker is awake again.
    pub fn awake(&self) {
        self.sleeping.swap(false, Ordering::AcqRel);
    }

    /// Passes every task that another thread has woken to `wake`.
    pub(super) fn drain(&self, mut wake: impl FnMut(TaskId)) {
        if !self.pending.load(Ordering::Relaxed) {
            return;
        }
        // Cleared before the list is taken: a sender that queues a wake-up later sets it again.
        self.pending.store(false, Ordering::Relaxed);
        let woken = std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner));
        woken.into_iter().for_each(&mut wake);
    }

    fn push(&self, id: TaskId) {
        self.woken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id);
        self.pending.store(true, Ordering::Release);
        if mutate!(
            LoseRemoteWake,
            false,
            self.sleeping.swap(false, Ordering::AcqRel)
        ) {
            (self.unpark)();
        }
    }
}

impl fmt::Debug for RemoteWakeQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteWakeQueue")
            .field("sleeping", &self.sleeping)
            .finish_non_exhaustive()
    }
}

/// The live workers of this process.
static WORKERS: RwLock<Workers> = RwLock::new(Workers {
    wake_queues: Vec::new(),
    next: 0,
});

/// Workers by number. Numbers are assigned in rotation, so that a stale waker of a worker that has
/// ended does not reach the worker that started next.
struct Workers {
    wake_queues: Vec<Weak<RemoteWakeQueue>>,
    next: usize,
}

/// Assigns a number to the worker of `wake_queue`. The number is unique while the wake_queue lives.
///
/// # Panics
/// If 4,096 workers are alive already.
pub(super) fn register(wake_queue: &Arc<RemoteWakeQueue>) -> u16 {
    const COUNT: usize = 1 << WORKER_BITS;
    let mut workers = WORKERS.write().unwrap_or_else(PoisonError::into_inner);
    let number = (workers.next..workers.next + COUNT)
        .map(|number| number % COUNT)
        .find(|&number| {
            let wake_queue = workers.wake_queues.get(number);
            wake_queue.is_none_or(|wake_queue| wake_queue.strong_count() == 0)
        })
        .expect("fewer than 4,096 workers in one process");
    if number >= workers.wake_queues.len() {
        workers.wake_queues.resize_with(number + 1, Weak::new);
    }
    workers.wake_queues[number] = Arc::downgrade(wake_queue);
    workers.next = number + 1;
    u16::try_from(number).expect("a worker's number has 12 bits")
}

/// Wakes a task of another thread's worker; does nothing if that worker is gone.
pub(super) fn wake_remote(id: TaskId) {
    let wake_queue = {
        let workers = WORKERS.read().unwrap_or_else(PoisonError::into_inner);
        let wake_queue = workers.wake_queues.get(usize::from(id.worker));
        wake_queue.and_then(Weak::upgrade)
    };
    if let Some(wake_queue) = wake_queue {
        wake_queue.push(id);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn repeated_wake_ups_of_a_task_are_queued_once() {
        let wake_queue = RemoteWakeQueue::new(Box::new(|| {}));
        let id = |slot, generation| TaskId {
            worker: 0,
            generation,
            slot,
        };
        for _ in 0..1000 {
            (0..3).for_each(|slot| wake_queue.push(id(slot, 7)));
        }
        // Another task, in the reused slot of one that has ended.
        wake_queue.push(id(0, 8));
        let mut woken = Vec::new();
        wake_queue.drain(|id| woken.push((id.slot, id.generation)));
        woken.sort_unstable();
        assert_eq!(woken, [(0, 7), (0, 8), (1, 7), (2, 7)]);
        wake_queue.drain(|id| panic!("{id:?} is still queued"));
        wake_queue.push(id(1, 7));
        let mut again = 0;
        wake_queue.drain(|_| again += 1);
        assert_eq!(again, 1);
    }

    #[test]
    fn a_worker_number_is_not_reused_at_once() {
        let number = || register(&Arc::new(RemoteWakeQueue::new(Box::new(|| {}))));
        let first = number();
        assert!((0..1000).all(|_| number() != first));
    }
}
