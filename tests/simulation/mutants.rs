//! Faults planted in the core, one at a time: each must be noticed, or the seeds prove nothing.

use coring::sim::{Mutant, with_mutant};

use crate::{crowd, delays, gone, life, messages, spans, turns};

/// Lives in which each fault must be noticed.
const SEEDS_MAX: u64 = 1000;

/// Noticed by `src/rt/model.rs`, for it takes two threads to meet.
const NOTICED_ELSEWHERE: &[Mutant] = &[Mutant::SleepUnchecked];

/// The first seed that notices the fault, and what it says. Lives do not measure who waits how
/// long: that is what the turns are for.
fn noticed(mutant: Mutant) -> Option<(u64, String)> {
    let look = |seed| match mutant {
        _ if turns::CURES.contains(&mutant) => turns::look(seed),
        _ if crowd::CURES.contains(&mutant) => crowd::look(seed),
        _ if delays::CURES.contains(&mutant) => delays::look(seed),
        _ if messages::CURES.contains(&mutant) => messages::look(seed),
        _ if spans::CURES.contains(&mutant) => spans::look(seed),
        _ if gone::CURES.contains(&mutant) => gone::look(seed),
        _ => life::live(seed, false).map(drop),
    };
    with_mutant(mutant, || {
        (0..SEEDS_MAX).find_map(|seed| Some((seed, look(seed).err()?)))
    })
}

#[test]
fn every_mutant_is_noticed() {
    let mut missed = Vec::new();
    println!("| mutant | seeds needed | noticed by |\n|---|---|---|");
    let ours = |mutant: &&Mutant| !NOTICED_ELSEWHERE.contains(mutant);
    for &mutant in Mutant::ALL.iter().filter(ours) {
        match noticed(mutant) {
            Some((seed, what)) => println!("| {mutant:?} | {} | {what} |", seed + 1),
            None => missed.push(mutant),
        }
    }
    assert!(
        missed.is_empty(),
        "not noticed in {SEEDS_MAX} seeds: {missed:?}"
    );
}
