//! The executor of one worker: a slab of tasks, a queue of those that can run, and the wheel.
//!
//! It is driven in turns. A turn runs the tasks that were ready when it began, each once: a task
//! that wakes itself waits for the next turn, so busy tasks never keep the engine from the
//! kernel, and the completions of one visit never keep tasks from running.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::drain::Drain;
use super::foreign::{contain, drop_waker, wake};
use super::inbox::{self, Inbox};
use super::sync::per_thread;
use super::waker::{GENERATION_BITS, TaskId};
use super::wheel::Wheel;
use crate::metrics::WorkerMetrics;
use crate::sys::mutants::mutate;

type Future = Pin<Box<dyn std::future::Future<Output = ()>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No task is here.
    Vacant,
    /// It waits to be woken.
    Waiting,
    /// It is in the run queue.
    Queued,
    /// It is being polled.
    Running,
    /// It is being polled and has been woken meanwhile.
    RunningWoken,
}

struct Slot {
    generation: u32,
    state: State,
    /// Absent while the task is being polled: a task may spawn others and so move the slab.
    future: Option<Future>,
}

#[derive(Default)]
struct Tasks {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
}

/// A turn of the loop that takes longer, and a sleep that ends later, hold up the worker's peers:
/// what is beyond this does not count against them, in ms.
const DELAY_MS_MAX: u64 = 100;

/// What a turn leaves to do.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Tasks are ready: the engine must not sleep.
    pub runnable: bool,
    /// When time must be advanced next, in ms; none when no timer is armed.
    pub next_ms: Option<u64>,
}

/// The executor of one worker. It stays on the thread that made it.
pub struct Executor {
    worker: u16,
    tasks: RefCell<Tasks>,
    run_queue: RefCell<VecDeque<u32>>,
    pub(super) wheel: RefCell<Wheel>,
    pub(super) now_ms: Cell<u64>,
    /// `now_ms` without `lost_ms`.
    pub(super) peer_now_ms: Cell<u64>,
    /// The time that does not count against peers so far, in ms.
    pub(super) lost_ms: Cell<u64>,
    /// When the clock is read next, unless something holds the worker up, in ms.
    expected_ms: Cell<u64>,
    /// The first time at which a timer may be due, as of the end of the last turn, in ms.
    next_ms: Cell<u64>,
    /// Room for those whose time has come.
    due: RefCell<Vec<Waker>>,
    inbox: Arc<Inbox>,
    pub(super) drain: Rc<Drain>,
    metrics: Arc<WorkerMetrics>,
}

per_thread! {
    /// The executor whose tasks are running on this thread, while [`Executor::enter`] lasts.
    static CURRENT: Cell<*const Executor> = const { Cell::new(std::ptr::null()) };
}

impl Executor {
    /// An executor without tasks. `unpark` ends the worker's sleep in the kernel and is called
    /// from other threads; the time is `now_ms`, in ms since any fixed moment.
    pub fn new(
        metrics: Arc<WorkerMetrics>,
        now_ms: u64,
        unpark: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        let inbox = Arc::new(Inbox::new(unpark));
        let mut wheel = Wheel::new();
        wheel.advance(now_ms, drop);
        Self {
            worker: inbox::register(&inbox),
            tasks: RefCell::default(),
            run_queue: RefCell::default(),
            wheel: RefCell::new(wheel),
            now_ms: Cell::new(now_ms),
            peer_now_ms: Cell::new(now_ms),
            lost_ms: Cell::new(0),
            expected_ms: Cell::new(u64::MAX),
            next_ms: Cell::new(u64::MAX),
            due: RefCell::default(),
            inbox,
            drain: Rc::default(),
            metrics,
        }
    }

    /// Its number; the workers that live at one time have different ones.
    #[inline]
    pub(super) fn worker(&self) -> u16 {
        self.worker
    }

    /// The time of this turn.
    pub fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// The door for other threads.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Makes this executor the current one of the thread while `body` runs.
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
        let slot = tasks.vacant.pop().unwrap_or_else(|| {
            tasks.slots.push(Slot {
                generation: 0,
                state: State::Vacant,
                future: None,
            });
            u32::try_from(tasks.slots.len() - 1).expect("fewer than 2^32 tasks")
        });
        let task = &mut tasks.slots[slot as usize];
        debug_assert_eq!(task.state, State::Vacant);
        task.future = Some(Box::pin(future));
        task.state = State::Queued;
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

    /// Whether a timer may be due at `now_ms`. Then the engine is to look what has come until now
    /// before it calls [`Executor::advance`].
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.next_ms.get() <= now_ms
    }

    /// Moves time forward and wakes whoever waited for it. Called by the engine, before a turn.
    pub fn advance(&self, now_ms: u64) {
        self.note_delay(now_ms);
        self.expected_ms.set(now_ms + DELAY_MS_MAX);
        self.now_ms.set(now_ms);
        self.peer_now_ms.set(now_ms - self.lost_ms.get());
        self.inbox.drain(|id| {
            self.metrics.remote_wakes.add(1);
            self.schedule(id);
        });
        let mut due = self.due.take();
        self.wheel
            .borrow_mut()
            .advance(now_ms, |waker| due.push(waker));
        // Only now: a waker may be others' code, and set a timer.
        due.drain(..).for_each(wake);
        self.due.replace(due);
        self.count_timers();
    }

    /// The worker sleeps from `now_ms` on, until `until_ms` at the latest.
    pub fn note_sleep(&self, now_ms: u64, until_ms: u64) {
        self.note_delay(now_ms);
        let expected_ms = until_ms.max(now_ms).saturating_add(DELAY_MS_MAX);
        self.expected_ms.set(expected_ms);
    }

    /// The clock says `now_ms`: what is later than expected is lost for the worker's peers.
    fn note_delay(&self, now_ms: u64) {
        let delay_ms = now_ms.saturating_sub(self.expected_ms.get());
        let lost_ms = self.lost_ms.get() + mutate!(CountDelays, 0, delay_ms);
        self.lost_ms.set(lost_ms);
    }

    /// Polls every task that is ready now, once.
    pub fn turn(&self) -> Turn {
        let ready = self.run_queue.borrow().len();
        for _ in 0..mutate!(GreedyTurn, usize::MAX, ready) {
            let mut queue = self.run_queue.borrow_mut();
            let next = mutate!(NewestFirst, queue.pop_back(), queue.pop_front());
            drop(queue);
            let Some(slot) = next else { break };
            self.poll(slot);
        }
        let runnable = !self.run_queue.borrow().is_empty();
        let next_ms = self.wheel.borrow().next_ms();
        self.next_ms.set(next_ms.unwrap_or(u64::MAX));
        Turn { runnable, next_ms }
    }

    /// Drops every task. What their destructors spawn is dropped as well; a panic in one costs the
    /// others nothing.
    pub fn clear(&self) {
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
                let dropped = contain(|| drop(future));
                self.metrics.task_panics.add(u64::from(dropped.is_none()));
            }
        }
        self.run_queue.borrow_mut().clear();
        self.count_timers();
    }

    /// Makes every task run again: for rare events that concern them all.
    pub(super) fn wake_all(&self) {
        let mut tasks = self.tasks.borrow_mut();
        let mut run_queue = self.run_queue.borrow_mut();
        for (slot, task) in (0..).zip(&mut tasks.slots) {
            if task.state == State::Waiting {
                task.state = State::Queued;
                run_queue.push_back(slot);
            }
        }
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
            State::Waiting => {
                task.state = State::Queued;
                self.run_queue.borrow_mut().push_back(id.slot);
            }
            State::Running => task.state = State::RunningWoken,
            State::Vacant | State::Queued | State::RunningWoken => {}
        }
    }

    fn poll(&self, slot: u32) {
        let (mut future, generation) = {
            let mut tasks = self.tasks.borrow_mut();
            let task = &mut tasks.slots[slot as usize];
            let Some(future) = task.future.take() else {
                return;
            };
            task.state = State::Running;
            (future, task.generation)
        };
        self.metrics.task_polls.add(1);
        let waker = self.id(slot, generation).waker();
        let mut context = Context::from_waker(&waker);
        // A panic costs its own task; the panic hook has reported it.
        let polled = contain(|| future.as_mut().poll(&mut context));
        if let Some(Poll::Pending) = polled {
            let mut tasks = self.tasks.borrow_mut();
            let task = &mut tasks.slots[slot as usize];
            task.future = Some(future);
            if mutate!(LoseSelfWake, false, task.state == State::RunningWoken) {
                task.state = State::Queued;
                self.run_queue.borrow_mut().push_back(slot);
            } else {
                task.state = State::Waiting;
            }
            return;
        }
        self.metrics.task_panics.add(u64::from(polled.is_none()));
        self.vacate(&mut self.tasks.borrow_mut(), slot as usize);
        // Dropped last: destructors may wake and spawn tasks, and panic.
        let dropped = contain(|| drop(future));
        self.metrics.task_panics.add(u64::from(dropped.is_none()));
    }

    fn vacate(&self, tasks: &mut Tasks, slot: usize) {
        let task = &mut tasks.slots[slot];
        task.state = State::Vacant;
        task.generation = (task.generation + 1) & ((1 << GENERATION_BITS) - 1);
        tasks
            .vacant
            .push(u32::try_from(slot).expect("fewer than 2^32 tasks"));
        self.metrics.tasks_live.sub(1);
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.enter(|| self.clear());
        // Timers that were carried elsewhere, or leaked.
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

/// Hands the thread's current executor to `body`; none when no executor runs here.
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

/// Wakes the task if it belongs to the thread's current executor. False: it does not.
#[inline]
pub(super) fn wake_local(id: TaskId) -> bool {
    with_current(|executor| {
        let mine = executor.worker == id.worker;
        if mine {
            executor.schedule(id);
        }
        mine
    })
    .unwrap_or(false)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
