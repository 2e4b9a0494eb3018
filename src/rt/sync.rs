//! The types for shared and thread-local state: those of std, or those of loom when a `model.rs`
//! explores how threads can interleave.

#[cfg(all(test, loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic::AtomicBool};

#[cfg(not(all(test, loom)))]
pub(crate) use std::{
    sync::{Mutex, MutexGuard, atomic::AtomicBool},
    thread_local as per_thread,
};

/// Like std's `thread_local!`. The macro of loom accepts no `const` block.
#[cfg(all(test, loom))]
macro_rules! per_thread {
    ($(#[$doc:meta])* static $name:ident: $type:ty = const $init:block;) => {
        loom::thread_local! { $(#[$doc])* static $name: $type = $init; }
    };
}
#[cfg(all(test, loom))]
pub(super) use per_thread;
