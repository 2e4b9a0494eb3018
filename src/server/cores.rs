//! How many workers, and where they run.

use std::fmt;
use std::thread::available_parallelism;

use core_affinity::CoreId;
use rustix::thread::{sched_getaffinity, sched_setaffinity};

/// Whether each worker is tied to a core of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Pin {
    /// When the workers are as many as the cores that this process may use: then nobody else is
    /// expected to share them.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never: the kernel moves them as it likes.
    Never,
}

/// The cores a server runs on, and why these.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Cores {
    /// How many workers there are.
    pub count: usize,
    /// What decided on the number.
    pub why: String,
    /// Whether each worker is tied to a core.
    pub pinned: bool,
    /// Whether it should be, but may not.
    forbidden: bool,
    /// The cores of the affinity mask.
    mask: Vec<CoreId>,
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pinned = match (self.pinned, self.forbidden) {
            (true, _) => "pinned",
            (_, false) => "not pinned",
            (_, true) => {
                "not pinned (sched_setaffinity is refused: allow it in the seccomp profile)"
            }
        };
        write!(f, "{} ({}), {pinned}", self.count, self.why)
    }
}

impl Cores {
    /// The fewest of: cores in the affinity mask, the CPU quota of the control group (rounded
    /// down, at least one), and `wanted` (0: no wish).
    pub(crate) fn choose(wanted: usize, pin: Pin) -> Self {
        let mask = core_affinity::get_core_ids().unwrap_or_default();
        let in_mask = mask.len().max(1);
        // The standard library looks at the mask and at the control groups, both versions.
        let allowed = available_parallelism().map_or(1, usize::from).min(in_mask);
        let (count, why) = if wanted > 0 && wanted < allowed {
            (wanted, format!("as asked for, of {allowed} allowed"))
        } else if allowed < in_mask {
            (
                allowed,
                format!("the CPU quota, of {in_mask} in the affinity mask"),
            )
        } else {
            (allowed, "all of the affinity mask".to_owned())
        };
        let should_pin = match pin {
            Pin::Always => !mask.is_empty(),
            Pin::Never => false,
            Pin::Auto => count == mask.len(),
        };
        let pinned = should_pin && may_pin();
        Self {
            count,
            why,
            pinned,
            forbidden: should_pin && !pinned,
            mask,
        }
    }

    /// Ties the calling thread, worker number `worker`, to its core.
    pub(super) fn pin(&self, worker: usize) {
        if self.pinned
            && let Some(core) = self.mask.get(worker % self.mask.len())
        {
            core_affinity::set_for_current(*core);
        }
    }
}

/// Whether a thread may be tied to cores: found by tying this one to those that it has.
fn may_pin() -> bool {
    sched_getaffinity(None)
        .and_then(|mask| sched_setaffinity(None, &mask))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_core_is_always_to_be_had() {
        let one = Cores::choose(1, Pin::Never);
        assert_eq!((one.count, one.pinned), (1, false));
        let all = Cores::choose(0, Pin::Always);
        assert!(all.count >= 1 && all.pinned);
        assert_eq!(Cores::choose(usize::MAX, Pin::Auto).count, all.count);
    }
}
