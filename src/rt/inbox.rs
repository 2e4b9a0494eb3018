//! The one door by which other threads reach a worker: wake-ups, and the end of its sleep.
//!
//! The worker says that it will sleep, *then* looks once more whether something came; a sender
//! puts its wake-up in, *then* looks whether the worker sleeps. Both touch the flag by a swap, and
//! the later of two swaps sees the earlier with all that came before it: either the sender sees
//! that the worker sleeps, or the worker sees what was put in. No wake-up is lost.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use super::sync::{AtomicBool, Mutex};
use super::waker::{TaskId, WORKER_BITS};
use crate::sys::mutants::mutate;

/// What other threads know of a worker.
pub struct Inbox {
    /// Each task once, however often it was woken: a task that is woken all the time, while its
    /// worker is busy, must not take memory each time.
    woken: Mutex<BTreeSet<TaskId>>,
    /// Whether `woken` holds anything: spares the worker the lock.
    pending: AtomicBool,
    sleeping: AtomicBool,
    /// Ends the worker's sleep in the kernel; may be called at any time from any thread.
    unpark: Box<dyn Fn() + Send + Sync>,
}

impl Inbox {
    pub(super) fn new(unpark: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            woken: Mutex::default(),
            pending: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            unpark,
        }
    }

    /// Announces that the worker is about to sleep. False when something has come meanwhile:
    /// then it must not.
    pub fn prepare_sleep(&self) -> bool {
        self.sleeping.swap(true, Ordering::AcqRel);
        let came = mutate!(SleepUnchecked, false, self.pending.load(Ordering::Acquire));
        if came {
            self.awake();
        }
        !came
    }

    /// Announces that the worker is awake again.
    pub fn awake(&self) {
        self.sleeping.swap(false, Ordering::AcqRel);
    }

    /// Hands every task woken from outside to `wake`.
    pub(super) fn drain(&self, mut wake: impl FnMut(TaskId)) {
        if !self.pending.load(Ordering::Relaxed) {
            return;
        }
        // Cleared before the list is taken: what is put in after that sets it again.
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

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("sleeping", &self.sleeping)
            .finish_non_exhaustive()
    }
}

/// The workers alive in this process.
static WORKERS: RwLock<Workers> = RwLock::new(Workers {
    inboxes: Vec::new(),
    next: 0,
});

/// Workers by number. Numbers go round: whoever still wakes a task of a worker that is gone shall
/// not reach the one that was made next.
struct Workers {
    inboxes: Vec<Weak<Inbox>>,
    next: usize,
}

/// Gives the worker behind `inbox` a number of its own for as long as the inbox lives.
///
/// # Panics
/// When 4,096 workers are alive.
pub(super) fn register(inbox: &Arc<Inbox>) -> u16 {
    const COUNT: usize = 1 << WORKER_BITS;
    let mut workers = WORKERS.write().unwrap_or_else(PoisonError::into_inner);
    let number = (workers.next..workers.next + COUNT)
        .map(|number| number % COUNT)
        .find(|&number| {
            let inbox = workers.inboxes.get(number);
            inbox.is_none_or(|inbox| inbox.strong_count() == 0)
        })
        .expect("fewer than 4,096 workers in one process");
    if number >= workers.inboxes.len() {
        workers.inboxes.resize_with(number + 1, Weak::new);
    }
    workers.inboxes[number] = Arc::downgrade(inbox);
    workers.next = number + 1;
    u16::try_from(number).expect("a worker's number has 12 bits")
}

/// Wakes a task of another thread's worker; does nothing when that worker is gone.
pub(super) fn wake_remote(id: TaskId) {
    let inbox = {
        let workers = WORKERS.read().unwrap_or_else(PoisonError::into_inner);
        let inbox = workers.inboxes.get(usize::from(id.worker));
        inbox.and_then(Weak::upgrade)
    };
    if let Some(inbox) = inbox {
        inbox.push(id);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn wake_ups_of_one_task_are_kept_once() {
        let inbox = Inbox::new(Box::new(|| {}));
        let id = |slot, generation| TaskId {
            worker: 0,
            generation,
            slot,
        };
        for _ in 0..1000 {
            (0..3).for_each(|slot| inbox.push(id(slot, 7)));
        }
        // Another task, which has the slot of one that has ended.
        inbox.push(id(0, 8));
        let mut woken = Vec::new();
        inbox.drain(|id| woken.push((id.slot, id.generation)));
        woken.sort_unstable();
        assert_eq!(woken, [(0, 7), (0, 8), (1, 7), (2, 7)]);
        inbox.drain(|id| panic!("{id:?} was woken again"));
        inbox.push(id(1, 7));
        let mut again = 0;
        inbox.drain(|_| again += 1);
        assert_eq!(again, 1);
    }

    #[test]
    fn a_number_is_not_used_again_at_once() {
        let number = || register(&Arc::new(Inbox::new(Box::new(|| {}))));
        let first = number();
        assert!((0..1000).all(|_| number() != first));
    }
}
