//! Known pitfalls of an `io_uring` server. Each test here runs the server on a kernel in which the
//! pitfall is frequent: every run must pass. Then the remedy is disabled by a planted fault, and
//! one of the runs must fail.
//!
//! The name of each test contains the number of its pitfall, in every suite: `cargo test
//! pitfall_17` finds it. The tests here and in `turns` are simulations, the others use the real
//! kernel.
//!
//! | number | pitfall | where |
//! |---|---|---|
//! | 1 | a late completion acts on a slot that is in use again | here |
//! | 2 | close before cancel: no FIN, a leaked socket | here |
//! | 3 | a receive is re-armed at the end of the stream | here |
//! | 4 | no buffers: a busy loop, or a connection that stalls | here, `crowd` |
//! | 5 | the last completion of a multishot brings data, which is lost | here |
//! | 6 | no descriptors: a busy loop of accepts | here, `integration/resources` |
//! | 7 | a full direct-descriptor table | cannot: no direct descriptors are used |
//! | 8 | a short send is taken for a complete one | here |
//! | 9 | two concurrent sends interleave | here |
//! | 10 | a zero-copy buffer is reused too soon | cannot: no zero-copy send is used |
//! | 11 | EINTR, EAGAIN or EBUSY ends a worker | here |
//! | 12 | memory is freed although a submission failed | here |
//! | 13 | memory is freed with a dropped future | here |
//! | 14 | an accept cancelled at shutdown leaks descriptors | here |
//! | 15 | connections are lost when the listener closes | here, `integration/graceful_shutdown` |
//! | 16 | memory is freed before the ring is closed | here |
//! | 17 | the kernel releases locked memory late | `integration/startup` |
//! | 18 | completions are not reaped while tasks are busy | `turns`, `integration/embedding` |
//! | 19 | some connections starve beside others | `turns` |
//! | 20 | lost wake-ups | here, and among real threads in `rt` |
//! | 21 | bytes for a slow service are stored without bound | here, `integration/embedding` |
//! | 22 | a reset discards an error response | here, `integration/malformed_requests` |
//! | 23 | sends block threads of the kernel's io-wq pool | `integration/resources` |
//! | 24 | a send on an `O_NONBLOCK` socket is retried in a busy loop | `integration/resources` |
//! | 25 | a ring is created on another thread | `integration/embedding` |
//! | 26 | a ring is entered without its registered descriptor | `integration/startup` |
//! | 27 | `io_uring` is forbidden | `integration/startup` |
//! | 28 | a buffer is returned twice, or never | here |
//! | 29 | one worker gets all connections | `integration/resources` |
//! | 30 | every byte extends a deadline | here, `integration/limits` |
//! | 32 | a drain loses requests | here, `integration/graceful_shutdown` |
//! | 33 | a response follows one with `Connection: close` | here |
//! | 34 | slow request heads occupy the provided buffers | here, `integration/resources` |
//! | 35 | counters wrap around | here: rings start shortly before the wrap |

use std::fs;
use std::path::Path;

use coring::sim::{Faults, Mutant, Random, with_mutant};

use crate::client::Behaviour;
use crate::run::{Setting, run_with};

/// Runs that must pass.
const SEEDS: u64 = 25;
/// One of this many runs must detect a disabled remedy.
const SEEDS_MAX: u64 = 1000;

/// `Faults` with the given fields; the others as in a kernel without faults.
macro_rules! faults {
    ($($name:ident: $value:expr),* $(,)?) => {
        Faults { $($name: $value,)* ..Faults::none() }
    };
}

/// Asserts that every run with these faults and clients passes, and that for each of `mutants` one
/// of the runs fails.
#[track_caller]
fn pitfall(faults: Faults, behaviours: &'static [Behaviour], mutants: &[Mutant]) {
    let run = |seed| {
        let setting = Setting {
            faults: faults.clone(),
            behaviours,
            may_stop: true,
            delays_worker: false,
            guests: seed % 2 == 1,
        };
        run_with(&setting, Random::new(seed), false).map(drop)
    };
    for seed in 0..SEEDS {
        run(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
    for &mutant in mutants {
        let detected = with_mutant(mutant, || (0..SEEDS_MAX).any(|seed| run(seed).is_err()));
        assert!(detected, "{mutant:?} is not detected");
    }
}

#[test]
fn pitfall_01_late_completion() {
    let faults = faults!(delay: 500, delay_ms_max: 40, already: 500, window_max: 600);
    pitfall(
        faults,
        Behaviour::ALL,
        &[Mutant::IgnoreGeneration, Mutant::CancelIsFinal],
    );
}

#[test]
fn pitfall_02_close_before_cancel() {
    let faults = faults!(delay: 500, delay_ms_max: 40);
    pitfall(
        faults,
        Behaviour::ALL,
        &[Mutant::CloseBeforeFinal, Mutant::ForgetCancel],
    );
}

#[test]
fn pitfall_03_rearm_at_the_end() {
    pitfall(
        Faults::none(),
        &[Behaviour::HalfClosing],
        &[Mutant::RearmOnEof],
    );
}

#[test]
fn pitfall_04_no_buffers() {
    let faults = faults!(buffers: 2, short: 300);
    pitfall(faults, Behaviour::ALL, &[Mutant::ForgetQueued]);
}

#[test]
fn pitfall_05_final_completion_with_data() {
    let faults = faults!(completions: 2, lose_more: 100);
    pitfall(
        faults,
        Behaviour::ALL,
        &[Mutant::DropLastData, Mutant::MissLostMore],
    );
}

#[test]
fn pitfall_06_no_descriptors() {
    let faults = faults!(exhausted: 980);
    pitfall(faults, &[Behaviour::Patient], &[Mutant::SpinOnExhausted]);
}

#[test]
fn pitfall_08_short_send() {
    let faults = faults!(short: 700, window_max: 2048);
    let mutants = [Mutant::ShortSendIsWhole, Mutant::AskForRoomAgain];
    pitfall(faults, Behaviour::ALL, &mutants);
    let faults = faults!(window_max: 2048);
    pitfall(faults, &[Behaviour::Pausing], &[Mutant::PutBackLast]);
    let faults = faults!(fatal: 10, window_max: 2048);
    pitfall(faults, Behaviour::ALL, &[Mutant::ForgetSendError]);
}

#[test]
fn pitfall_09_two_sends_at_once() {
    let faults = faults!(delay: 500, delay_ms_max: 40, window_max: 512);
    pitfall(faults, &[Behaviour::Pipelining], &[Mutant::SecondSend]);
}

#[test]
fn pitfall_11_enter_fails() {
    pitfall(faults!(enter: 500), Behaviour::ALL, &[Mutant::FatalSignal]);
}

#[test]
fn pitfall_12_memory_freed_when_a_submission_failed() {
    let faults = faults!(enter: 700, submissions: 2, delay: 300, delay_ms_max: 20, window_max: 600);
    pitfall(faults, Behaviour::ALL, &[Mutant::FreeOrphan]);
}

#[test]
fn pitfall_13_memory_freed_with_a_dropped_future() {
    let faults = faults!(delay: 500, delay_ms_max: 60, already: 500, window_max: 600);
    pitfall(
        faults,
        &[Behaviour::Resetting, Behaviour::Stalling],
        &[Mutant::FreeOrphan],
    );
}

#[test]
fn pitfall_14_late_accept() {
    let faults = faults!(delay: 900, delay_ms_max: 600);
    pitfall(faults, &[Behaviour::Patient], &[Mutant::LoseLateAccept]);
}

#[test]
fn pitfall_15_listener_closed() {
    let faults = faults!(delay: 900, delay_ms_max: 600, aborted: 500);
    let mutants = [Mutant::ForgetBacklog, Mutant::AbortedIsLast];
    pitfall(faults, &[Behaviour::Patient], &mutants);
}

#[test]
fn pitfall_16_memory_freed_before_the_ring_is_closed() {
    let faults = faults!(delay: 900, delay_ms_max: 100);
    pitfall(faults, Behaviour::ALL, &[Mutant::SkipFinish]);
}

#[test]
fn pitfall_20_lost_wakes() {
    let mutants = [Mutant::LoseRemoteWake, Mutant::LoseSelfWake];
    pitfall(Faults::none(), &[Behaviour::Patient], &mutants);
}

#[test]
fn pitfall_21_slow_service_slows_its_client() {
    pitfall(Faults::none(), &[Behaviour::Flooding], &[Mutant::NeverFull]);
    let faults = faults!(buffers: 4, enter: 200);
    pitfall(faults, &[Behaviour::Flooding], &[]);
}

#[test]
fn pitfall_22_refusal_lost_by_a_reset() {
    pitfall(Faults::none(), &[Behaviour::Wrong], &[Mutant::NoLinger]);
}

#[test]
fn pitfall_28_buffers_are_counted() {
    let faults = faults!(delay: 700, delay_ms_max: 500, lose_more: 200, already: 500);
    let behaviours = &[Behaviour::Wrong, Behaviour::Pipelining];
    pitfall(
        faults,
        behaviours,
        &[Mutant::DoubleReturn, Mutant::LeakBuffer],
    );
}

#[test]
fn pitfall_30_slowloris() {
    pitfall(
        Faults::none(),
        &[Behaviour::Slowloris],
        &[Mutant::SlowlorisDeadline],
    );
}

#[test]
fn pitfall_32_drain() {
    let faults = faults!(delay: 900, delay_ms_max: 600, window_max: 2048);
    let behaviours = &[
        Behaviour::Patient,
        Behaviour::Pipelining,
        Behaviour::HalfClosing,
    ];
    pitfall(
        faults,
        behaviours,
        &[Mutant::NoLinger, Mutant::ForgetBacklog],
    );
}

#[test]
fn pitfall_33_response_after_the_last() {
    let mutants = [Mutant::RespondAfterClose];
    pitfall(Faults::none(), &[Behaviour::Overlong], &mutants);
}

#[test]
fn pitfall_34_slow_heads_occupy_no_buffers() {
    pitfall(
        faults!(buffers: 4),
        &[Behaviour::Slowloris],
        &[Mutant::StingyTopUp],
    );
}

#[test]
fn pitfall_35_counters_wrap_around() {
    pitfall(
        faults!(buffers: 64, short: 800),
        Behaviour::ALL,
        &[Mutant::StuckTail],
    );
}

/// For each row of the table above, the named files contain a test with the number of the row.
#[test]
fn every_test_in_the_table_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: String| fs::read_to_string(root.join(path)).expect("a readable file");
    let rows = include_str!("pitfalls.rs").lines();
    let rows = rows.filter_map(|line| line.strip_prefix("//! | ")?.strip_suffix(" |"));
    let mut numbers = Vec::new();
    for row in rows {
        let columns: Vec<&str> = row.split(" | ").collect();
        let &[number, _, place] = &columns[..] else {
            panic!("a row of {} columns: {row}", columns.len())
        };
        let Ok(number) = number.parse::<u32>() else {
            continue;
        };
        numbers.push(number);
        let mut files: Vec<String> = place
            .split('`')
            .skip(1)
            .step_by(2)
            .filter_map(|file| match file {
                "turns" => Some("tests/simulation/turns.rs".to_owned()),
                "rt" => Some("src/rt/tests.rs".to_owned()),
                file if file.starts_with("integration/") => Some(format!("tests/{file}.rs")),
                _ => None,
            })
            .collect();
        if place.starts_with("here") {
            files.push("tests/simulation/pitfalls.rs".to_owned());
        }
        assert!(!files.is_empty() || place.starts_with("cannot: "), "{row}");
        let name = format!("fn pitfall_{number:02}_");
        for file in files {
            assert!(read(file.clone()).contains(&name), "no {name} in {file}");
        }
    }
    let wanted: Vec<u32> = (1..=35).filter(|number| *number != 31).collect();
    assert_eq!(numbers, wanted);
}
