//! Listeners and streams as coroutines see them. Nobody above knows which engine runs.

mod address;
mod bind;
mod listener;
mod stream;

pub use address::Address;
pub use bind::{Bound, SocketFile, bind};
pub use listener::Listener;
pub use stream::Stream;

pub use crate::engine::{Interest, Sent};
