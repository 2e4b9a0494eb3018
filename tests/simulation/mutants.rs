//! Mutation tests: faults are planted in the core, one at a time, and the simulation must detect
//! each of them. Otherwise a run that passes would prove little.

use coring::sim::{Mutant, with_mutant};

use crate::{crowd, delays, drops, gone, messages, run, spans, turns};

/// One of this many seeds must detect each fault.
const SEEDS_MAX: u64 = 1000;

/// Faults that need two threads, which `src/rt/model.rs` detects, and faults of the link to Python
/// workers, which the fuzz target `answers` detects.
const DETECTED_ELSEWHERE: &[Mutant] = &[
    Mutant::SleepUnchecked,
    Mutant::BelieveAnyWorker,
    Mutant::ForgetCredit,
    Mutant::SecondHead,
    Mutant::TrustHead,
];

/// The first seed that detects the fault, and its error. Faults that no general run detects have a
/// check of their own.
fn detected(mutant: Mutant) -> Option<(u64, String)> {
    let check = |seed| match mutant {
        _ if turns::MUTANTS.contains(&mutant) => turns::check(seed),
        _ if crowd::MUTANTS.contains(&mutant) => crowd::check(seed),
        _ if delays::MUTANTS.contains(&mutant) => delays::check(seed),
        _ if messages::MUTANTS.contains(&mutant) => messages::check(seed),
        _ if spans::MUTANTS.contains(&mutant) => spans::check(seed),
        _ if drops::MUTANTS.contains(&mutant) => drops::check(seed),
        _ if gone::MUTANTS.contains(&mutant) => gone::check(seed),
        _ => run::run_seed(seed, false).map(drop),
    };
    with_mutant(mutant, || {
        (0..SEEDS_MAX).find_map(|seed| Some((seed, check(seed).err()?)))
    })
}

#[test]
fn every_mutant_is_detected() {
    let mut missed = Vec::new();
    println!("| mutant | seeds needed | error |\n|---|---|---|");
    let ours = |mutant: &&Mutant| !DETECTED_ELSEWHERE.contains(mutant);
    for &mutant in Mutant::ALL.iter().filter(ours) {
        match detected(mutant) {
            Some((seed, what)) => println!("| {mutant:?} | {} | {what} |", seed + 1),
            None => missed.push(mutant),
        }
    }
    assert!(
        missed.is_empty(),
        "not detected by {SEEDS_MAX} seeds: {missed:?}"
    );
}
