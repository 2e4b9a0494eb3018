//! A million coroutines sleep at the same time. A bar shows how many have woken up, if standard
//! error is a terminal. Then the program prints the memory and the CPU time that each has cost.
//!
//! The Python original, with gevent:
//!
//! ```python
//! sleepers = [gevent.spawn(gevent.sleep, 1) for _ in range(1_000_000)]
//! gevent.joinall(sleepers)
//! ```
//!
//! `cargo run --release --example million [COUNT] [SECONDS]`

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "prints a bar and the figures"
)]

use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use coring::spawn;
use coring::time::{interval, sleep};
use rustix::time::{ClockId, clock_gettime};

/// The columns of the bar.
const COLUMNS: usize = 50;

/// The CPU time of this process, in ns.
fn cpu_ns() -> i64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// The resident memory of this process, in bytes.
fn resident_bytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let row = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = row.and_then(|row| row.trim().strip_suffix(" kB"));
    1024 * kib.and_then(|kib| kib.parse::<i64>().ok()).unwrap_or(0)
}

/// Shows the bar ten times a second.
async fn show_progress(woken: Rc<Cell<usize>>, count: usize) {
    let mut ticks = interval(Duration::from_millis(100));
    loop {
        ticks.tick().await;
        let full = woken.get() * COLUMNS / count;
        eprint!("\r[{}{}]", "#".repeat(full), " ".repeat(COLUMNS - full));
    }
}

async fn measure(count: usize, pause: Duration) {
    let (cpu, memory, began) = (cpu_ns(), resident_bytes(), Instant::now());
    let woken = Rc::new(Cell::new(0));
    let bar = stderr()
        .is_terminal()
        .then(|| spawn(show_progress(woken.clone(), count)));
    let sleepers: Vec<_> = (0..count)
        .map(|_| {
            let woken = woken.clone();
            spawn(async move {
                sleep(pause).await;
                woken.set(woken.get() + 1);
            })
        })
        .collect();
    coring::task::yield_now().await;
    let memory = resident_bytes() - memory;
    for sleeper in sleepers {
        sleeper.await.expect("no panic");
    }
    if let Some(bar) = bar {
        bar.abort();
        eprintln!("\r[{}]", "#".repeat(COLUMNS));
    }
    let each = |sum: i64| sum / i64::try_from(count).unwrap_or(i64::MAX);
    println!(
        "{} coroutines in {:.1} s: {} bytes and {} ns of CPU each",
        woken.get(),
        began.elapsed().as_secs_f64(),
        each(memory),
        each(cpu_ns() - cpu),
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse());
    let count = arguments.next().unwrap_or(Ok(1_000_000));
    let seconds = arguments.next().unwrap_or(Ok(1));
    let (Ok(count @ 1..), Ok(seconds)) = (count, seconds) else {
        eprintln!("usage: million [COUNT] [SECONDS]   with whole numbers, COUNT at least 1");
        std::process::exit(2);
    };
    let pause = Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX));
    coring::run(measure(count, pause));
}
