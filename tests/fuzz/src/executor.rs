//! The executor, compared with a list of its tasks. Each task runs a script of the input. Each must
//! start at most once, be dropped exactly once, and end as its handle reports.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use coring::metrics::WorkerMetrics;
use coring::parts::{
    Executor, JoinError, JoinHandle, Timer, now_ms, sleep_ms, spawn_joined, wake_all, yield_now,
};

use crate::input::Input;
use crate::planned::{PLANNED, allow_panics, panic_as_planned};

/// The most steps of one input.
const STEPS_MAX: usize = 200;
/// The most turns in which all tasks must end.
const TURNS_MAX: usize = 20_000;
const TASKS_MAX: usize = 60;
/// A task spawns tasks, which spawn tasks, down to this depth.
const DEPTH_MAX: u8 = 3;
/// The longest script, in bytes.
const SCRIPT_MAX: usize = 24;
const FLAGS: usize = 4;

/// Applies the operations of an input to an executor.
///
/// # Panics
/// If a task is lost or wakes early, or if a handle reports a wrong outcome.
pub fn check(data: &[u8]) {
    allow_panics();
    let mut input = Input::new(data);
    let mut bench = Bench::new(&mut input);
    for _ in 0..STEPS_MAX {
        let Some(step) = input.byte() else { break };
        match step % 8 {
            0 | 1 => {
                let len = input.below(SCRIPT_MAX);
                let script = input.take(len).into();
                bench.executor.enter(|| start(&bench.world, script, 0));
            }
            2 | 3 => drop(bench.turn()),
            4 => bench.advance(bench.now_ms + input.span() % 100_000),
            5 => bench.wake_waiting(input.below(2) == 0),
            6 => bench
                .executor
                .enter(|| bench.world.abort(input.below(TASKS_MAX))),
            _ => bench.world.flags[input.below(FLAGS)].set(true),
        }
    }
    if input.below(4) > 0 {
        bench.finish();
    }
    bench.end();
}

/// The model of one task.
#[derive(Default)]
struct Task {
    /// How often the task was started.
    begun: u32,
    /// How often its future was dropped.
    dropped: u32,
    finished: bool,
    aborted: bool,
    handle: Option<JoinHandle<usize>>,
}

#[derive(Default)]
struct World {
    tasks: RefCell<Vec<Task>>,
    panics: Cell<u64>,
    /// Flags that tasks set and wait for.
    flags: [Cell<bool>; FLAGS],
    /// The wakers of tasks that wait for a flag.
    waiting: RefCell<Vec<Waker>>,
}

impl World {
    fn abort(&self, number: usize) {
        let mut tasks = self.tasks.borrow_mut();
        if let Some(task) = tasks.get_mut(number)
            && let Some(handle) = &task.handle
        {
            task.aborted |= !task.finished;
            handle.abort();
        }
    }

    fn check_outcome(&self, number: usize, outcome: Result<usize, JoinError>) {
        let task = &self.tasks.borrow()[number];
        match outcome {
            Ok(value) => assert!(value == number && task.finished),
            Err(JoinError::Panicked(text)) => assert!(&*text == PLANNED && task.finished),
            Err(JoinError::Cancelled) => assert!(task.aborted, "task {number} was not aborted"),
            Err(error) => unreachable!("task {number}: {error}"),
        }
    }
}

/// Part of a task's future. Its drop is recorded, and wakes all waiting tasks if `wakes` is set.
struct Guard {
    world: Rc<World>,
    number: usize,
    wakes: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.world.tasks.borrow_mut()[self.number].dropped += 1;
        if self.wakes {
            let waiting = self.world.waiting.take();
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// Spawns a task that runs `script`.
fn start(world: &Rc<World>, script: Rc<[u8]>, depth: u8) {
    let number = world.tasks.borrow().len();
    if number == TASKS_MAX {
        return;
    }
    world.tasks.borrow_mut().push(Task::default());
    let guard = Guard {
        world: world.clone(),
        number,
        wakes: script.first().is_some_and(|byte| byte % 2 == 1),
    };
    let handle = spawn_joined(async move {
        let world = guard.world.clone();
        world.tasks.borrow_mut()[number].begun += 1;
        for (at, &[step, argument]) in script.as_chunks().0.iter().enumerate() {
            let rest = script[2 * at + 2..].iter().copied().take(SCRIPT_MAX / 2);
            match step % 12 {
                5 if depth < DEPTH_MAX => start(&world, rest.collect(), depth + 1),
                10 if argument % 4 == 0 => {
                    world.panics.set(world.panics.get() + 1);
                    world.tasks.borrow_mut()[number].finished = true;
                    panic_as_planned();
                }
                step => take_step(&world, number, step, argument).await,
            }
        }
        world.tasks.borrow_mut()[number].finished = true;
        drop(guard);
        number
    });
    world.tasks.borrow_mut()[number].handle = Some(handle);
}

async fn take_step(world: &World, number: usize, step: u8, argument: u8) {
    let span_ms = u64::from(argument) * [1, 63, 64, 65, 4096][usize::from(step) % 5];
    let flag = &world.flags[usize::from(argument) % FLAGS];
    match step {
        0 => yield_now().await,
        1 | 2 => {
            let until_ms = now_ms() + span_ms;
            sleep_ms(span_ms).await;
            assert!(now_ms() >= until_ms, "woken early");
        }
        3 => {
            poll_fn(|context| {
                if flag.get() {
                    return Poll::Ready(());
                }
                world.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            })
            .await;
        }
        4 => flag.set(true),
        6 => world.abort(usize::from(argument) % TASKS_MAX),
        7 => wake_all(),
        8 => {
            let timer = Timer::new();
            let until_ms = now_ms() + 2 * u64::from(argument);
            timer.set(now_ms() + u64::from(argument));
            timer.set(until_ms);
            poll_fn(|context| timer.poll_expired(context)).await;
            assert!(now_ms() >= until_ms, "woken early");
        }
        9 => {
            let waiting = world.waiting.borrow().clone();
            waiting.iter().for_each(Waker::wake_by_ref);
        }
        _ => {
            let other = usize::from(argument) % TASKS_MAX;
            let take = |task: &mut Task| task.handle.take();
            let handle = world.tasks.borrow_mut().get_mut(other).and_then(take);
            if let Some(handle) = handle.filter(|_| other != number) {
                world.check_outcome(other, handle.await);
            }
        }
    }
}

struct Bench {
    executor: Executor,
    metrics: Arc<WorkerMetrics>,
    world: Rc<World>,
    now_ms: u64,
}

impl Bench {
    fn new(input: &mut Input<'_>) -> Self {
        let metrics = Arc::<WorkerMetrics>::default();
        let now_ms = 1000 + input.span();
        Self {
            executor: Executor::new(metrics.clone(), now_ms, Box::new(|| ())),
            metrics,
            world: Rc::default(),
            now_ms,
        }
    }

    /// Runs the ready tasks once. Returns whether tasks are ready again, and the time of the next
    /// timer in ms.
    fn turn(&self) -> (bool, Option<u64>) {
        let turn = self.executor.enter(|| self.executor.turn());
        let tasks = self.world.tasks.borrow();
        let live = tasks.iter().filter(|task| task.dropped == 0).count();
        assert_eq!(self.metrics.tasks_live.get(), live as u64);
        (turn.runnable, turn.next_ms)
    }

    fn advance(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.executor.enter(|| self.executor.advance(now_ms));
    }

    /// Wakes all tasks that wait for a flag: `within` the executor, or from outside, as another
    /// thread does.
    fn wake_waiting(&self, within: bool) {
        let waiting = self.world.waiting.take();
        let wake = || waiting.into_iter().for_each(Waker::wake);
        if within {
            self.executor.enter(wake);
        } else {
            wake();
        }
    }

    /// Sets every flag and advances the clock until no task is ready. The tasks that are left wait
    /// for each other.
    fn finish(&mut self) {
        for flag in &self.world.flags {
            flag.set(true);
        }
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "the tasks do not end");
            self.wake_waiting(true);
            self.advance(self.now_ms);
            let (runnable, next_ms) = self.turn();
            if runnable || !self.world.waiting.borrow().is_empty() {
                continue;
            }
            let Some(next_ms) = next_ms else { break };
            self.advance(next_ms.max(self.now_ms));
        }
        let count = self.world.tasks.borrow().len();
        for number in 0..count {
            let tasks = self.world.tasks.borrow();
            let is_open = tasks[number].dropped == 0;
            let is_within = tasks[number].begun == 1 && !tasks[number].finished;
            assert!(!is_open || is_within, "task {number} was not started");
            drop(tasks);
            self.poll_handle(number, is_open);
        }
    }

    fn poll_handle(&self, number: usize, may_wait: bool) {
        let handle = self.world.tasks.borrow_mut()[number].handle.take();
        let Some(mut handle) = handle else { return };
        let mut context = Context::from_waker(Waker::noop());
        let poll = || Pin::new(&mut handle).poll(&mut context);
        match self.executor.enter(poll) {
            Poll::Ready(outcome) => self.world.check_outcome(number, outcome),
            Poll::Pending => assert!(may_wait, "task {number} ended without an outcome"),
        }
    }

    /// Drops the executor. Then no task and no timer may be left, and every handle is ready.
    fn end(self) {
        let Self {
            executor,
            metrics,
            world,
            ..
        } = self;
        drop(executor);
        let mut handles = Vec::new();
        for (number, task) in world.tasks.borrow_mut().iter_mut().enumerate() {
            assert!(task.dropped == 1 && task.begun <= 1, "task {number}");
            handles.extend(task.handle.take());
        }
        assert_eq!(metrics.tasks_live.get(), 0);
        assert_eq!(metrics.timers_live.get(), 0);
        assert_eq!(metrics.task_panics.get(), world.panics.get());
        for mut handle in handles {
            let mut context = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut handle).poll(&mut context).is_ready());
        }
        // A waker that outlives its executor does nothing.
        world.waiting.take().into_iter().for_each(Waker::wake);
    }
}
