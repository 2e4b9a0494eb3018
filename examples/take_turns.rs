//! Two coroutines that take turns by yielding.
//!
//! The Python original, with gevent:
//!
//! ```python
//! def count(name):
//!     for n in range(1, 4):
//!         print(name, n)
//!         gevent.sleep(0)
//!
//! gevent.joinall([gevent.spawn(count, "left"), gevent.spawn(count, "right")])
//! ```

#![allow(clippy::print_stdout, reason = "prints what the coroutines do")]

use coring::spawn;
use coring::task::{join_all, yield_now};

async fn count(name: &str) {
    for n in 1..=3 {
        println!("{name} {n}");
        yield_now().await;
    }
}

fn main() {
    coring::run(async {
        join_all([spawn(count("left")), spawn(count("right"))]).await;
    });
}
