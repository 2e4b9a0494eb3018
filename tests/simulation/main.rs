//! The real workers and connections on a simulated kernel. Each seed determines one run of a server
//! from its start to the end of its drain: the clients, the order of completions, time and faults.
//!
//! ```text
//! cargo test --features mutants --test simulation                    1,000 seeds
//! CORING_SEEDS=100000 cargo test …                                   more seeds
//! CORING_SEED=77 cargo test … seeds -- --nocapture                   one seed, with a trace
//! ```

#![expect(
    clippy::print_stdout,
    reason = "prints totals, and the trace of a single seed"
)]

mod client;
mod crowd;
mod delays;
mod drops;
mod gone;
mod linger;
mod messages;
mod mutants;
mod pitfalls;
mod reach;
mod regressions;
mod response;
mod run;
mod service;
mod spans;
mod turns;

use std::thread;
use std::time::Instant;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn seeds() {
    if let Some(seed) = variable("CORING_SEED") {
        let outcome = run::run_seed(seed, true);
        println!("{outcome:?}");
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
        return;
    }
    let seeds = variable("CORING_SEEDS").unwrap_or(1000);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let begin = Instant::now();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let run = |first: usize| move || run_each(first as u64, seeds, threads);
        let handles: Vec<_> = (0..threads).map(|first| scope.spawn(run(first))).collect();
        handles.into_iter().map(|handle| handle.join()).collect()
    });
    let (mut steps, mut requests) = (0, 0);
    for outcome in outcomes {
        match outcome.expect("`run_seed` catches panics") {
            Ok(total) => (steps, requests) = (steps + total.0, requests + total.1),
            Err((seed, what)) => panic!(
                "seed {seed}: {what}\n    CORING_SEED={seed} cargo test --features mutants \
                 --test simulation seeds -- --nocapture"
            ),
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("{seeds} seeds, {steps} steps, {requests} requests in {seconds:.1} s");
}

/// Runs each `stride`-th seed below `seeds`, starting with `first`. Returns the sums of steps and
/// requests, or the first seed that failed and the reason.
fn run_each(first: u64, seeds: u64, stride: usize) -> Result<(u64, u64), (u64, String)> {
    let (mut steps, mut requests) = (0, 0);
    for seed in (first..seeds).step_by(stride) {
        let summary = run::run_seed(seed, false).map_err(|what| (seed, what))?;
        steps += summary.steps;
        requests += summary.requests;
    }
    Ok((steps, requests))
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        assert_eq!(
            run::run_seed(seed, false),
            run::run_seed(seed, false),
            "seed {seed}"
        );
    }
}
