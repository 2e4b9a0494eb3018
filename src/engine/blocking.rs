//! The blocking pool: threads for system calls that may block, such as opening a file or reading
//! one that is not in memory. The pool knows no files; it runs closures.
//!
//! Each worker has its own pool of a few threads, which are started when they are first needed. A
//! finished blocking task wakes its waiter through the worker's wake queue. A simulated worker has
//! no threads; it runs each blocking task at once.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll};

use crate::rt::{self, JoinError, Outcome, catch_outcome, catch_panic};
use crate::sys::lock::lock;

/// The most threads of one worker's pool, and so the most disk accesses at a time. If as many calls
/// never return (because a file server is gone), the worker can run no further blocking tasks.
pub(super) const THREADS_MAX: usize = 4;

/// Runs `task` on a thread of the current worker's blocking pool. The future's output is the return
/// value of `task`, or the reason why there is none. A worker has at most four such threads, which
/// also read files for it; further blocking tasks wait for a free thread.
///
/// A task that has started runs to its end even if the future is dropped; its result is then
/// dropped on its thread. If the future is dropped before the task has started, the task never
/// runs.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// coring::run(async {
///     let sum = coring::task::blocking(|| (1..=1_000_000_u64).sum::<u64>()).await;
///     assert_eq!(sum, Ok(500_000_500_000));
///     // In a function that returns io::Result, `?` takes either error.
///     let hosts = coring::task::blocking(|| std::fs::read("/etc/hosts")).await??;
///     # drop(hosts);
///     Ok(())
/// })
/// # }
/// ```
///
/// # Panics
/// Outside a worker.
pub fn blocking<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> Blocking<T> {
    let (setter, outcome) = rt::outcome();
    let run = move || {
        if setter.is_awaited() {
            setter.set(catch_outcome(task));
        }
    };
    if let Err(error) = super::current::with_blocking_pool(|pool| pool.start(Box::new(run))) {
        let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
        return Blocking(Outcome::failed(JoinError::NoThread(errno)));
    }
    Blocking(outcome)
}

/// The future of a task in the blocking pool; see [`blocking`].
#[derive(Debug)]
pub struct Blocking<T>(Outcome<T>);

impl<T> Future for Blocking<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

type BlockingTask = Box<dyn FnOnce() + Send>;

/// One worker's blocking pool. Dropping it drops the tasks that have not started. It does not wait
/// for running tasks, because a disk that does not respond must not keep the program from exiting.
pub(super) struct BlockingPool {
    shared: Arc<TaskQueue>,
    threads_max: usize,
}

#[derive(Default)]
struct TaskQueue {
    queue: Mutex<TaskQueueState>,
    /// Signalled when a task was queued, and when the pool was closed.
    changed: Condvar,
}

#[derive(Default)]
struct TaskQueueState {
    tasks: VecDeque<BlockingTask>,
    threads: usize,
    /// Threads that wait for a task.
    idle: usize,
    closed: bool,
}

impl BlockingPool {
    /// A pool of at most `threads_max` threads, none of which has started yet. If `threads_max` is
    /// 0, `start` runs each task on the calling thread.
    pub(super) fn new(threads_max: usize) -> Self {
        Self {
            shared: Arc::default(),
            threads_max,
        }
    }

    /// Queues a task.
    ///
    /// # Errors
    /// If the pool has no thread and none can be started.
    fn start(&self, task: BlockingTask) -> io::Result<()> {
        if self.threads_max == 0 {
            catch_panic(task);
            return Ok(());
        }
        let mut queue = lock(&self.shared.queue);
        queue.tasks.push_back(task);
        if queue.idle < queue.tasks.len() && queue.threads < self.threads_max {
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new().name("coring-blocking".to_owned());
            match thread.spawn(move || shared.work()) {
                Ok(_) => queue.threads += 1,
                Err(error) if queue.threads == 0 => {
                    let unstarted = std::mem::take(&mut queue.tasks);
                    drop(queue);
                    drop_tasks(unstarted);
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        drop(queue);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for BlockingPool {
    fn drop(&mut self) {
        let mut queue = lock(&self.shared.queue);
        queue.closed = true;
        let unstarted = std::mem::take(&mut queue.tasks);
        drop(queue);
        self.shared.changed.notify_all();
        drop_tasks(unstarted);
    }
}

/// Drops tasks that have not started. The queue must be unlocked, because their destructors may run
/// any code.
fn drop_tasks(tasks: VecDeque<BlockingTask>) {
    for task in tasks {
        catch_panic(|| drop(task));
    }
}

impl TaskQueue {
    /// The life of a thread: runs tasks until the pool is closed.
    fn work(&self) {
        while let Some(task) = self.next_task() {
            // Panics of the task's closure are caught inside. This catches panics of its
            // destructors.
            catch_panic(task);
        }
    }

    /// Waits for a task; `None` once the pool is closed.
    fn next_task(&self) -> Option<BlockingTask> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(task) = queue.tasks.pop_front() {
                return Some(task);
            }
            if queue.closed {
                return None;
            }
            queue.idle += 1;
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

impl fmt::Debug for BlockingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingPool").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::panic::resume_unwind;
    use std::sync::mpsc;
    use std::thread::ThreadId;
    use std::time::Duration;

    use super::*;
    use crate::engine::{EngineChoice, Worker};
    use crate::rt::{Timeout, now_ms, sleep_ms, spawn_detached};

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// Runs `main` on a new worker, once on each engine that works here.
    fn on_each_engine<F: Future<Output = ()> + 'static>(main: impl Fn() -> F) {
        for choice in [EngineChoice::Auto, EngineChoice::Epoll] {
            let selected = choice.probe().unwrap();
            let worker = Worker::new(&selected, usize::MAX, &Arc::default()).unwrap();
            worker.run(main()).unwrap();
        }
    }

    fn thread_id() -> ThreadId {
        std::thread::current().id()
    }

    fn panicked(message: &str) -> JoinError {
        JoinError::Panicked(message.into())
    }

    #[test]
    fn a_task_runs_on_another_thread_and_returns_its_result() {
        on_each_engine(|| async {
            let pool_thread = blocking(thread_id).await.unwrap();
            assert_ne!(pool_thread, thread_id());
            let refused = blocking(|| io::Result::<()>::Err(io::ErrorKind::NotFound.into())).await;
            assert_eq!(
                refused.unwrap().unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
        });
    }

    #[test]
    fn a_failed_thread_start_keeps_its_error_number() {
        let error = io::Error::from(JoinError::NoThread(libc::EAGAIN));
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        let error = io::Error::from(panicked("as planned"));
        assert_eq!(error.to_string(), "the task panicked: as planned");
    }

    #[test]
    fn a_panic_becomes_an_error_and_ends_no_thread() {
        on_each_engine(|| async {
            for _ in 0..2 * THREADS_MAX {
                let result = blocking(|| panic!("as planned")).await;
                assert_eq!(result, Err::<(), _>(panicked("as planned")));
            }
            assert!(blocking(thread_id).await.is_ok());
        });
    }

    /// A panic payload whose destructor panics with another such payload.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            resume_unwind(Box::new(Self));
        }
    }

    #[test]
    fn a_payload_whose_destructor_panics_becomes_an_error_and_ends_no_thread() {
        on_each_engine(|| async {
            for _ in 0..2 * THREADS_MAX {
                let task = blocking(|| resume_unwind(Box::new(Bomb)));
                let result = Timeout::new(now_ms() + 30_000, task).await;
                let result = result.expect("an outcome");
                assert_eq!(result, Err::<(), _>(panicked("no message")));
            }
        });
    }

    #[test]
    fn a_result_whose_destructor_panics_ends_no_thread() {
        on_each_engine(|| async {
            let (open, gate) = mpsc::channel::<()>();
            let gate = Arc::new(Mutex::new(gate));
            for _ in 0..2 * THREADS_MAX {
                let (started, has_started) = mpsc::channel();
                let gate = gate.clone();
                let task = blocking(move || {
                    started.send(()).unwrap();
                    let _ = lock(&gate).recv();
                    Bomb
                });
                // Tasks that find no free thread are dropped before they start.
                let _ = has_started.recv_timeout(Duration::from_millis(100));
                drop(task);
            }
            drop(open);
            let task = Timeout::new(now_ms() + 30_000, blocking(thread_id));
            assert!(task.await.expect("a thread").is_ok());
        });
    }

    #[test]
    fn a_worker_ends_although_destructors_of_tasks_panic() {
        let (_open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        // The futures of these tasks are kept until after their worker has ended.
        let awaited = Arc::new(Mutex::new(Vec::new()));
        on_each_engine(|| {
            let (gate, awaited) = (gate.clone(), awaited.clone());
            async move {
                for _ in 0..3 * THREADS_MAX {
                    let (gate, bomb) = (gate.clone(), Bomb);
                    let task = blocking(move || {
                        let _ = lock(&gate).recv();
                        std::mem::forget(bomb);
                    });
                    lock(&awaited).push(task);
                }
            }
        });
    }

    #[test]
    fn tasks_wait_for_a_free_thread_and_the_worker_does_not() {
        on_each_engine(|| async {
            let (done, all_done) = mpsc::channel();
            let (open, gate) = mpsc::channel::<()>();
            let gate = Arc::new(Mutex::new(gate));
            for _ in 0..5 * THREADS_MAX {
                let (done, gate) = (done.clone(), gate.clone());
                spawn_detached(async move {
                    let pass = move || {
                        let _ = lock(&gate).recv();
                        thread_id()
                    };
                    done.send(blocking(pass).await.unwrap()).unwrap();
                });
            }
            sleep_ms(10).await;
            assert!(
                all_done.try_recv().is_err(),
                "no task finishes before the gate opens"
            );
            drop(open);
            let mut threads = Vec::new();
            while threads.len() < 5 * THREADS_MAX {
                threads.extend(all_done.try_iter());
                sleep_ms(1).await;
            }
            threads.sort_by_key(|id| format!("{id:?}"));
            threads.dedup();
            assert!(threads.len() <= THREADS_MAX, "{threads:?}");
        });
    }

    /// Reports the thread on which it is dropped.
    struct Witness(mpsc::Sender<ThreadId>);

    impl Drop for Witness {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().id());
        }
    }

    #[test]
    fn a_started_task_finishes_after_its_future_is_dropped() {
        on_each_engine(|| async {
            let (started, has_started) = mpsc::channel();
            let (open, gate) = mpsc::channel::<()>();
            let (report, dropped) = mpsc::channel();
            let task = blocking(move || {
                started.send(()).unwrap();
                let _ = gate.recv();
                Witness(report)
            });
            has_started.recv_timeout(TIMEOUT).unwrap();
            drop(task);
            drop(open);
            let thread = dropped.recv_timeout(TIMEOUT).unwrap();
            assert_ne!(thread, thread_id());
        });
    }

    #[test]
    fn a_task_whose_future_is_dropped_first_never_starts() {
        on_each_engine(|| async {
            let (open, gate) = mpsc::channel::<()>();
            let gate = Arc::new(Mutex::new(gate));
            let hold =
                |gate: Arc<Mutex<mpsc::Receiver<()>>>| blocking(move || lock(&gate).recv().is_ok());
            let held: Vec<_> = (0..THREADS_MAX).map(|_| hold(gate.clone())).collect();
            let (report, started) = mpsc::channel();
            drop(blocking(move || report.send(())));
            drop(open);
            for task in held {
                assert!(!task.await.unwrap());
            }
            // The sender is dropped with its task.
            assert!(started.recv_timeout(TIMEOUT).is_err());
        });
    }

    #[test]
    fn a_worker_ends_without_waiting_for_a_running_task() {
        for choice in [EngineChoice::Auto, EngineChoice::Epoll] {
            let selected = choice.probe().unwrap();
            let worker = Worker::new(&selected, usize::MAX, &Arc::default()).unwrap();
            let (open, gate) = mpsc::channel::<()>();
            let (report, ended) = mpsc::channel();
            let (started, has_started) = mpsc::channel();
            let main = async move {
                let mut task = blocking(move || {
                    let _witness = Witness(report);
                    started.send(()).unwrap();
                    gate.recv()
                });
                let polled = poll_fn(|context| Poll::Ready(Pin::new(&mut task).poll(context)));
                assert!(polled.await.is_pending());
                has_started.recv_timeout(TIMEOUT).unwrap();
            };
            worker.run(main).unwrap();
            assert!(ended.try_recv().is_err(), "the task still runs");
            drop(open);
            ended.recv_timeout(TIMEOUT).unwrap();
        }
    }
}
