//! Two coroutines that switch directly to each other, and pass a value each time.
//!
//! The Python original, with greenlet:
//!
//! ```python
//! def ping():
//!     n = 0
//!     while n < 6:
//!         print("ping", n)
//!         n = pong_greenlet.switch(n + 1)
//!
//! def pong(n):
//!     while True:
//!         print("pong", n)
//!         n = ping_greenlet.switch(n + 1)
//!
//! ping_greenlet, pong_greenlet = greenlet(ping), greenlet(pong)
//! ping_greenlet.switch()
//! ```

#![allow(clippy::print_stdout, reason = "prints what the coroutines do")]

use coring::spawn;
use coring::task::Switch;

async fn ping(mut other: Switch<u32, u32>) {
    let mut n = 0;
    while n < 6 {
        println!("ping {n}");
        match other.switch(n + 1).await {
            Some(next) => n = next,
            None => break,
        }
    }
}

async fn pong(mut other: Switch<u32, u32>) {
    let mut next = other.wait().await;
    while let Some(n) = next {
        println!("pong {n}");
        next = other.switch(n + 1).await;
    }
}

fn main() {
    coring::run(async {
        let (here, there) = Switch::pair();
        let ponged = spawn(pong(there));
        ping(here).await; // its end is dropped, so the other one gets `None`
        ponged.await.expect("no panic");
    });
}
