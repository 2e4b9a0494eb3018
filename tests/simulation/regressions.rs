//! Lives that have found something: each seed once failed for the reason beside it. A change of
//! what a life draws from its seed changes these lives, so each fault has a test of its own, too.

use coring::sim::{Faults, Random};

use crate::client::Manner;
use crate::life::{Setting, live, live_in};

/// Seeds, and what each of them found.
const SEEDS: &[(u64, &str)] = &[
    (24_856, SLOW_TRANSFER),
    (27_444, SLOW_TRANSFER),
    (40_051, SLOW_TRANSFER),
    (40_627, SLOW_TRANSFER),
    (83_887, SLOW_TRANSFER),
    (38_923, ASLEEP),
    (59_982, ASLEEP),
    (97_612, ASLEEP),
    (102_529, ASLEEP),
    (103_907, ASLEEP),
    (116_666, ASLEEP),
    (118_742, ASLEEP),
    (88_079, UNTOLD),
    (88_923, UNTOLD),
    (19_069, OVERFLOWING),
];

const UNTOLD: &str =
    "a request's own body counted as another request, so no client was told of a drain";
const ASLEEP: &str = "a worker slept while data waited in a socket and buffers were free";
const OVERFLOWING: &str =
    "polls that were armed again ended one another in a full completion queue for ever";
const SLOW_TRANSFER: &str = "a transfer that the end of a drain cut off was taken for a stuck one";

#[test]
fn seeds_that_found_something_hold() {
    for &(seed, reason) in SEEDS {
        if let Err(what) = live(seed, false) {
            panic!("seed {seed}: {what}\n    it once found: {reason}");
        }
    }
}

/// Clients that have sent everything, over a network so slow that a drain's end cuts them off
/// while the server still receives.
#[test]
fn a_slow_transfer_may_be_cut_off_by_the_end_of_a_drain() {
    let setting = Setting {
        faults: Faults {
            delay: 700,
            delay_ms_max: 60,
            short: 300,
            window_max: 512,
            ..Faults::none()
        },
        manners: &[Manner::Flooding],
        may_stop: false,
        holds_up: false,
    };
    for seed in 0..10 {
        let lived = live_in(&setting, Random::new(seed), false);
        assert!(lived.is_ok(), "seed {seed}: {lived:?}");
    }
}
