//! What threads share and what each has of its own: std's, or loom's where `model.rs` explores
//! every way in which threads can meet.

#[cfg(all(test, loom))]
pub(super) use loom::sync::{Mutex, atomic::AtomicBool};

#[cfg(not(all(test, loom)))]
pub(super) use std::{
    sync::{Mutex, atomic::AtomicBool},
    thread_local as per_thread,
};

/// As std's `thread_local!`; loom's own takes no `const`.
#[cfg(all(test, loom))]
macro_rules! per_thread {
    ($(#[$doc:meta])* static $name:ident: $type:ty = const $init:block;) => {
        loom::thread_local! { $(#[$doc])* static $name: $type = $init; }
    };
}
#[cfg(all(test, loom))]
pub(super) use per_thread;
