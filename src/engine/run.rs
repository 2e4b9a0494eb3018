//! What tells the runs of one process apart.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

/// The number of one worker's run; no other run has it. A handle may outlive its run: a program
/// carries a socket from one `coring::run` into the next, where the names of operations begin anew.
/// So each handle knows its run, and is of no use in another one.
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
