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
mod life;
mod mutants;
mod pitfalls;
mod reach;
mod regressions;
mod service;
mod turns;

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
    let begin = Instant::now();
    let (mut steps, mut requests) = (0, 0);
    for seed in 0..seeds {
        match life::live(seed, false) {
            Ok(lived) => {
                steps += lived.steps;
                requests += lived.requests;
            }
            Err(what) => panic!(
                "seed {seed}: {what}\n    CORING_SEED={seed} cargo test --features mutants \
                 --test simulation seeds -- --nocapture"
            ),
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("{seeds} seeds, {steps} steps, {requests} requests in {seconds:.1} s");
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
