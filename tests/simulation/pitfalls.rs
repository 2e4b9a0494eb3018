//! The known pitfalls of an `io_uring` server (numbers as in the project's notes), each in a
//! kernel that is full of it: the lives hold, and with the cure taken out one of them does not.
//!
//! Every test is named after its number, wherever it is: `cargo test pitfall_17` finds it. What is
//! here and in `turns` are simulations with the cure as a planted fault; the others meet the real
//! kernel.
//!
//! | number | pitfall | where |
//! |---|---|---|
//! | 1 | a late completion acts on a slot in use again | here |
//! | 2 | close before cancel: no FIN, a leaked socket | here |
//! | 3 | a receive armed again at the end of the stream | here |
//! | 4 | no buffers: spin, or a connection that stands still | here, `crowd` |
//! | 5 | the last completion brings data and is missed | here |
//! | 6 | no descriptors: a spin of accepts | here, `integration/resources` |
//! | 7 | a full direct-descriptor table | cannot: no direct descriptors are used |
//! | 8 | a short send taken for the whole | here |
//! | 9 | two sends at once interleave | here |
//! | 10 | a zero-copy buffer used again too soon | cannot: no zero-copy send is used |
//! | 11 | EINTR, EAGAIN or EBUSY end a worker | here |
//! | 12 | memory freed when a submission failed | here |
//! | 13 | memory freed with a dropped future | here |
//! | 14 | an accept cancelled at the end loses descriptors | here |
//! | 15 | connections lost when the listener closes | here, `integration/lifecycle` |
//! | 16 | memory freed before the ring is gone | here |
//! | 17 | locked memory comes back late | `integration/startup` |
//! | 18 | a ring is not advanced while tasks are busy | `turns`, `integration/embedding` |
//! | 19 | some connections starve beside others | `turns` |
//! | 20 | lost wake-ups | here, and among real threads in `rt` |
//! | 21 | a slow service stores what a client sends | here, `integration/embedding` |
//! | 22 | a refusal lost by a reset | here, `integration/faults` |
//! | 23 | sends that wait in threads of the kernel's pool | `integration/resources` |
//! | 24 | `O_NONBLOCK` and the kernel's pool | `integration/resources` |
//! | 25 | a ring made on another thread | `integration/embedding` |
//! | 26 | the registered descriptor forgotten | `integration/startup` |
//! | 27 | `io_uring` forbidden | `integration/startup` |
//! | 28 | a buffer returned twice, or never | here |
//! | 29 | one worker gets all connections | `integration/resources` |
//! | 30 | every byte moves a deadline | here, `integration/limits` |
//! | 32 | a drain that loses requests | here, `integration/lifecycle` |
//! | 33 | an answer after the last one | here |
//! | 34 | slow heads keep the ring's buffers | here, `integration/resources` |
//! | 35 | numbers that wrap around | here: rings begin close to it |

use std::fs;
use std::path::Path;

use coring::sim::{Faults, Mutant, Random, with_mutant};

use crate::client::Manner;
use crate::life::{Setting, live_in};

/// Lives that must hold.
const SEEDS: u64 = 25;
/// Lives in which a cure that is taken out must be missed.
const SEEDS_MAX: u64 = 1000;

/// Faults by name, the others absent.
macro_rules! faults {
    ($($name:ident: $value:expr),* $(,)?) => {
        Faults { $($name: $value,)* ..Faults::none() }
    };
}

/// In a kernel with these faults and among such clients every life holds; with one of the cures
/// taken out some life does not.
#[track_caller]
fn pitfall(faults: Faults, manners: &'static [Manner], cures: &[Mutant]) {
    let setting = Setting {
        faults,
        manners,
        may_stop: true,
        holds_up: false,
    };
    let live = |seed| live_in(&setting, Random::new(seed), false).map(|_| ());
    for seed in 0..SEEDS {
        live(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
    for &cure in cures {
        let missed = with_mutant(cure, || (0..SEEDS_MAX).any(|seed| live(seed).is_err()));
        assert!(missed, "{cure:?} is not noticed");
    }
}

#[test]
fn pitfall_01_stale_completion() {
    let faults = faults!(delay: 500, delay_ms_max: 40, already: 500, window_max: 600);
    pitfall(
        faults,
        Manner::ALL,
        &[Mutant::IgnoreGeneration, Mutant::CancelIsFinal],
    );
}

#[test]
fn pitfall_02_close_before_cancel() {
    let faults = faults!(delay: 500, delay_ms_max: 40);
    pitfall(
        faults,
        Manner::ALL,
        &[Mutant::CloseBeforeFinal, Mutant::ForgetCancel],
    );
}

#[test]
fn pitfall_03_rearm_at_the_end() {
    pitfall(
        Faults::none(),
        &[Manner::HalfClosing],
        &[Mutant::RearmOnEof],
    );
}

#[test]
fn pitfall_04_no_buffers() {
    let faults = faults!(buffers: 2, short: 300);
    pitfall(faults, Manner::ALL, &[Mutant::ForgetQueued]);
}

#[test]
fn pitfall_05_final_completion_with_data() {
    let faults = faults!(completions: 2, lose_more: 100);
    pitfall(
        faults,
        Manner::ALL,
        &[Mutant::DropLastData, Mutant::MissLostMore],
    );
}

#[test]
fn pitfall_06_no_descriptors() {
    let faults = faults!(exhausted: 980);
    pitfall(faults, &[Manner::Patient], &[Mutant::SpinOnExhausted]);
}

#[test]
fn pitfall_08_short_send() {
    let faults = faults!(short: 700, window_max: 2048);
    let cures = [Mutant::ShortSendIsWhole, Mutant::AskForRoomAgain];
    pitfall(faults, Manner::ALL, &cures);
    let faults = faults!(window_max: 2048);
    pitfall(faults, &[Manner::Pausing], &[Mutant::PutBackLast]);
    let faults = faults!(fatal: 10, window_max: 2048);
    pitfall(faults, Manner::ALL, &[Mutant::ForgetSendError]);
}

#[test]
fn pitfall_09_two_sends_at_once() {
    let faults = faults!(delay: 500, delay_ms_max: 40, window_max: 512);
    pitfall(faults, &[Manner::Pipelining], &[Mutant::SecondSend]);
}

#[test]
fn pitfall_11_enter_fails() {
    pitfall(faults!(enter: 500), Manner::ALL, &[Mutant::FatalSignal]);
}

#[test]
fn pitfall_12_memory_freed_when_a_submission_failed() {
    let faults = faults!(enter: 700, submissions: 2, delay: 300, delay_ms_max: 20, window_max: 600);
    pitfall(faults, Manner::ALL, &[Mutant::FreeOrphan]);
}

#[test]
fn pitfall_13_memory_freed_with_a_dropped_future() {
    let faults = faults!(delay: 500, delay_ms_max: 60, already: 500, window_max: 600);
    pitfall(
        faults,
        &[Manner::Resetting, Manner::Stalling],
        &[Mutant::FreeOrphan],
    );
}

#[test]
fn pitfall_14_late_accept() {
    let faults = faults!(delay: 900, delay_ms_max: 600);
    pitfall(faults, &[Manner::Patient], &[Mutant::LoseLateAccept]);
}

#[test]
fn pitfall_15_listener_closed() {
    let faults = faults!(delay: 900, delay_ms_max: 600, aborted: 500);
    let cures = [Mutant::ForgetBacklog, Mutant::AbortedIsLast];
    pitfall(faults, &[Manner::Patient], &cures);
}

#[test]
fn pitfall_16_memory_freed_before_the_ring() {
    let faults = faults!(delay: 900, delay_ms_max: 100);
    pitfall(faults, Manner::ALL, &[Mutant::SkipFinish]);
}

#[test]
fn pitfall_20_lost_wakes() {
    let cures = [Mutant::LoseRemoteWake, Mutant::LoseSelfWake];
    pitfall(Faults::none(), &[Manner::Patient], &cures);
}

#[test]
fn pitfall_21_slow_service() {
    pitfall(Faults::none(), &[Manner::Flooding], &[Mutant::NeverFull]);
    let faults = faults!(buffers: 4, enter: 200);
    pitfall(faults, &[Manner::Flooding], &[]);
}

#[test]
fn pitfall_22_refusal_lost_by_a_reset() {
    pitfall(Faults::none(), &[Manner::Wrong], &[Mutant::NoLinger]);
}

#[test]
fn pitfall_28_buffers_are_counted() {
    let faults = faults!(delay: 700, delay_ms_max: 500, lose_more: 200, already: 500);
    let manners = &[Manner::Wrong, Manner::Pipelining];
    pitfall(faults, manners, &[Mutant::DoubleReturn, Mutant::LeakBuffer]);
}

#[test]
fn pitfall_30_slowloris() {
    pitfall(
        Faults::none(),
        &[Manner::Slowloris],
        &[Mutant::SlowlorisDeadline],
    );
}

#[test]
fn pitfall_32_drain() {
    let faults = faults!(delay: 900, delay_ms_max: 600, window_max: 2048);
    let manners = &[Manner::Patient, Manner::Pipelining, Manner::HalfClosing];
    pitfall(faults, manners, &[Mutant::NoLinger, Mutant::ForgetBacklog]);
}

#[test]
fn pitfall_33_answer_after_the_last() {
    let cures = [Mutant::AnswerAfterClose];
    pitfall(Faults::none(), &[Manner::Overlong], &cures);
}

#[test]
fn pitfall_34_slow_heads_keep_no_buffers() {
    pitfall(
        faults!(buffers: 4),
        &[Manner::Slowloris],
        &[Mutant::StingyTopUp],
    );
}

#[test]
fn pitfall_35_numbers_wrap_around() {
    pitfall(
        faults!(buffers: 64, short: 800),
        Manner::ALL,
        &[Mutant::StuckTail],
    );
}

/// What the table at the head of this file says is so: each test that it names is there, under its
/// number.
#[test]
fn the_table_is_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: String| fs::read_to_string(root.join(path)).expect("a file of ours");
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
