//! The number of workers, and the cores that they run on.

use std::fmt;
use std::thread::available_parallelism;

use core_affinity::CoreId;
use rustix::thread::{sched_getaffinity, sched_setaffinity};

/// Whether each worker is pinned to a core of its own (sched_setaffinity(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Pin {
    /// Pinned if there is a worker for each core of the affinity mask. No other process is then
    /// expected to use these cores.
    #[default]
    Auto,
    /// Always pinned.
    Always,
    /// Never pinned: the kernel moves workers between the cores.
    Never,
}

/// The number of workers of a server, and how it was chosen.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Cores {
    /// The number of workers.
    pub count: usize,
    /// The reason for this number, in words.
    pub why: String,
    /// Whether each worker is pinned to a core.
    pub pinned: bool,
    /// Pinning was wanted, but sched_setaffinity(2) is refused.
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
    /// Chooses the number of workers: the smallest of the cores in the affinity mask, the CPU quota
    /// of the control group (rounded down, at least one), and `wanted` unless that is 0.
    pub(crate) fn choose(wanted: usize, pin: Pin) -> Self {
        let mask = core_affinity::get_core_ids().unwrap_or_default();
        let in_mask = mask.len().max(1);
        // The standard library considers the affinity mask and the CPU quotas of cgroups v1 and v2.
        let allowed = available_parallelism().map_or(1, usize::from).min(in_mask);
        let (count, why) = if wanted > 0 && wanted < allowed {
            (wanted, format!("requested, of {allowed} allowed"))
        } else if allowed < in_mask {
            (
                allowed,
                format!("the CPU quota, of {in_mask} in the affinity mask"),
            )
        } else {
            (allowed, "the whole affinity mask".to_owned())
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

    /// The threads of a program that has its own executor: `count` of them.
    pub(crate) fn attached(count: usize) -> Self {
        Self {
            count,
            why: "threads of the program".to_owned(),
            pinned: false,
            forbidden: false,
            mask: Vec::new(),
        }
    }

    /// The numbers of the cores in the affinity mask.
    #[cfg(feature = "glommio")]
    pub(crate) fn numbers(&self) -> impl Iterator<Item = usize> {
        self.mask.iter().map(|core| core.id)
    }

    /// Pins the calling thread, which is worker number `worker`, to its core.
    pub(crate) fn pin(&self, worker: usize) {
        if self.pinned
            && let Some(core) = self.mask.get(worker % self.mask.len())
        {
            core_affinity::set_for_current(*core);
        }
    }
}

/// Whether a thread may be pinned. Tries it: sets this thread's affinity to the mask that it has.
fn may_pin() -> bool {
    sched_getaffinity(None)
        .and_then(|mask| sched_setaffinity(None, &mask))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_at_least_one_core() {
        let one = Cores::choose(1, Pin::Never);
        assert_eq!((one.count, one.pinned), (1, false));
        let all = Cores::choose(0, Pin::Always);
        assert!(all.count >= 1 && all.pinned);
        assert_eq!(Cores::choose(usize::MAX, Pin::Auto).count, all.count);
    }
}
