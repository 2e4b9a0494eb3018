//! A coroutine is started, does something else at the same time, and is waited for.
//!
//! The Python original, with gevent:
//!
//! ```python
//! def double(n):
//!     print("doubling")
//!     gevent.sleep(0.2)
//!     return 2 * n
//!
//! doubled = gevent.spawn(double, 21)
//! print("spawned")
//! gevent.sleep(0.1)
//! print("finished:", doubled.ready())
//! doubled.join()
//! print("finished:", doubled.ready(), doubled.value)
//! ```

#![allow(clippy::print_stdout, reason = "prints what the coroutines do")]

use std::time::Duration;

use coring::spawn;
use coring::time::sleep;

async fn double(n: u32) -> u32 {
    println!("doubling");
    sleep(Duration::from_millis(200)).await;
    2 * n
}

fn main() {
    coring::run(async {
        let mut doubled = spawn(double(21));
        println!("spawned");
        sleep(Duration::from_millis(100)).await;
        println!("finished: {}", doubled.is_finished());
        let value = (&mut doubled).await.expect("no panic");
        println!("finished: {} {value}", doubled.is_finished());
    });
}
