//! One worker whose clients contend for its provided buffers. The tests measure how long a client
//! waits for a buffer, in turns of the worker's loop.

use coring::sim::{Faults, Mutant, Random};

use crate::turns::{Bench, CLIENTS, TestClient, pitfall};

/// The planted faults that only these tests detect.
pub(crate) const MUTANTS: &[Mutant] = &[Mutant::SkipBufferQueue, Mutant::SleepInQueue];

/// Unread bytes that a greedy client keeps in its socket.
const GREEDY_BYTES: usize = 32 << 10;
/// The padding of a greedy client's request in bytes, so that few requests fit in a block.
const REQUEST_BYTES: usize = 500;
/// Responses per greedy client, on average. Each client then waits for a buffer about ten times.
const ROUNDS: usize = 600;
/// Provided buffers of the worker.
const BUFFERS: u16 = 8;
/// Turns within which the polite client must get a response. Half of the buffers go to queued
/// receives, so all other clients have had a buffer after `CLIENTS / (BUFFERS / 2)` turns. The
/// factor is slack, because the simulated kernel completes operations in random order.
const TURNS_MAX: usize = 4 * CLIENTS / (BUFFERS as usize / 2);

/// A client that keeps its socket full of requests and reads all responses.
struct Greedy {
    client: TestClient,
    responses: usize,
}

impl Greedy {
    fn step(&mut self) {
        let pad = "x".repeat(REQUEST_BYTES);
        let request = format!("GET /free HTTP/1.1\r\nHost: simulated\r\nPad: {pad}\r\n\r\n");
        while self.client.connection.in_flight() < GREEDY_BYTES {
            self.client.connection.send(request.as_bytes());
        }
        while self.client.response().is_some() {
            self.responses += 1;
        }
    }
}

/// Clients that keep their sockets full are served about equally often, and a polite client beside
/// them gets its response within a bounded number of turns.
fn greedy_clients_share(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let faults = Faults {
        buffers: BUFFERS,
        short: random.pick(&[0, 0, 100]),
        lose_more: random.pick(&[0, 100]),
        ..Faults::none()
    };
    let mut bench = Bench::new(seed, faults);
    let mut polite = bench.connect();
    let greedy = (0..CLIENTS).map(|_| Greedy {
        client: bench.connect(),
        responses: 0,
    });
    let mut greedy: Vec<Greedy> = greedy.collect();
    polite.send_get("/free");
    let mut waited = 0;
    while greedy.iter().map(|client| client.responses).sum::<usize>() < CLIENTS * ROUNDS {
        greedy.iter_mut().for_each(Greedy::step);
        bench.turn()?;
        waited += 1;
        if polite.response().is_some() {
            waited = 0;
            polite.send_get("/free");
        }
        if waited > TURNS_MAX {
            return Err(format!("the polite client waits {waited} turns"));
        }
    }
    let responses = || greedy.iter().map(|client| client.responses);
    let (least, most) = (
        responses().min().unwrap_or(0),
        responses().max().unwrap_or(0),
    );
    if most > 3 * least {
        return Err(format!(
            "one greedy client has {least} responses, another has {most}"
        ));
    }
    drop(greedy);
    bench.end()
}

/// An idle client may get its turn for a buffer although it has nothing to receive. The worker must
/// then not sleep while another client waits for its turn.
fn idle_clients_delay_no_other(seed: u64) -> Result<(), String> {
    const BODY_BYTES: usize = 100_000;
    for idle in 0..7 {
        let faults = Faults {
            buffers: 2,
            ..Faults::none()
        };
        let mut bench = Bench::new(seed, faults);
        let idle: Vec<TestClient> = (0..idle).map(|_| bench.connect()).collect();
        let mut sending = bench.connect();
        let head = format!(
            "POST /count HTTP/1.1\r\nHost: simulated\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
        );
        sending.connection.send(head.as_bytes());
        sending.connection.send(&[b'x'; BODY_BYTES]);
        let begin_ms = bench.world.now_ms();
        let count = bench.wait_for_response(&mut sending)?;
        let waited_ms = bench.world.now_ms() - begin_ms;
        if count != BODY_BYTES.to_string() || waited_ms > 0 {
            let idle = idle.len();
            return Err(format!(
                "beside {idle} idle clients: {count} bytes after {waited_ms} ms"
            ));
        }
        drop(idle);
        bench.end()?;
    }
    Ok(())
}

/// Runs both checks with one seed.
///
/// # Errors
/// If a check fails; the text says how.
pub(crate) fn check(seed: u64) -> Result<(), String> {
    idle_clients_delay_no_other(seed)?;
    greedy_clients_share(seed)
}

#[test]
fn greedy_clients_share_the_buffers() {
    pitfall(greedy_clients_share, &[Mutant::SkipBufferQueue]);
}

#[test]
fn no_worker_sleeps_while_a_receive_waits_for_a_buffer() {
    pitfall(idle_clients_delay_no_other, &[Mutant::SleepInQueue]);
}
