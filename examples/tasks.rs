//! Coroutines without a server: three coroutines print and sleep, and the program waits for all of
//! them. They run concurrently, so that takes as long as the slowest one, not the sum.
//!
//! The Python original, with gevent:
//!
//! ```python
//! def count(name, times, pause):
//!     for n in range(times):
//!         print(name, n + 1, "of", times)
//!         gevent.sleep(pause)
//!
//! started = time.time()
//! gevent.joinall([gevent.spawn(count, "one", 3, 0.2), gevent.spawn(count, "two", 3, 0.3),
//!                 gevent.spawn(count, "three", 3, 0.4)])
//! print("together", time.time() - started)
//! ```

#![allow(clippy::print_stdout, reason = "prints what the coroutines do")]

use std::time::{Duration, Instant};

use coring::spawn;
use coring::task::join_all;
use coring::time::sleep;

/// Prints and sleeps `count` times. Returns the time that it has slept.
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
