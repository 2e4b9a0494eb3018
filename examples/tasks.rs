//! Coroutines without a server: three of them print and sleep in turn, and are joined. All three
//! together take as long as the longest, not as long as their sum.

#![allow(clippy::print_stdout, reason = "it is there to be looked at")]

use std::time::{Duration, Instant};

use coring::spawn;
use coring::task::join_all;
use coring::time::sleep;

/// Says `count` times that it is there.
async fn count(name: &str, count: u32, pause: Duration) -> Duration {
    for n in 1..=count {
        println!("{name}: {n} of {count}");
        sleep(pause).await;
    }
    pause * count
}

fn main() {
    coring::run(async {
        let started = Instant::now();
        let handles = [
            spawn(count("one", 3, Duration::from_millis(200))),
            spawn(count("two", 3, Duration::from_millis(300))),
            spawn(count("three", 3, Duration::from_millis(400))),
        ];
        let asleep = join_all(handles).await;
        let took = started.elapsed().as_secs_f64();
        let sum: Duration = asleep.into_iter().flatten().sum();
        println!(
            "together {took:.1} s, one after the other {:.1} s",
            sum.as_secs_f64()
        );
    });
}
