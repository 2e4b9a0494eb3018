//! Workers are delayed at random: they are suspended between two steps, or a call of the service
//! blocks. Such a delay must not count against a client that sends in time.

use coring::sim::{Faults, Mutant, Random};

use crate::client::Behaviour;
use crate::run::{Setting, run_with};
use crate::turns::{Bench, TestClient};

/// The planted faults that only these tests detect.
pub(crate) const MUTANTS: &[Mutant] = &[Mutant::EnforceEarly, Mutant::CountDelays];

const SEEDS: u64 = 300;
/// The clients that send in time.
const IN_TIME: &[Behaviour] = &[
    Behaviour::Patient,
    Behaviour::Patient,
    Behaviour::Pipelining,
    Behaviour::Pipelining,
    Behaviour::HalfClosing,
    Behaviour::Resetting,
    Behaviour::Overlong,
    Behaviour::Flooding,
];

/// The number of clients that have sent something after a delay: more than the completions that the
/// worker gets from one call.
const WAITING: usize = 60;
/// Longer than any deadline, in ms.
const DELAY_MS: u64 = 100_000;
/// The least window of a client, in bytes.
const WINDOW_MIN: usize = 16 << 10;
/// A little less than the idle timeout, in ms.
const IDLE_MS: u64 = 74_000;

/// Idle clients send their next request while their worker is suspended for longer than the idle
/// timeout. Each client must get its response.
fn requests_sent_before_a_delay_are_answered(seed: u64) -> Result<(), String> {
    let mut bench = Bench::new(seed, Faults::none());
    let mut clients: Vec<TestClient> = (0..WAITING).map(|_| bench.connect()).collect();
    for _ in 0..3 {
        clients.iter().for_each(|client| client.send_get("/"));
        for client in &mut clients {
            bench.wait_for_response(client)?;
        }
        bench.pass(IDLE_MS)?;
        bench.delay_worker(DELAY_MS);
    }
    drop(clients);
    bench.end()
}

/// Runs both checks with one seed. In the second one completions are never late, because a client
/// that sent in time would otherwise be received too late. The windows are not tiny, because many
/// steps without time passing, as clients make them after a delay, would count as a busy loop.
///
/// # Errors
/// If a check fails; the text says how.
pub(crate) fn check(seed: u64) -> Result<(), String> {
    requests_sent_before_a_delay_are_answered(seed)?;
    let mut random = Random::new(seed);
    let faults = Faults::random(&mut random);
    let setting = Setting {
        faults: Faults {
            delay: 0,
            window_max: faults.window_max.max(WINDOW_MIN),
            ..faults
        },
        behaviours: IN_TIME,
        may_stop: true,
        delays_worker: true,
        guests: seed % 2 == 1,
    };
    run_with(&setting, random, false).map(drop)
}

#[test]
fn clients_are_not_closed_for_a_delay_of_their_worker() {
    for seed in 0..SEEDS {
        check(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}
