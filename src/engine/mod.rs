//! The closed set of ways to ask the kernel.
//!
//! A worker is an [`Engine`] and an executor on one thread: [`run`] drives both in turns. What a
//! coroutine may wait for in the kernel are the handles below (accept, receive, send); each holds
//! the name of an operation, and dropping it leaves the operation to the engine, with everything
//! that the kernel may still use. Nothing above `net` knows which engine runs.

mod descriptor;
mod op;
mod uring;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

pub use descriptor::Descriptor;
pub use op::{Interest, Sent};
use rustix::event::EventfdFlags;
use rustix::time::{ClockId, clock_gettime};

use crate::buf::{Chunk, Outgoing, Pool};
use crate::metrics::WorkerMetrics;
use crate::rt::{Executor, Turn};
use op::OpId;
use uring::{Refusal, Uring};

/// Which engine is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
}

/// An engine that was found to work on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selected {
    rung: &'static str,
}

impl fmt::Display for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring (rung {}: probed, works)", self.rung)
    }
}

/// Why no engine works here: one line with the cause and the cure.
#[derive(Debug)]
pub struct Refused(Refusal);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring is refused: {}", self.0)
    }
}

/// Finds an engine by trying it out, not by the kernel's version.
///
/// # Errors
/// When none works, with the reason.
///
/// # Panics
/// When the trial does.
pub fn select(choice: EngineChoice) -> Result<Selected, Refused> {
    // A ring takes its leave of the thread that made it with a signal, some time after it was
    // closed; the caller's next system call would fail with EINTR. So the trial has its own.
    let trial = || match choice {
        EngineChoice::Auto | EngineChoice::Uring => uring::preflight()
            .map(|rung| Selected { rung })
            .map_err(Refused),
    };
    let tried = std::thread::scope(|scope| scope.spawn(trial).join());
    tried.expect("a trial does not panic")
}

/// One worker's way to the kernel.
#[derive(Debug)]
pub enum Engine {
    /// Completions from a ring.
    Uring(Box<UringEngine>),
}

/// The ring, and what of it must go last.
#[derive(Debug)]
pub struct UringEngine(std::mem::ManuallyDrop<Uring>);

impl Drop for UringEngine {
    fn drop(&mut self) {
        if self.0.finish() {
            // SAFETY: dropped once, here; the kernel is done with everything it was given.
            unsafe { std::mem::ManuallyDrop::drop(&mut self.0) };
        }
        // Otherwise the memory is leaked: the kernel may still write to it.
    }
}

/// A worker: what its thread needs to run coroutines.
#[derive(Debug)]
pub struct Worker {
    engine: Engine,
    executor: Executor,
}

thread_local! {
    /// The engine of the worker that runs on this thread, while it runs.
    static CURRENT: Cell<*const Engine> = const { Cell::new(std::ptr::null()) };
}

impl Worker {
    /// A worker on this thread, and on no other. Receiving may use `blocks_max` blocks of memory.
    ///
    /// # Errors
    /// When the engine found by [`select`] cannot be made once more for this worker.
    pub fn new(blocks_max: usize, metrics: &Arc<WorkerMetrics>) -> Result<Self, Refused> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)
            .map_err(|errno| Refused(Refusal::new("eventfd")(errno.into())))?;
        let wake = Arc::new(wake);
        let unpark = wake.clone();
        let executor = Executor::new(
            metrics.clone(),
            monotonic_ms(),
            Box::new(move || {
                // The counter can only be full when the worker has not slept for 2^64 wake-ups.
                let _ = rustix::io::write(unpark.as_fd(), &1_u64.to_ne_bytes());
            }),
        );
        let uring = Uring::new(Pool::new(), blocks_max, wake, metrics.clone()).map_err(Refused)?;
        let uring = UringEngine(std::mem::ManuallyDrop::new(uring));
        Ok(Self {
            engine: Engine::Uring(Box::new(uring)),
            executor,
        })
    }

    /// Runs coroutines until `main` is done; then drops those that are left, and returns when the
    /// kernel has nothing of this worker's any more.
    ///
    /// # Errors
    /// When the engine fails.
    ///
    /// # Panics
    /// When `main` does.
    pub fn run<T: 'static>(self, main: impl Future<Output = T> + 'static) -> io::Result<T> {
        let Self { engine, executor } = self;
        let outcome = executor.enter(|| {
            let _restore = Restore(CURRENT.replace(&raw const engine));
            let outcome = turns(&engine, &executor, main);
            executor.clear();
            outcome
        });
        drop(engine);
        outcome
    }
}

/// Puts the former current engine back.
struct Restore(*const Engine);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// The loop: wake whom time and other threads wake, run what can run, visit the kernel.
fn turns<T: 'static>(
    engine: &Engine,
    executor: &Executor,
    main: impl Future<Output = T> + 'static,
) -> io::Result<T> {
    let output = Rc::new(RefCell::new(None));
    let put = output.clone();
    let running = Rc::new(());
    let alive = Rc::downgrade(&running);
    executor.spawn(async move {
        let _running = running;
        *put.borrow_mut() = Some(main.await);
    });
    loop {
        executor.advance(monotonic_ms());
        let turn = executor.turn();
        if let Some(output) = output.take() {
            return Ok(output);
        }
        assert!(
            alive.strong_count() > 0,
            "the worker's main coroutine panicked"
        );
        visit(engine, executor, turn)?;
    }
}

/// Visits the kernel, and sleeps there if nothing can run before something completes.
fn visit(engine: &Engine, executor: &Executor, turn: Turn) -> io::Result<()> {
    let inbox = executor.inbox();
    let Engine::Uring(uring) = engine;
    if turn.runnable || !inbox.prepare_sleep() {
        return uring.0.visit(None);
    }
    let sleep = turn
        .next_ms
        .map(|next_ms| Duration::from_millis(next_ms.saturating_sub(monotonic_ms())));
    let visited = uring.0.visit(Some(sleep));
    inbox.awake();
    visited
}

/// A multishot accept on one listener; dropping it ends it.
#[derive(Debug)]
pub struct Accepting(OpId);

impl Accepting {
    /// Starts to accept when first polled.
    pub fn new(listener: Descriptor) -> Self {
        Self(with_current(|uring| uring.start_accept(listener)))
    }

    /// The next connection; none once it was stopped and everything accepted is handed out.
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<Option<io::Result<OwnedFd>>> {
        with_current(|uring| uring.poll_accept(self.0, context))
    }

    /// Accepts no more.
    pub fn stop(&self) {
        with_current(|uring| uring.stop_accept(self.0));
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        try_with_current(|uring| uring.orphan(self.0));
    }
}

/// A multishot receive on one socket; dropping it ends it.
#[derive(Debug)]
pub struct Receiving(OpId);

impl Receiving {
    /// Starts to receive when first polled.
    pub fn new(socket: Descriptor) -> Self {
        Self(with_current(|uring| uring.start_recv(socket)))
    }

    /// The next piece; none when the peer will send no more.
    #[inline]
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        with_current(|uring| uring.poll_recv(self.0, context))
    }

    /// Ready when the connection broke, without taking anything of what was received.
    pub fn poll_broken(&self, context: &Context<'_>) -> Poll<io::Error> {
        with_current(|uring| uring.poll_broken(self.0, context))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        try_with_current(|uring| uring.orphan(self.0));
    }
}

/// One send; dropping it cancels it, and what was given away stays the engine's until then.
#[derive(Debug)]
pub struct Sending(OpId);

impl Sending {
    /// Gives `outgoing` to the kernel.
    #[inline]
    pub fn new(socket: Descriptor, outgoing: Outgoing) -> Self {
        Self(with_current(|uring| uring.start_send(socket, outgoing)))
    }

    /// How it ended. To be polled until ready, and not after; what the caller wants to be woken
    /// for is its `interest`.
    #[inline]
    pub fn poll_end(&self, context: &Context<'_>, interest: Interest) -> Poll<Sent> {
        with_current(|uring| uring.poll_send(self.0, context, interest))
    }

    /// Asks the kernel to stop; `poll_end` then tells how far it came.
    pub fn cancel(&self) {
        with_current(|uring| uring.cancel(self.0));
    }
}

impl Drop for Sending {
    #[inline]
    fn drop(&mut self) {
        try_with_current(|uring| uring.orphan(self.0));
    }
}

/// The current worker's memory.
///
/// # Panics
/// Outside a worker.
#[inline]
pub fn pool() -> Pool {
    with_current(|uring| uring.pool().clone())
}

/// Closes a descriptor with the worker's next batch; at once outside a worker.
fn close(fd: OwnedFd) {
    let mut fd = Some(fd);
    try_with_current(|uring| fd.take().into_iter().for_each(|fd| uring.close(fd)));
}

#[inline]
fn with_current<R>(body: impl FnOnce(&Uring) -> R) -> R {
    try_with_current(body).expect("this needs a worker: call it from a coroutine")
}

#[inline]
fn try_with_current<R>(body: impl FnOnce(&Uring) -> R) -> Option<R> {
    let current = CURRENT.get();
    if current.is_null() {
        return None;
    }
    // SAFETY: `Worker::run` sets the pointer to an engine that outlives the loop, and puts the
    // former value back before the engine goes.
    let Engine::Uring(uring) = unsafe { &*current };
    Some(body(&uring.0))
}

/// The monotonic clock, in ms.
fn monotonic_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1000 + nanoseconds / 1_000_000
}
