//! The real workers and connections on a simulated kernel, a whole server life per seed.
//!
//! ```text
//! cargo test --features mutants --test simulation                    1,000 seeds
//! CORING_SEEDS=100000 cargo test …                               more of them
//! CORING_SEED=77 cargo test … seeds -- --nocapture               one, with all that happens in it
//! ```

#![expect(
    clippy::print_stdout,
    reason = "figures and traces are for whoever runs it"
)]

mod answer;
mod client;
mod crowd;
mod delays;
mod gone;
mod life;
mod messages;
mod mutants;
mod pitfalls;
mod reach;
mod regressions;
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
        let lived = life::live(seed, true);
        println!("{lived:?}");
        assert!(lived.is_ok(), "seed {seed}: {lived:?}");
        return;
    }
    let seeds = variable("CORING_SEEDS").unwrap_or(1000);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let begin = Instant::now();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let live = |first: usize| move || live_each(first as u64, seeds, threads);
        let lives: Vec<_> = (0..threads).map(|first| scope.spawn(live(first))).collect();
        lives.into_iter().map(|life| life.join()).collect()
    });
    let (mut steps, mut requests) = (0, 0);
    for outcome in outcomes {
        match outcome.expect("a life's panic is its outcome") {
            Ok(lived) => (steps, requests) = (steps + lived.0, requests + lived.1),
            Err((seed, what)) => panic!(
                "seed {seed}: {what}\n    CORING_SEED={seed} cargo test --features mutants \
                 --test simulation seeds -- --nocapture"
            ),
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("{seeds} seeds, {steps} steps, {requests} requests in {seconds:.1} s");
}

/// Lives each `stride`-th seed from `first` on: the steps and requests of all, or the seed of the
/// life that failed and the reason.
fn live_each(first: u64, seeds: u64, stride: usize) -> Result<(u64, u64), (u64, String)> {
    let (mut steps, mut requests) = (0, 0);
    for seed in (first..seeds).step_by(stride) {
        let lived = life::live(seed, false).map_err(|what| (seed, what))?;
        steps += lived.steps;
        requests += lived.requests;
    }
    Ok((steps, requests))
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        assert_eq!(
            life::live(seed, false),
            life::live(seed, false),
            "seed {seed}"
        );
    }
}
