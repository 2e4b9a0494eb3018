//! The only ways to ask the kernel for something: operations on io_uring, and the same operations
//! on epoll.
//!
//! A worker is an engine and an executor on one thread; its loop is in `worker.rs`. A coroutine
//! waits for the kernel through a handle (accept, connect, receive, send, poll). A handle holds the
//! id of an operation. Dropping the handle leaves the operation to the engine, together with all
//! memory and descriptors that the kernel may still use. No code above `net` knows which engine
//! runs.

mod blocking;
mod clock;
mod current;
mod descriptor;
mod epoll;
mod guest;
mod handle;
mod message;
mod op;
mod select;
pub mod signals;
mod uring;
mod worker;

pub use blocking::{Blocking, blocking};
pub use clock::monotonic_ms;
pub use current::pool;
pub use descriptor::{Descriptor, WeakDescriptor};
pub use guest::{Guest, HostedWorker, Turned};
pub use handle::{Accepting, Connecting, Polling, Receiving, Sending};
pub use message::{MessageReceiver, MessageSender};
pub use op::{DESCRIPTORS_MAX, Events, Interest, Message, Peer, Sent, Then, accept};
pub use select::{EngineChoice, Refused, Selected};
pub use worker::Worker;

/// For the simulation: the items that a simulated kernel replaces, and a worker's loop, which tests
/// run turn by turn.
#[cfg(feature = "sim")]
pub(crate) use {
    uring::{Cqe, KernelRing, Sqe, ignore_transient},
    worker::RunningWorker,
};
