//! The executor: tasks, wakers, timers. It knows no file descriptor.
//!
//! A worker's tasks are coroutines that never leave its thread. What wakes them is a completion
//! (the engine's business), a timer, another task, or another thread through the [`Inbox`]; the
//! thread's sleep and the way to end it belong to the engine.

mod drain;
mod event;
mod executor;
mod foreign;
mod inbox;
mod join;
#[cfg(all(test, loom))]
mod model;
mod sync;
mod task;
mod timer;
mod waker;
mod wheel;

pub use drain::{DrainHold, begin_drain, drain_released, draining, hold_drain};
pub use event::{Event, Occurrence};
pub use executor::{Executor, Turn};
pub use foreign::{contain, discard, drop_waker, wake};
pub use join::{JoinError, JoinHandle, outcome_of, spawn_joined};
pub use task::{
    is_within_worker, now_ms, peer_after_ms, peer_now_ms, spawn_detached, wake_all, yield_now,
};
pub use timer::{Elapsed, Timeout, Timer, sleep_ms, sleep_until};
pub use waker::note_waker;
#[cfg(feature = "sim")]
pub use wheel::Wheel;
