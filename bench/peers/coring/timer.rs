//! How late a host's timer fires: on the host alone, and while a guest of it serves busy
//! connections. Both are measured in turn, in one process. The load is `wrk` on core 1, so the
//! program must run on another core.

use std::io;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coring::{Builder, EngineChoice, Request, Response, Server};
use futures_lite::future::or;
use glommio::{LocalExecutorBuilder, Placement};

const ROUNDS: usize = 10;
const TIME: Duration = Duration::from_secs(2);
/// `wrk` has opened its connections after this time.
const START: Duration = Duration::from_millis(300);
const TIMER: Duration = Duration::from_millis(1);
const CONNECTIONS: u64 = 64;

static ANSWERED: AtomicU64 = AtomicU64::new(0);

pub fn in_glommio(address: SocketAddr) -> io::Result<()> {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).make()?;
    let lateness = async |time| glommio::spawn_local(lateness(glommio::timer::sleep, time)).await;
    let serve = async || coring::glommio::serve(server(address), || answer).await;
    println!("a timer of 1 ms of glommio:");
    executor.run(compare(address, lateness, serve))
}

pub fn in_tokio(address: SocketAddr) -> io::Result<()> {
    let lateness = async |time| {
        let timers = tokio::spawn(lateness(tokio::time::sleep, time));
        timers.await.expect("no panic")
    };
    let serve = async || coring::tokio::serve(server(address), || answer).await;
    println!("a timer of 1 ms of tokio:");
    crate::runtime()?.block_on(compare(address, lateness, serve))
}

fn server(address: SocketAddr) -> Builder {
    let server = Server::builder().bind(address.to_string());
    server.engine(EngineChoice::Uring)
}

async fn answer(request: Request) -> Response {
    ANSWERED.fetch_add(1, Ordering::Relaxed);
    crate::answer(request).await
}

/// Sets a timer again and again for `time`. Returns how late each has fired.
async fn lateness<S: Future>(sleep: impl Fn(Duration) -> S, time: Duration) -> Vec<Duration> {
    let begin = Instant::now();
    let mut found = Vec::new();
    while begin.elapsed() < time {
        let set = Instant::now();
        sleep(TIMER).await;
        found.push(set.elapsed().saturating_sub(TIMER));
    }
    found
}

/// Measures timers without a guest and with a busy one, in turn. Prints the percentiles.
async fn compare(
    address: SocketAddr,
    lateness: impl AsyncFn(Duration) -> Vec<Duration>,
    serve: impl AsyncFn() -> coring::Result<()>,
) -> io::Result<()> {
    let (mut alone, mut busy) = (Vec::new(), Vec::new());
    let mut answered = 0;
    for _ in 0..ROUNDS {
        alone.extend(lateness(TIME).await);
        let guest = async { Err(io::Error::other(format!("ended: {:?}", serve().await))) };
        let measured = async {
            let _load = Load::start(address)?;
            lateness(START).await;
            let before = ANSWERED.load(Ordering::Relaxed);
            busy.extend(lateness(TIME).await);
            answered += ANSWERED.load(Ordering::Relaxed) - before;
            Ok(())
        };
        or(guest, measured).await?;
    }
    let each_second = answered / (ROUNDS as u64 * TIME.as_secs());
    print("the host alone", alone);
    print(&format!("beside {CONNECTIONS} busy connections"), busy);
    println!("which got {each_second} responses per second");
    Ok(())
}

fn print(what: &str, mut late: Vec<Duration>) {
    late.sort_unstable();
    let at = |share: f64| late[(share * (late.len() - 1) as f64) as usize];
    let count = late.len();
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    println!("{what}: p50 {p50:?}, p99 {p99:?}, longest {max:?} late ({count} timers)");
}

/// The load generator; killed when dropped.
struct Load(Child);

impl Load {
    fn start(address: SocketAddr) -> io::Result<Self> {
        let mut wrk = Command::new("taskset");
        wrk.args(["-c", "1", "wrk", "-t1", "-d1m", &format!("-c{CONNECTIONS}")]);
        wrk.arg(format!("http://{address}/")).stdout(Stdio::null());
        wrk.spawn().map(Self)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // They fail only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
