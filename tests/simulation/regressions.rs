//! Seeds that once found a bug, each with the reason. If a run draws other random numbers than
//! before, its seed no longer reproduces the bug. So each bug also has a test of its own.

use std::fmt::Write;

use coring::Limits;
use coring::sim::{Faults, Random, Simulated, World};

use crate::client::Behaviour;
use crate::run::{SPARE_BLOCKS_MAX, Setting, run_seed_with, run_with, step};
use crate::service::Site;

/// The seeds, each with the bug that it found.
const SEEDS: &[(u64, &str)] = &[
    (24_856, SLOW_TRANSFER),
    (27_444, SLOW_TRANSFER),
    (40_051, SLOW_TRANSFER),
    (40_627, SLOW_TRANSFER),
    (83_887, SLOW_TRANSFER),
    (38_923, ASLEEP),
    (59_982, ASLEEP),
    (97_612, ASLEEP),
    (102_529, ASLEEP),
    (103_907, ASLEEP),
    (116_666, ASLEEP),
    (118_742, ASLEEP),
    (88_079, NO_CLOSE),
    (88_923, NO_CLOSE),
    (19_069, OVERFLOW),
    (95_015, BUSY),
];

const NO_CLOSE: &str =
    "the server took the rest of a body for another request: it sent no Connection: close";
const ASLEEP: &str = "a worker slept although a socket had data and buffers were free";
const BUSY: &str = "this test took 25,000 short sends without a pause for an endless loop";
const OVERFLOW: &str = "the completion queue was full, and each re-armed poll ended another poll";
const SLOW_TRANSFER: &str =
    "this test took a transfer that the end of a drain cut off for a stuck one";

#[test]
fn lives_that_once_failed_pass() {
    for &(seed, reason) in SEEDS {
        for guests in [false, true] {
            if let Err(what) = run_seed_with(seed, guests, false) {
                panic!("seed {seed}, guests: {guests}: {what}\n    it once found: {reason}");
            }
        }
    }
}

/// Clients have sent everything, but the network is so slow that the server is still receiving when
/// the drain ends.
#[test]
fn a_slow_transfer_may_be_cut_off_by_the_end_of_a_drain() {
    let setting = Setting {
        faults: Faults {
            delay: 700,
            delay_ms_max: 60,
            short: 300,
            window_max: 512,
            ..Faults::none()
        },
        behaviours: &[Behaviour::Flooding],
        may_stop: false,
        delays_worker: false,
        guests: false,
    };
    for seed in 0..10 {
        let outcome = run_with(&setting, Random::new(seed), false);
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
    }
}

/// Clients reset their connections while long responses are being sent to them. The connections end
/// at once, but the cancelled sends complete late and keep their blocks until then.
#[test]
fn a_cancelled_send_keeps_its_blocks_until_the_kernel_is_done() {
    let faults = Faults {
        delay: 1000,
        delay_ms_max: 60,
        window_max: 8 << 10,
        ..Faults::none()
    };
    let outlived = (0..20).filter(|&seed| {
        sends_outlive_their_connections(seed, faults.clone())
            .unwrap_or_else(|what| panic!("seed {seed}: {what}"))
    });
    let outlived = outlived.count();
    assert!(outlived > 0, "no send outlived its connection");
}

/// Whether many blocks were still being sent after the last connection had ended.
fn sends_outlive_their_connections(seed: u64, faults: Faults) -> Result<bool, String> {
    const CLIENTS: u64 = 8;
    const TURNS_MAX: u32 = 5_000;
    let world = World::new(seed, faults, false);
    let mut limits = Limits::default();
    limits.connections_max = Some(10);
    let mut server = world.enter(|| Simulated::new(&world, 1, &limits, || Site));
    // The body of the second request has arrived before the first response is sent.
    let mut requests = "GET /slow/0/0/1000 HTTP/1.1\r\nHost: simulated\r\n\r\n\
        POST /echo/0/1/0 HTTP/1.1\r\nHost: simulated\r\nTransfer-Encoding: chunked\r\n\r\n"
        .to_owned();
    let piece = "x".repeat(2100);
    for _ in 0..30 {
        let _ = write!(requests, "{:x}\r\n{piece}\r\n", piece.len());
    }
    let clients = (0..CLIENTS).map(|_| world.connect(0).expect("a listener"));
    let clients: Vec<_> = clients.collect();
    let mut turns = 0..TURNS_MAX;
    let mut turn = || {
        turns.next().ok_or("a busy loop")?;
        let next_ms = server.next_ms(0).ok_or("the worker sleeps for ever")?;
        world.advance(next_ms);
        step(&world, &mut server, 0)?;
        world.violation().map_or(Ok(()), Err)?;
        Ok::<_, String>(server.metrics()[0].clone())
    };
    for client in &clients {
        client.send(requests.as_bytes());
    }
    while turn()?.responses_2xx.get() < 2 * CLIENTS {}
    for client in &clients {
        client.reset();
    }
    let mut metrics = turn()?;
    let mut outlived = false;
    while metrics.connections_open.get() > 0 || metrics.blocks_in_use.get() > 0 {
        let blocks = metrics.blocks_in_use.get();
        outlived |= metrics.connections_open.get() == 0 && blocks > SPARE_BLOCKS_MAX;
        metrics = turn()?;
    }
    server.stop();
    while turns.next().is_some() && server.next_ms(0).is_some() {
        step(&world, &mut server, 0)?;
    }
    world.violation().map_or(Ok(outlived), Err)
}
