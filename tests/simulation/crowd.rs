//! One worker whose clients contend for its provided buffers: how long a client waits for one is
//! measured here in turns of the worker's loop.

use coring::sim::{Faults, Mutant, Random};

use crate::turns::{Bench, CLIENTS, Caller, pitfall};

/// The cures that show here and in no life.
pub(crate) const CURES: &[Mutant] = &[Mutant::Overtake, Mutant::SleepInQueue];

/// Bytes that a greedy client keeps in its socket.
const GREEDY_BYTES: usize = 32 << 10;
/// A request of a greedy client has some more bytes than this, so that few of them fit in a block.
const REQUEST_BYTES: usize = 500;
/// Answers to each greedy client, on average: some ten turns in the queue.
const ROUNDS: usize = 600;
/// Provided buffers of the worker.
const BUFFERS: u16 = 8;
/// Turns that the polite client may wait for an answer: half of the buffers are for the queue, so
/// all others have had theirs after `CLIENTS / (BUFFERS / 2)` turns. The simulated kernel completes
/// what is ready in any order, so some luck is needed, too.
const TURNS_MAX: usize = 4 * CLIENTS / (BUFFERS as usize / 2);

/// A greedy client: its socket is always full of requests, and it reads all answers.
struct Greedy {
    caller: Caller,
    answers: usize,
}

impl Greedy {
    fn step(&mut self) {
        let pad = "x".repeat(REQUEST_BYTES);
        let request = format!("GET /free HTTP/1.1\r\nHost: simulated\r\nPad: {pad}\r\n\r\n");
        while self.caller.connection.in_flight() < GREEDY_BYTES {
            self.caller.connection.send(request.as_bytes());
        }
        while self.caller.answer().is_some() {
            self.answers += 1;
        }
    }
}

/// Among clients that keep their sockets full, each gets about the same, and a polite client its
/// answer after a bounded number of turns.
fn greedy_clients_leave_the_others_their_share(seed: u64) -> Result<(), String> {
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
        caller: bench.connect(),
        answers: 0,
    });
    let mut greedy: Vec<Greedy> = greedy.collect();
    polite.ask("/free");
    let mut waited = 0;
    while greedy.iter().map(|client| client.answers).sum::<usize>() < CLIENTS * ROUNDS {
        greedy.iter_mut().for_each(Greedy::step);
        bench.turn()?;
        waited += 1;
        if polite.answer().is_some() {
            waited = 0;
            polite.ask("/free");
        }
        if waited > TURNS_MAX {
            return Err(format!("the polite client waits for {waited} turns"));
        }
    }
    let answers = || greedy.iter().map(|client| client.answers);
    let (least, most) = (answers().min().unwrap_or(0), answers().max().unwrap_or(0));
    if most > 3 * least {
        return Err(format!(
            "one greedy client has {least} answers, another one {most}"
        ));
    }
    drop(greedy);
    bench.end()
}

/// Idle clients that have their turn in the queue for a buffer, and nothing to receive, keep no
/// other client from its turn: the worker does not sleep over it.
fn idle_clients_keep_nobody_waiting(seed: u64) -> Result<(), String> {
    const BODY_BYTES: usize = 100_000;
    for idle in 0..7 {
        let faults = Faults {
            buffers: 2,
            ..Faults::none()
        };
        let mut bench = Bench::new(seed, faults);
        let idle: Vec<Caller> = (0..idle).map(|_| bench.connect()).collect();
        let mut busy = bench.connect();
        let head = format!(
            "POST /count HTTP/1.1\r\nHost: simulated\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
        );
        busy.connection.send(head.as_bytes());
        busy.connection.send(&[b'x'; BODY_BYTES]);
        let begin_ms = bench.world.now_ms();
        let count = bench.answer(&mut busy)?;
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

/// Both, by one seed.
///
/// # Errors
/// What did not hold.
pub(crate) fn look(seed: u64) -> Result<(), String> {
    idle_clients_keep_nobody_waiting(seed)?;
    greedy_clients_leave_the_others_their_share(seed)
}

#[test]
fn greedy_clients_share_the_buffers() {
    pitfall(
        greedy_clients_leave_the_others_their_share,
        &[Mutant::Overtake],
    );
}

#[test]
fn no_worker_sleeps_while_receives_wait_for_their_turn() {
    pitfall(idle_clients_keep_nobody_waiting, &[Mutant::SleepInQueue]);
}
