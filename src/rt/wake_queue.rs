//! The queue by which other threads wake a worker's tasks, let it call functions, and end its
//! sleep.
//!
//! The worker announces that it will sleep, and *then* checks the queue again. A sender queues a
//! wake-up, and *then* checks whether the worker sleeps. Both swap the flag `sleeping`, and the
//! later swap sees everything that preceded the earlier one. So either the sender sees that the
//! worker sleeps, or the worker sees the queued wake-up. No wake-up is lost.

use std::collections::BTreeSet;
use std::fmt;
use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use super::sync::{AtomicBool, Mutex, MutexGuard};
use super::waker::{TaskId, WORKER_BITS};
use crate::sys::mutants::mutate;

/// What other threads have queued for a worker.
pub struct RemoteWakeQueue {
    queued: Mutex<Queued>,
    /// Whether anything may be queued. If not, the worker need not take the lock.
    pending: AtomicBool,
    /// The worker sleeps, or is about to, and no sender has ended that sleep yet.
    sleeping: AtomicBool,
    /// Ends the worker's sleep in the kernel. Any thread may call it at any time.
    unpark: Box<dyn Fn() + Send + Sync>,
}

/// A function that another thread gives to a worker.
pub type RemoteCall = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queued {
    /// The woken tasks, each of them once, so that repeated wake-ups of one task use no more memory
    /// while its worker is busy.
    woken: BTreeSet<TaskId>,
    calls: Vec<RemoteCall>,
    /// The worker takes no calls any more.
    is_closed: bool,
}

impl RemoteWakeQueue {
    pub(super) fn new(unpark: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            queued: Mutex::default(),
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

    /// Passes every task that another thread has woken to `wake`, and every function that another
    /// thread wants to be called here to `call`.
    pub(super) fn drain(&self, wake: impl FnMut(TaskId), call: impl FnMut(RemoteCall)) {
        if !self.pending.load(Ordering::Relaxed) {
            return;
        }
        // Cleared before the lists are taken: a sender that queues something later sets it again.
        self.pending.store(false, Ordering::Relaxed);
        let mut queued = self.lock();
        let (woken, calls) = (mem::take(&mut queued.woken), mem::take(&mut queued.calls));
        drop(queued);
        woken.into_iter().for_each(wake);
        calls.into_iter().for_each(call);
    }

    /// Refuses calls from now on, and returns those that were not made.
    pub(super) fn close(&self) -> Vec<RemoteCall> {
        let mut queued = self.lock();
        queued.is_closed = true;
        mem::take(&mut queued.calls)
    }

    fn lock(&self) -> MutexGuard<'_, Queued> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, id: TaskId) {
        self.lock().woken.insert(id);
        self.announce();
    }

    fn push_call(&self, call: RemoteCall) -> Result<(), RemoteCall> {
        let mut queued = self.lock();
        if queued.is_closed {
            return Err(call);
        }
        queued.calls.push(call);
        drop(queued);
        self.announce();
        Ok(())
    }

    /// Tells the worker that something is queued.
    fn announce(&self) {
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

/// A worker, as other threads know it.
#[derive(Debug, Clone)]
pub struct RemoteWorker(Weak<RemoteWakeQueue>);

impl RemoteWorker {
    pub(super) fn new(wake_queue: &Arc<RemoteWakeQueue>) -> Self {
        Self(Arc::downgrade(wake_queue))
    }

    /// Lets the worker call `function` before its next turn. If the worker ends first, the function
    /// is dropped, here or there.
    pub fn call(&self, function: impl FnOnce() + Send + 'static) {
        if let Some(wake_queue) = self.0.upgrade() {
            let refused = wake_queue.push_call(Box::new(function));
            drop(refused);
        }
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
        let drain = |queue: &RemoteWakeQueue, wake: &mut dyn FnMut(TaskId)| {
            queue.drain(wake, |_call| unreachable!());
        };
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
        drain(&wake_queue, &mut |id| woken.push((id.slot, id.generation)));
        woken.sort_unstable();
        assert_eq!(woken, [(0, 7), (0, 8), (1, 7), (2, 7)]);
        drain(&wake_queue, &mut |id| panic!("{id:?} is still queued"));
        wake_queue.push(id(1, 7));
        let mut again = 0;
        drain(&wake_queue, &mut |_| again += 1);
        assert_eq!(again, 1);
    }

    #[test]
    fn a_worker_number_is_not_reused_at_once() {
        let number = || register(&Arc::new(RemoteWakeQueue::new(Box::new(|| {}))));
        let first = number();
        assert!((0..1000).all(|_| number() != first));
    }
}
