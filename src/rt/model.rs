//! A model of a worker's sleep for loom, which explores how wake-ups from other threads can
//! interleave with it. Executors, wake queues and wakers are real. The eventfd that ends a sleep is
//! modelled: it fails the test if a worker sleeps when no thread is left to wake it, because then
//! a wake-up was lost.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Poll, Wake, Waker};

use loom::model::Builder;
use loom::sync::atomic::AtomicUsize;
use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};

use super::{Executor, HostWaker, spawn_detached};
use crate::metrics::WorkerMetrics;

/// The eventfd that ends a worker's sleep. A write while the worker is awake ends its next sleep at
/// once.
#[derive(Default)]
pub(crate) struct Eventfd {
    state: Mutex<EventfdState>,
    changed: Condvar,
    /// The number of writes; not part of the model.
    writes: AtomicU64,
}

#[derive(Default)]
struct EventfdState {
    written: bool,
    /// The number of threads that may still write.
    senders: usize,
}

impl Eventfd {
    fn write(&self) {
        self.writes.fetch_add(1, Relaxed);
        self.state.lock().unwrap().written = true;
        self.changed.notify_one();
    }

    fn sleep(&self) {
        let mut state = self.state.lock().unwrap();
        while !state.written {
            assert!(state.senders > 0, "a wake-up was lost");
            state = self.changed.wait(state).unwrap();
        }
        state.written = false;
    }

    pub(crate) fn add_sender(&self) {
        self.state.lock().unwrap().senders += 1;
    }

    pub(crate) fn remove_sender(&self) {
        self.state.lock().unwrap().senders -= 1;
        self.changed.notify_one();
    }
}

/// The waker of the host that turns a worker, for one of its sleeps: it ends no other.
struct SleepWaker {
    sleep: u64,
    host: Arc<Host>,
}

/// The thread that turns a worker, and sleeps in its stead.
struct Host {
    eventfd: Arc<Eventfd>,
    waker: Arc<HostWaker>,
    sleeps: AtomicU64,
}

impl Wake for SleepWaker {
    fn wake(self: Arc<Self>) {
        if self.host.sleeps.load(Relaxed) == self.sleep {
            self.host.eventfd.write();
        }
    }
}

/// A worker with tasks that wait for other threads.
pub(crate) struct ModelWorker {
    executor: Executor,
    eventfd: Arc<Eventfd>,
    metrics: Arc<WorkerMetrics>,
    wakers: Arc<std::sync::Mutex<Vec<Waker>>>,
    /// `None`: the worker sleeps itself.
    host: Option<Arc<Host>>,
}

impl ModelWorker {
    fn new() -> Self {
        Self::on(Arc::default())
    }

    /// A worker whose sleep this eventfd ends.
    pub(crate) fn on(eventfd: Arc<Eventfd>) -> Self {
        let unpark = eventfd.clone();
        Self::with_unpark(eventfd, None, Box::new(move || unpark.write()))
    }

    /// A worker that is turned by a host.
    fn hosted() -> Self {
        let host = Arc::new(Host {
            eventfd: Arc::default(),
            waker: Arc::default(),
            sleeps: AtomicU64::new(0),
        });
        let unpark = host.waker.clone();
        let eventfd = host.eventfd.clone();
        Self::with_unpark(eventfd, Some(host), Box::new(move || unpark.wake()))
    }

    fn with_unpark(
        eventfd: Arc<Eventfd>,
        host: Option<Arc<Host>>,
        unpark: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        let metrics = Arc::<WorkerMetrics>::default();
        Self {
            executor: Executor::new(metrics.clone(), 0, unpark),
            eventfd,
            metrics,
            wakers: Arc::default(),
            host,
        }
    }

    /// Announces a sleep, as the engine does. Returns false if the worker must not sleep.
    fn prepare_sleep(&self) -> bool {
        let wake_queue = self.executor.wake_queue();
        let Some(host) = &self.host else {
            return wake_queue.prepare_sleep();
        };
        let sleep = host.sleeps.fetch_add(1, Relaxed) + 1;
        let waker = Waker::from(Arc::new(SleepWaker {
            sleep,
            host: host.clone(),
        }));
        host.waker.prepare_sleep(&waker, wake_queue)
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.enter(|| spawn_detached(task));
    }

    /// Starts a task that ends when `count` reaches `last`, and returns its waker.
    fn wait_for(&self, count: &Arc<AtomicUsize>, last: usize) -> Waker {
        let (count, wakers) = (count.clone(), self.wakers.clone());
        self.executor.enter(|| {
            spawn_detached(poll_fn(move |context| {
                wakers.lock().unwrap().push(context.waker().clone());
                // Relaxed is enough: a task sees all writes that preceded its wake-up.
                match count.load(Relaxed) == last {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            }));
            self.executor.turn();
        });
        self.wakers.lock().unwrap().pop().expect("polled once")
    }

    /// Starts a thread that increments `count` and wakes the task, `times` times.
    fn sender(&self, count: &Arc<AtomicUsize>, waker: Waker, times: usize) -> JoinHandle<()> {
        let (count, eventfd) = (count.clone(), self.eventfd.clone());
        eventfd.add_sender();
        thread::spawn(move || {
            for _ in 0..times {
                count.fetch_add(1, Relaxed);
                waker.wake_by_ref();
            }
            eventfd.remove_sender();
        })
    }

    /// Runs turns of the loop until every task has ended, as the engine does.
    pub(crate) fn run(&self) {
        let mut sleeps_announced = 0;
        self.executor.enter(|| {
            loop {
                self.executor.advance(0);
                let turn = self.executor.turn();
                if self.metrics.tasks_live.get() == 0 {
                    break;
                }
                sleeps_announced += u64::from(!turn.runnable);
                if !turn.runnable && self.prepare_sleep() {
                    self.eventfd.sleep();
                    self.executor.wake_queue().awake();
                }
            }
        });
        if let Some(host) = &self.host {
            host.waker.clear();
        }
        let writes = self.eventfd.writes.load(Relaxed);
        assert!(
            writes <= sleeps_announced,
            "a sleep was ended more than once"
        );
    }
}

/// Explores every interleaving of `scenario` with at most `preemptions_max` preemptions (`None`: no
/// limit). Three threads have too many interleavings to explore without a limit; a few preemptions
/// find the usual bugs.
pub(crate) fn explore(
    preemptions_max: impl Into<Option<usize>>,
    scenario: impl Fn() + Sync + Send + 'static,
) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions_max.into();
    builder.check(scenario);
}

/// One thread wakes one task `times` times, before, during and after its worker's sleep.
fn wake_one(worker: &ModelWorker, times: usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let waker = worker.wait_for(&count, times);
    let sender = worker.sender(&count, waker, times);
    worker.run();
    sender.join().unwrap();
}

#[test]
fn no_wake_up_is_lost() {
    explore(None, || wake_one(&ModelWorker::new(), 1));
}

#[test]
fn no_wake_up_is_lost_after_an_earlier_one() {
    explore(3, || wake_one(&ModelWorker::new(), 3));
}

#[test]
fn no_wake_up_of_a_hosted_worker_is_lost() {
    explore(None, || wake_one(&ModelWorker::hosted(), 1));
    explore(3, || wake_one(&ModelWorker::hosted(), 3));
}

#[test]
fn each_of_two_tasks_is_woken_once() {
    explore(3, || {
        let worker = ModelWorker::new();
        let senders = [(); 2].map(|()| {
            let count = Arc::new(AtomicUsize::new(0));
            let waker = worker.wait_for(&count, 1);
            worker.sender(&count, waker, 1)
        });
        worker.run();
        for sender in senders {
            sender.join().unwrap();
        }
        assert_eq!(worker.metrics.remote_wakes.get(), 2);
        assert_eq!(worker.metrics.task_polls.get(), 4);
    });
}

#[test]
fn wake_ups_of_one_task_by_two_threads_may_be_merged() {
    explore(3, || {
        let worker = ModelWorker::new();
        let count = Arc::new(AtomicUsize::new(0));
        let waker = worker.wait_for(&count, 2);
        let senders = [(); 2].map(|()| worker.sender(&count, waker.clone(), 1));
        worker.run();
        assert!((2..=3).contains(&worker.metrics.task_polls.get()));
        for sender in senders {
            sender.join().unwrap();
        }
        worker.executor.advance(0);
        assert!((1..=2).contains(&worker.metrics.remote_wakes.get()));
    });
}

/// Plants faults, to show that the model detects them.
#[cfg(feature = "mutants")]
mod planted {
    use super::{ModelWorker, explore, wake_one};
    use crate::sys::mutants::{Mutant, with_mutant};

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn a_worker_that_does_not_check_its_queue_again_never_wakes() {
        with_mutant(Mutant::SleepUnchecked, || {
            explore(None, || wake_one(&ModelWorker::new(), 1))
        });
    }

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn a_worker_that_is_not_unparked_never_wakes() {
        with_mutant(Mutant::LoseRemoteWake, || {
            explore(None, || wake_one(&ModelWorker::new(), 1))
        });
    }

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn a_worker_that_does_not_know_its_host_never_wakes() {
        let wake = || wake_one(&ModelWorker::hosted(), 1);
        with_mutant(Mutant::ForgetHost, || explore(None, wake));
    }
}
