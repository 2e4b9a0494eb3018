//! The executor of one worker: a slab of tasks, a queue of the tasks that can run, and the timer
//! wheel.
//!
//! The engine drives the executor in turns. A turn polls each task that was ready when the turn
//! began, once. A task that wakes itself waits for the next turn. So busy tasks do not keep the
//! engine from visiting the kernel between two turns.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::drain::Drain;
use super::foreign::{catch_panic, drop_waker, wake};
use super::run::Run;
use super::sync::per_thread;
use super::vacant::{ENTRIES_MIN, Vacant};
use super::wake_queue::{self, RemoteWakeQueue, RemoteWorker};
use super::waker::{TASK_GENERATION_BITS, TaskId};
use super::wheel::Wheel;
use crate::metrics::WorkerMetrics;
use crate::sys::mutants::mutate;

type Future = Pin<Box<dyn std::future::Future<Output = ()>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskState {
    /// The slot holds no task.
    Vacant,
    /// The task waits to be woken.
    Waiting,
    /// The task is in the run queue.
    Queued,
    /// The task is being polled.
    Running,
    /// The task is being polled, and was woken meanwhile.
    RunningWoken,
}

struct TaskSlot {
    generation: u32,
    state: TaskState,
    /// `None` while the task is being polled: the task may spawn others, which may move the slab.
    future: Option<Future>,
}

#[derive(Default)]
struct Tasks {
    slots: Vec<TaskSlot>,
    vacant: Vacant,
    /// The generation of new slots: wakers of tasks in slots that were removed may still exist.
    first_generation: u32,
}

impl Tasks {
    /// Removes vacant slots from the end of a table that a burst has enlarged.
    #[inline]
    fn trim(&mut self) {
        if self.slots.len() > ENTRIES_MIN {
            self.trim_now();
        }
    }

    #[cold]
    fn trim_now(&mut self) {
        while let Some(last) = self.slots.pop_if(|last| last.state == TaskState::Vacant) {
            // Generations wrap around, so the later one is the one that is ahead by less.
            let ahead = last.generation.wrapping_sub(self.first_generation) & GENERATION_MASK;
            if ahead <= GENERATION_MASK / 2 {
                self.first_generation = last.generation;
            }
        }
        self.vacant.shrink(&mut self.slots);
    }
}

const GENERATION_MASK: u32 = (1 << TASK_GENERATION_BITS) - 1;

/// The longest expected turn of the loop, and the longest expected overrun of a sleep, in ms. Any
/// excess is a delay of the worker, which the peer clock does not count.
const DELAY_MS_MAX: u64 = 100;

/// How many tasks may be handed the worker in one turn ([`Executor::run_next`]). Two tasks that
/// hand it to each other for ever must not keep the engine from visiting the kernel.
const HAND_OVERS_MAX: usize = 64;

/// The state of the executor after a turn.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Tasks are ready: the engine must not sleep.
    pub runnable: bool,
    /// When time must be advanced next, in ms; `None` if no timer needs that.
    pub next_ms: Option<u64>,
}

/// The executor of one worker. It stays on the thread that made it.
pub struct Executor {
    /// The run of this worker.
    pub run: Run,
    /// The worker's number. Workers that are alive at the same time have different numbers.
    worker: u16,
    tasks: RefCell<Tasks>,
    run_queue: RefCell<VecDeque<u32>>,
    /// The tasks that were handed the worker in this turn, and are not counted yet.
    handed_over: Cell<usize>,
    hand_overs_left: Cell<usize>,
    pub(super) wheel: RefCell<Wheel>,
    pub(super) now_ms: Cell<u64>,
    /// The peer clock: `now_ms` minus `delayed_ms`.
    pub(super) peer_now_ms: Cell<u64>,
    /// The sum of all delays of the worker so far, in ms.
    pub(super) delayed_ms: Cell<u64>,
    /// The latest time at which the clock is read next, unless the worker is delayed, in ms.
    expected_ms: Cell<u64>,
    /// The first time at which a timer may be due, as of the end of the last turn, in ms.
    next_ms: Cell<u64>,
    /// Reusable space for the wakers of timers that are due.
    due: RefCell<Vec<Waker>>,
    /// The state of [`Executor::random`].
    random: Cell<u64>,
    wake_queue: Arc<RemoteWakeQueue>,
    pub(super) drain: Rc<Drain>,
    metrics: Arc<WorkerMetrics>,
}

per_thread! {
    /// The executor whose tasks run on this thread; null outside [`Executor::enter`].
    static CURRENT: Cell<*const Executor> = const { Cell::new(std::ptr::null()) };
}

impl Executor {
    /// Makes an executor without tasks. Other threads call `unpark` to end the worker's sleep in
    /// the kernel. The time starts at `now_ms`, in ms since any fixed moment.
    pub fn new(
        metrics: Arc<WorkerMetrics>,
        now_ms: u64,
        unpark: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        let wake_queue = Arc::new(RemoteWakeQueue::new(unpark));
        let mut wheel = Wheel::new();
        wheel.advance(now_ms, drop);
        Self {
            run: Run::begin(RemoteWorker::new(&wake_queue)),
            worker: wake_queue::register(&wake_queue),
            tasks: RefCell::default(),
            run_queue: RefCell::default(),
            handed_over: Cell::new(0),
            hand_overs_left: Cell::new(0),
            wheel: RefCell::new(wheel),
            now_ms: Cell::new(now_ms),
            peer_now_ms: Cell::new(now_ms),
            delayed_ms: Cell::new(0),
            expected_ms: Cell::new(u64::MAX),
            next_ms: Cell::new(u64::MAX),
            due: RefCell::default(),
            random: Cell::new(0x9e37_79b9_7f4a_7c15),
            wake_queue,
            drain: Rc::default(),
            metrics,
        }
    }

    /// The time of this turn, in ms.
    pub fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// The queue of wake-ups from other threads.
    pub fn wake_queue(&self) -> &RemoteWakeQueue {
        &self.wake_queue
    }

    /// This worker, for other threads.
    pub fn remote(&self) -> RemoteWorker {
        RemoteWorker::new(&self.wake_queue)
    }

    /// Makes this executor the thread's current one while `body` runs.
    pub fn enter<R>(&self, body: impl FnOnce() -> R) -> R {
        struct Restore(*const Executor);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.with(|current| current.set(self.0));
            }
        }
        let _restore = Restore(CURRENT.with(|current| current.replace(self)));
        body()
    }

    /// Adds a task; it runs in the next turn.
    pub fn spawn(&self, future: impl std::future::Future<Output = ()> + 'static) -> TaskId {
        let mut tasks = self.tasks.borrow_mut();
        let tasks = &mut *tasks;
        let slot = tasks.vacant.take(tasks.slots.len()).unwrap_or_else(|| {
            let generation = tasks.first_generation;
            tasks.slots.push(TaskSlot {
                generation,
                state: TaskState::Vacant,
                future: None,
            });
            u32::try_from(tasks.slots.len() - 1).expect("fewer than 2^32 tasks")
        });
        let task = &mut tasks.slots[slot as usize];
        debug_assert_eq!(task.state, TaskState::Vacant);
        task.future = Some(Box::pin(future));
        task.state = TaskState::Queued;
        let generation = task.generation;
        self.run_queue.borrow_mut().push_back(slot);
        self.metrics.tasks_live.add(1);
        self.id(slot, generation)
    }

    fn id(&self, slot: u32, generation: u32) -> TaskId {
        TaskId {
            worker: self.worker,
            generation,
            slot,
        }
    }

    /// Whether a task is ready.
    pub fn is_runnable(&self) -> bool {
        !self.run_queue.borrow().is_empty()
    }

    /// Whether a timer may be due at `now_ms`. If so, the engine must process everything that has
    /// arrived by now before it calls [`Executor::advance`].
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.next_ms.get() <= now_ms
    }

    /// Moves time to `now_ms`. Wakes the tasks whose timers are due, and those that other threads
    /// have woken. The engine calls this before each turn.
    pub fn advance(&self, now_ms: u64) {
        self.note_delay(now_ms);
        self.expected_ms.set(now_ms + DELAY_MS_MAX);
        self.now_ms.set(now_ms);
        self.peer_now_ms.set(now_ms - self.delayed_ms.get());
        self.wake_queue.drain(
            |id| {
                self.metrics.remote_wakes.add(1);
                self.schedule(id);
            },
            |call| {
                catch_panic(call);
            },
        );
        let mut due = self.due.take();
        self.wheel
            .borrow_mut()
            .advance(now_ms, |waker| due.push(waker));
        // The wheel is no longer borrowed: a foreign waker may set a timer.
        due.drain(..).for_each(wake);
        due.shrink_to(ENTRIES_MIN);
        self.due.replace(due);
        self.count_timers();
    }

    /// Notes that the worker sleeps from `now_ms` until `until_ms` at the latest.
    pub fn note_sleep(&self, now_ms: u64, until_ms: u64) {
        self.note_delay(now_ms);
        let expected_ms = until_ms.max(now_ms).saturating_add(DELAY_MS_MAX);
        self.expected_ms.set(expected_ms);
    }

    /// Adds the time by which `now_ms` is later than expected to `delayed_ms`.
    fn note_delay(&self, now_ms: u64) {
        let delay_ms = now_ms.saturating_sub(self.expected_ms.get());
        let delayed_ms = self.delayed_ms.get() + mutate!(CountDelays, 0, delay_ms);
        self.delayed_ms.set(delayed_ms);
    }

    /// Polls each task that is ready now, once, and those that are handed the worker meanwhile.
    pub fn turn(&self) -> Turn {
        let mut polls = self.run_queue.borrow().len();
        self.hand_overs_left.set(HAND_OVERS_MAX);
        while polls > 0 {
            for _ in 0..mutate!(GreedyTurn, usize::MAX, polls) {
                let mut queue = self.run_queue.borrow_mut();
                let next = mutate!(NewestFirst, queue.pop_back(), queue.pop_front());
                drop(queue);
                let Some(slot) = next else { break };
                self.poll(slot);
            }
            // A task that was handed the worker took the place of one that was ready before.
            polls = self.handed_over.take();
        }
        let runnable = !self.run_queue.borrow().is_empty();
        let next_ms = self.wheel.borrow().next_ms();
        self.next_ms.set(next_ms.unwrap_or(u64::MAX));
        Turn { runnable, next_ms }
    }

    /// Drops every task, and every task that their destructors spawn. A panic in a destructor does
    /// not affect the other tasks.
    pub fn clear(&self) {
        for call in self.wake_queue.close() {
            catch_panic(|| drop(call));
        }
        loop {
            let futures: Vec<Future> = {
                let mut tasks = self.tasks.borrow_mut();
                let live = tasks.slots.iter_mut().enumerate();
                let taken: Vec<(usize, Future)> = live
                    .filter_map(|(slot, task)| Some((slot, task.future.take()?)))
                    .collect();
                for (slot, _) in &taken {
                    self.vacate(&mut tasks, *slot);
                }
                taken.into_iter().map(|(_, future)| future).collect()
            };
            if futures.is_empty() {
                break;
            }
            for future in futures {
                let dropped = catch_panic(|| drop(future));
                self.metrics.task_panics.add(u64::from(dropped.is_none()));
            }
        }
        self.run_queue.borrow_mut().clear();
        self.count_timers();
    }

    /// Wakes every waiting task, for rare events that concern all of them.
    pub(super) fn wake_all(&self) {
        let mut tasks = self.tasks.borrow_mut();
        let mut run_queue = self.run_queue.borrow_mut();
        for (slot, task) in (0..).zip(&mut tasks.slots) {
            if task.state == TaskState::Waiting {
                task.state = TaskState::Queued;
                run_queue.push_back(slot);
            }
        }
    }

    /// A number without a pattern (xorshift). Every executor has the same sequence, so that a
    /// simulation can be repeated.
    pub(super) fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x
    }

    fn count_timers(&self) {
        let live = self.wheel.borrow().live() as u64;
        self.metrics.timers_live.set(live);
    }

    #[inline]
    fn schedule(&self, id: TaskId) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.slots.get_mut(id.slot as usize) else {
            return;
        };
        if task.generation != id.generation {
            return;
        }
        match task.state {
            TaskState::Waiting => {
                task.state = TaskState::Queued;
                self.run_queue.borrow_mut().push_back(id.slot);
            }
            TaskState::Running => task.state = TaskState::RunningWoken,
            TaskState::Vacant | TaskState::Queued | TaskState::RunningWoken => {}
        }
    }

    /// Wakes the task, if it waits, and lets it run before all others that are ready. It runs like
    /// any other after [`HAND_OVERS_MAX`] such calls in a turn.
    pub(super) fn run_next(&self, id: TaskId) {
        let queued = self.run_queue.borrow().len();
        self.schedule(id);
        let mut run_queue = self.run_queue.borrow_mut();
        let left = self.hand_overs_left.get();
        if run_queue.len() > queued && left > 0 {
            run_queue.rotate_right(1);
            self.hand_overs_left.set(left - 1);
            self.handed_over.set(self.handed_over.get() + 1);
        }
    }

    fn poll(&self, slot: u32) {
        let (mut future, generation) = {
            let mut tasks = self.tasks.borrow_mut();
            let task = &mut tasks.slots[slot as usize];
            let Some(future) = task.future.take() else {
                return;
            };
            task.state = TaskState::Running;
            (future, task.generation)
        };
        self.metrics.task_polls.add(1);
        let waker = self.id(slot, generation).waker();
        let mut context = Context::from_waker(&waker);
        // A panic ends only the task that panicked. The panic hook has reported it.
        let polled = catch_panic(|| future.as_mut().poll(&mut context));
        if let Some(Poll::Pending) = polled {
            let mut tasks = self.tasks.borrow_mut();
            let task = &mut tasks.slots[slot as usize];
            task.future = Some(future);
            if mutate!(LoseSelfWake, false, task.state == TaskState::RunningWoken) {
                task.state = TaskState::Queued;
                self.run_queue.borrow_mut().push_back(slot);
            } else {
                task.state = TaskState::Waiting;
            }
            return;
        }
        self.metrics.task_panics.add(u64::from(polled.is_none()));
        let mut tasks = self.tasks.borrow_mut();
        self.vacate(&mut tasks, slot as usize);
        tasks.trim();
        let mut run_queue = self.run_queue.borrow_mut();
        if run_queue.capacity() > ENTRIES_MIN && run_queue.len() < run_queue.capacity() / 4 {
            run_queue.shrink_to(ENTRIES_MIN);
        }
        drop(run_queue);
        drop(tasks);
        // Dropped when nothing is borrowed: destructors may wake and spawn tasks, and may panic.
        let dropped = catch_panic(|| drop(future));
        self.metrics.task_panics.add(u64::from(dropped.is_none()));
    }

    fn vacate(&self, tasks: &mut Tasks, slot: usize) {
        let task = &mut tasks.slots[slot];
        task.state = TaskState::Vacant;
        task.generation = (task.generation + 1) & GENERATION_MASK;
        tasks
            .vacant
            .add(u32::try_from(slot).expect("fewer than 2^32 tasks"));
        self.metrics.tasks_live.sub(1);
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.enter(|| self.clear());
        self.run.end();
        // The wakers of timers that were leaked.
        self.wheel.get_mut().take_wakers().for_each(drop_waker);
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor")
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

/// Calls `body` with the thread's current executor; `None` if there is none.
#[inline]
pub(super) fn with_current<R>(body: impl FnOnce(&Executor) -> R) -> Option<R> {
    let current = CURRENT.with(Cell::get);
    if current.is_null() {
        return None;
    }
    // SAFETY: `enter` sets the pointer from a reference that outlives its call, and restores the
    // former value before it returns.
    Some(body(unsafe { &*current }))
}

/// Wakes the task if it belongs to the thread's current executor. Returns whether it does.
#[inline]
pub(super) fn wake_local(id: TaskId) -> bool {
    with_current(|executor| {
        let is_local = executor.worker == id.worker;
        if is_local {
            executor.schedule(id);
        }
        is_local
    })
    .unwrap_or(false)
}

/// Lets the task run next, if it belongs to the thread's current executor. Returns whether it does.
pub(super) fn run_next(id: TaskId) -> bool {
    with_current(|executor| {
        let is_local = executor.worker == id.worker;
        if is_local {
            executor.run_next(id);
        }
        is_local
    })
    .unwrap_or(false)
}

#[cfg(test)]
#[path = "tests/foreign.rs"]
mod foreign_tests;
#[cfg(test)]
#[path = "tests.rs"]
mod tests;
