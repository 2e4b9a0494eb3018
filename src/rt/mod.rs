//! The executor: tasks, wakers, timers. It uses no file descriptors.
//!
//! A task is a spawned coroutine, and never leaves its worker's thread. A task is woken by a
//! completion (from the engine), by a timer, by another task, or by another thread through the
//! `RemoteWakeQueue`. The engine puts the thread to sleep and ends that sleep.

mod drain;
mod event;
mod executor;
mod foreign;
mod host;
mod join;
mod join_all;
#[cfg(all(test, loom))]
pub(crate) mod model;
mod opaque;
mod outcome;
mod run;
mod sync;
mod task;
mod timer;
mod vacant;
mod wake_queue;
mod waker;
mod wheel;

pub use drain::{DrainHold, begin_drain, drain_released, draining, hold_drain};
pub use event::{Event, EventWait};
pub use executor::{Executor, Turn};
#[cfg(test)]
pub use foreign::calling_waker;
pub use foreign::{catch_panic, drop_panic_payload, drop_waker, wake, wake_next};
pub use host::HostWaker;
pub use join::{AbortHandle, JoinError, JoinHandle, catch_outcome, spawn_joined};
pub use join_all::JoinAll;
pub(crate) use opaque::opaque;
pub use outcome::{Outcome, OutcomeSetter, outcome};
pub use run::Run;
pub(crate) use sync::Mutex;
pub use task::{
    either, is_within_worker, now_ms, peer_after_ms, peer_now_ms, random_below, remote,
    spawn_detached, wake_all, yield_now,
};
pub use timer::{Elapsed, Timeout, Timer, ceil_ms, sleep_ms, sleep_until};
pub use wake_queue::RemoteWorker;
pub use waker::ClonedWaker;
#[cfg(feature = "sim")]
pub use wheel::Wheel;
