//! The identity of a run: one call of `coring::run`, or the life of one worker of a server.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

/// The number of a run, unique in the process. A handle may outlive its run: a program can keep a
/// socket from one `coring::run` and use it in the next, where operation ids start again from zero.
/// So each handle stores its run, and panics when it is used in another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run(NonZeroU32);

impl Run {
    pub(super) fn new() -> Self {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let next = |runs: u32| runs.checked_add(1);
        let runs = RUNS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let number = runs.ok().and_then(|runs| NonZeroU32::new(runs + 1));
        Self(number.expect("fewer than 2^32 runs in one process"))
    }
}
