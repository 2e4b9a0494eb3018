//! A service that connects to unreachable peers. Mostly its timeout expires before the connect
//! fails. No cancelled connect may use memory that was freed, or outlive its worker.

use std::time::Duration;

use coring::net::TcpStream;
use coring::sim::{Faults, Random, Received, Simulated, Step, World};
use coring::time::timeout;
use coring::{Limits, Request, Response};

const REQUESTS: usize = 12;
/// More turns of the loop are a busy loop.
const TURNS_MAX: u32 = 20_000;

/// Connects, for at most as many ms as the path says.
async fn reach(request: Request) -> Response {
    let limit_ms = request.path()[1..].parse().expect("a number");
    let connect = TcpStream::connect(([192, 0, 2, 1], 80));
    match timeout(Duration::from_millis(limit_ms), connect).await {
        Ok(Ok(_)) => Response::text("connected"),
        Ok(Err(_)) => Response::text("failed."),
        Err(_) => Response::text("timed out."),
    }
}

/// Runs the worker's loop and advances the clock, until `done` or until the worker ends.
pub(crate) fn run_until(
    world: &World,
    server: &mut Simulated,
    mut done: impl FnMut() -> bool,
) -> Result<(), String> {
    for _ in 0..TURNS_MAX {
        if done() {
            return Ok(());
        }
        let next_ms = server.next_ms(0).ok_or("the worker sleeps for ever")?;
        world.advance(next_ms);
        if server.step(0) == Step::Ended {
            return Ok(());
        }
        world.violation().map_or(Ok(()), Err)?;
    }
    Err("a busy loop".to_owned())
}

/// Runs a server until a client has received `count` responses, and stops it. Returns all
/// responses.
fn run(seed: u64, count: usize) -> Result<String, String> {
    let mut random = Random::new(seed);
    let faults = Faults {
        delay: 500,
        delay_ms_max: 60,
        fatal: 0,
        ..Faults::random(&mut random)
    };
    let world = World::new(seed, faults, false);
    let mut limits = Limits::default();
    limits.connections_max = Some(10);
    let mut server = world.enter(|| Simulated::new(&world, 1, &limits, || reach));
    let client = world.connect(0).expect("a listener");
    for _ in 0..REQUESTS {
        let path = 1 + random.below(60);
        client.send(format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    }
    let mut responses = String::new();
    let outcome = run_until(&world, &mut server, || {
        while let Received::Bytes(bytes) = client.read(usize::MAX) {
            responses.push_str(str::from_utf8(&bytes).expect("text"));
        }
        responses.matches("HTTP/1.1 200").count() >= count
    });
    server.stop();
    let outcome = outcome.and_then(|()| run_until(&world, &mut server, || false));
    if let Err(what) = outcome {
        // After `fail` the kernel fails every call, so the broken server can be dropped.
        world.fail(&what);
        world.enter(|| drop(server));
        return Err(what);
    }
    server.check_end();
    world.violation().map_or(Ok(responses), Err)
}

#[test]
fn connects_fail_or_time_out() {
    let (mut failed, mut timed_out) = (0, 0);
    for seed in 0..300 {
        // Every other run is stopped while requests are being handled.
        let count = if seed % 2 == 0 {
            REQUESTS
        } else {
            REQUESTS / 2
        };
        let responses = run(seed, count).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert!(!responses.contains("connected"), "seed {seed}");
        failed += responses.matches("failed.").count();
        timed_out += responses.matches("timed out.").count();
    }
    assert!(
        failed > 300 && timed_out > 300,
        "{failed} failed, {timed_out} timed out"
    );
}
