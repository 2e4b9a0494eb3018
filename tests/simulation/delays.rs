//! Something holds the workers up at any time: they are stopped between two steps, or a call of the
//! service blocks. No client that sends in time is cut for it.

use coring::sim::{Faults, Mutant, Random};

use crate::client::Manner;
use crate::life::{Setting, live_in};
use crate::turns::{Bench, Caller};

/// The cures that show here and in no other life.
pub(crate) const CURES: &[Mutant] = &[Mutant::JudgeUnheard, Mutant::CountDelays];

/// Lives that must hold.
const SEEDS: u64 = 300;
/// Clients that send in time.
const IN_TIME: &[Manner] = &[
    Manner::Patient,
    Manner::Patient,
    Manner::Pipelining,
    Manner::Pipelining,
    Manner::HalfClosing,
    Manner::Resetting,
    Manner::Overlong,
    Manner::Flooding,
];

/// Clients that a worker finds at once after a delay: more than one call tells it of.
const WAITING: usize = 60;
/// Longer than any deadline, in ms.
const DELAY_MS: u64 = 100_000;
/// Bytes on their way to a client that a window allows.
const WINDOW_MIN: usize = 16 << 10;
/// Nearly as long as a connection may be idle, in ms.
const IDLE_MS: u64 = 74_000;

/// Clients that had been idle have sent their next request while their worker was stopped. All of
/// them are answered.
fn all_who_wait_are_answered(seed: u64) -> Result<(), String> {
    let mut bench = Bench::new(seed, Faults::none());
    let mut callers: Vec<Caller> = (0..WAITING).map(|_| bench.connect()).collect();
    for _ in 0..3 {
        callers.iter().for_each(|caller| caller.ask("/"));
        for caller in &mut callers {
            bench.answer(caller)?;
        }
        bench.pass(IDLE_MS)?;
        bench.hold_up(DELAY_MS);
    }
    drop(callers);
    bench.end()
}

/// Lives the life of `seed`. In this kernel no completion is late: what a client has sent can be
/// received at once. Nor is any window so small that many clients who take turns after a delay,
/// without time passing, look like a spin.
///
/// # Errors
/// What did not hold.
pub(crate) fn look(seed: u64) -> Result<(), String> {
    all_who_wait_are_answered(seed)?;
    let mut random = Random::new(seed);
    let faults = Faults::random(&mut random);
    let setting = Setting {
        faults: Faults {
            delay: 0,
            window_max: faults.window_max.max(WINDOW_MIN),
            ..faults
        },
        manners: IN_TIME,
        may_stop: true,
        holds_up: true,
    };
    live_in(&setting, random, false).map(drop)
}

#[test]
fn clients_are_not_cut_for_a_delay_of_their_worker() {
    for seed in 0..SEEDS {
        look(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}
