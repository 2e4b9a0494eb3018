//! A service that reaches out to peers that are not to be had, and mostly gives up before it is
//! told so: no connect may outlive its memory or its worker.

use std::time::Duration;

use coring::net::TcpStream;
use coring::sim::{Faults, Random, Received, Simulated, Step, World};
use coring::time::timeout;
use coring::{Limits, Request, Response};

const REQUESTS: usize = 12;
/// Turns of the loop: more are a spin.
const TURNS_MAX: u32 = 20_000;

async fn reach(request: Request) -> Response {
    let patience_ms = request.path()[1..].parse().expect("a number");
    let connect = TcpStream::connect(([192, 0, 2, 1], 80));
    match timeout(Duration::from_millis(patience_ms), connect).await {
        Ok(Ok(_)) => Response::text("connected"),
        Ok(Err(_)) => Response::text("refused."),
        Err(_) => Response::text("gave up."),
    }
}

/// Turns the worker's loop, and lets time pass, until `done` or the worker's end.
pub(crate) fn turn(
    world: &World,
    server: &mut Simulated,
    mut done: impl FnMut() -> bool,
) -> Result<(), String> {
    for _ in 0..TURNS_MAX {
        if done() {
            return Ok(());
        }
        let next_ms = server.next_ms(0).ok_or("everybody sleeps for ever")?;
        world.advance(next_ms);
        if server.step(0) == Step::Ended {
            return Ok(());
        }
        world.violation().map_or(Ok(()), Err)?;
    }
    Err("the loop spins".to_owned())
}

/// The answers to requests of a server that is stopped when the first `count` of them are there.
fn live(seed: u64, count: usize) -> Result<String, String> {
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
    let mut answers = String::new();
    let answered = turn(&world, &mut server, || {
        while let Received::Bytes(bytes) = client.read(usize::MAX) {
            answers.push_str(str::from_utf8(&bytes).expect("text"));
        }
        answers.matches("HTTP/1.1 200").count() >= count
    });
    server.stop();
    let ended = answered.and_then(|()| turn(&world, &mut server, || false));
    if let Err(what) = ended {
        // The kernel refuses everything from here on, so that what is broken can be dropped.
        world.fail(&what);
        world.enter(|| drop(server));
        return Err(what);
    }
    server.check_end();
    world.violation().map_or(Ok(answers), Err)
}

#[test]
fn connects_are_refused_and_given_up() {
    let (mut refused, mut given_up) = (0, 0);
    for seed in 0..300 {
        // Half of the lives end in the middle.
        let count = if seed % 2 == 0 {
            REQUESTS
        } else {
            REQUESTS / 2
        };
        let answers = live(seed, count).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert!(!answers.contains("connected"), "seed {seed}");
        refused += answers.matches("refused.").count();
        given_up += answers.matches("gave up.").count();
    }
    assert!(refused > 300 && given_up > 300, "{refused} and {given_up}");
}
