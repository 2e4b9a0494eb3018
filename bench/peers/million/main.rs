//! A million coroutines on one runtime: spawn, sleep, wake, join. Prints the memory of each while
//! all sleep, the CPU time of each from its start to its join, and what stays of the memory when
//! all have ended. `bench/million` runs all runtimes.
//!
//! `peer-million coring|tokio|glommio COUNT MILLISECONDS`

use std::time::Duration;

use tokio::task::LocalSet;

/// The resident memory of this process, in bytes.
fn resident_bytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let row = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = row.and_then(|row| row.trim().strip_suffix(" kB"));
    1024 * kib
        .and_then(|kib| kib.parse::<i64>().ok())
        .expect("a number of kB")
}

/// The CPU time of this process, in ns.
fn cpu_ns() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` has room for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// The figures at the start.
#[derive(Clone, Copy)]
struct Begin {
    cpu_ns: i64,
    bytes: i64,
}

impl Begin {
    fn now() -> Self {
        Self {
            cpu_ns: cpu_ns(),
            bytes: resident_bytes(),
        }
    }

    /// Prints the figures; `asleep` is the resident memory while all slept.
    fn print(self, count: i64, asleep: i64) {
        let cpu = (cpu_ns() - self.cpu_ns) / count;
        let (asleep, left) = (asleep - self.bytes, resident_bytes() - self.bytes);
        println!("{} {cpu} {}", asleep / count, left / count);
    }
}

async fn coring_million(count: i64, pause: Duration) {
    coring::task::yield_now().await;
    let begin = Begin::now();
    let sleepers: Vec<_> = (0..count)
        .map(|_| coring::spawn(coring::time::sleep(pause)))
        .collect();
    coring::task::yield_now().await;
    let asleep = resident_bytes();
    for sleeper in sleepers {
        sleeper.await.expect("no panic");
    }
    begin.print(count, asleep);
}

async fn tokio_million(count: i64, pause: Duration) {
    tokio::task::yield_now().await;
    let begin = Begin::now();
    let sleepers: Vec<_> = (0..count)
        .map(|_| tokio::spawn(tokio::time::sleep(pause)))
        .collect();
    tokio::time::sleep(pause / 2).await;
    let asleep = resident_bytes();
    for sleeper in sleepers {
        sleeper.await.expect("no panic");
    }
    begin.print(count, asleep);
}

async fn glommio_million(count: i64, pause: Duration) {
    let begin = Begin::now();
    let sleepers: Vec<_> = (0..count)
        .map(|_| glommio::spawn_local(glommio::timer::sleep(pause)).detach())
        .collect();
    glommio::timer::sleep(pause / 2).await;
    let asleep = resident_bytes();
    for sleeper in sleepers {
        sleeper.await;
    }
    begin.print(count, asleep);
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let usage = "usage: peer-million coring|tokio|glommio COUNT MILLISECONDS";
    assert!(words.len() == 4, "{usage}");
    let count: i64 = words[2].parse().expect(usage);
    let pause = Duration::from_millis(words[3].parse().expect(usage));
    match &*words[1] {
        "coring" => coring::run(coring_million(count, pause)),
        "tokio" => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build();
            LocalSet::new().block_on(&runtime.expect("a runtime"), tokio_million(count, pause));
        }
        "glommio" => glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
            .make()
            .expect("io_uring")
            .run(glommio_million(count, pause)),
        _ => panic!("{usage}"),
    }
}
