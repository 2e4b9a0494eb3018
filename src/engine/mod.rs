//! The closed set of ways to ask the kernel.
//!
//! A worker is an engine and an executor on one thread: `worker.rs` has the loop that drives both
//! in turns. What a coroutine may wait for in the kernel are the handles (accept, receive, send);
//! each holds the name of an operation, and dropping it leaves the operation to the engine, with
//! everything that the kernel may still use. Nothing above `net` knows which engine runs.

mod blocking;
mod clock;
mod current;
mod descriptor;
mod epoll;
mod handle;
mod message;
mod op;
mod run;
mod select;
mod uring;
mod worker;

pub use blocking::{Blocking, blocking};
pub use clock::monotonic_ms;
pub use current::pool;
pub use descriptor::{Descriptor, WeakDescriptor};
pub use handle::{Accepting, Connecting, Polling, Receiving, Sending};
pub use message::{MessageReceiver, MessageSender};
pub use op::{DESCRIPTORS_MAX, Events, Interest, Message, Peer, Sent, Then, accept};
pub use select::{EngineChoice, Refused, Selected};
pub use worker::Worker;

/// What a simulated kernel takes the place of, and what turns a worker's loop by hand.
#[cfg(feature = "sim")]
pub(crate) use {
    uring::{Cqe, KernelRing, Sqe, forgive},
    worker::Running,
};
