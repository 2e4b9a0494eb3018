//! One worker and clients that send without a pause. The tests run the worker's loop turn by turn
//! and measure fairness, which the random runs do not. No deadline matters here.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use coring::sim::{ClientEnd, Faults, Mutant, Received, Simulated, Step, World};
use coring::{Limits, Request, Response, Service};

use crate::response::ParsedResponse;

/// The planted faults that only these tests detect.
pub(crate) const MUTANTS: &[Mutant] =
    &[Mutant::NeverFetch, Mutant::GreedyTurn, Mutant::NewestFirst];

/// The turns within which a worker must respond.
const TURNS_MAX: u32 = 200;
/// The turns within which a test must end.
const TURNS_SUM_MAX: u32 = 200_000;
/// A busy call gives up after this number of yields.
const YIELDS_MAX: u32 = 10_000;
/// The number of active clients.
pub(crate) const CLIENTS: usize = 64;
/// Responses per client, on average.
const ROUNDS: usize = 50;

/// The service. `/busy` yields until a request for `/free` arrives, `/count` responds with the
/// length of the request's body, and every other path yields a few times before it responds.
struct Site(Rc<Cell<bool>>);

impl Service for Site {
    async fn call(&self, mut request: Request) -> Response {
        let Self(freed) = self;
        match request.path() {
            "/free" => freed.set(true),
            "/busy" => {
                let mut yields = 0;
                while !freed.get() && yields < YIELDS_MAX {
                    yield_once().await;
                    yields += 1;
                }
                return Response::text(if freed.get() { "freed" } else { "gave up" });
            }
            "/count" => {
                let body = request.body().read(1 << 20).await;
                return Response::text(body.map_or(0, |body| body.len()).to_string());
            }
            _ => {
                for _ in 0..3 {
                    yield_once().await;
                }
            }
        }
        Response::text("done")
    }
}

/// Lets the other tasks run. Nothing but the task itself wakes it.
async fn yield_once() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A server of one worker, and the world that clients connect to.
pub(crate) struct Bench {
    pub(crate) world: World,
    server: Simulated,
    turns_left: u32,
}

impl Bench {
    /// With odd seeds the worker is a guest.
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let world = World::new(seed, faults, false);
        if seed % 2 == 1 {
            world.host_workers();
        }
        let mut limits = Limits::default();
        limits.connections_max = Some(2 * CLIENTS);
        let server = world.enter(|| Simulated::new(&world, 1, &limits, || Site(Rc::default())));
        Self {
            world,
            server,
            turns_left: TURNS_SUM_MAX,
        }
    }

    pub(crate) fn connect(&self) -> TestClient {
        let connection = self.world.connect(0).expect("a listener");
        TestClient {
            connection,
            received: Vec::new(),
        }
    }

    /// Runs the worker's loop once, after it has advanced the clock to the worker's next event.
    pub(crate) fn turn(&mut self) -> Result<(), String> {
        let next_ms = self.server.next_ms(0).ok_or("the worker sleeps for ever")?;
        self.turns_left = self.turns_left.checked_sub(1).ok_or("a busy loop")?;
        self.world.advance(next_ms);
        self.server.step(0);
        self.world.violation().map_or(Ok(()), Err)
    }

    /// Advances the clock while the worker is suspended.
    pub(crate) fn delay_worker(&self, duration_ms: u64) {
        self.world.advance(self.world.now_ms() + duration_ms);
    }

    /// Advances the clock while the worker runs.
    pub(crate) fn pass(&mut self, duration_ms: u64) -> Result<(), String> {
        let end_ms = self.world.now_ms() + duration_ms;
        while self.server.next_ms(0).is_some_and(|at_ms| at_ms <= end_ms) {
            self.turn()?;
        }
        self.world.advance(end_ms);
        Ok(())
    }

    /// Runs the worker until `client` has received a response; returns its body.
    pub(crate) fn wait_for_response(&mut self, client: &mut TestClient) -> Result<String, String> {
        for _ in 0..TURNS_MAX {
            if let Some(text) = client.response() {
                return Ok(text);
            }
            self.turn()?;
        }
        Err(format!("no response in {TURNS_MAX} turns"))
    }

    /// Drains the worker and checks that no connection and no descriptor is left.
    pub(crate) fn end(mut self) -> Result<(), String> {
        self.server.drain();
        while self.server.next_ms(0).is_some() {
            self.turn()?;
        }
        self.server.check_end();
        self.world.violation().map_or(Ok(()), Err)
    }
}

/// A client whose requests and responses are small.
pub(crate) struct TestClient {
    pub(crate) connection: ClientEnd,
    received: Vec<u8>,
}

impl TestClient {
    pub(crate) fn send_get(&self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: simulated\r\n\r\n");
        self.connection.send(request.as_bytes());
    }

    /// Reads once. The body of the next response, or `None` while it is incomplete.
    pub(crate) fn response(&mut self) -> Option<String> {
        if let Received::Bytes(bytes) = self.connection.read(usize::MAX) {
            self.received.extend(bytes);
        }
        let response = ParsedResponse::parse(&self.received).expect("HTTP")?;
        self.received.drain(..response.len);
        Some(String::from_utf8(response.body).expect("a text"))
    }
}

/// While a task is always ready, the worker must still receive what another client sends.
fn a_busy_task_delays_no_other_request(seed: u64) -> Result<(), String> {
    let mut bench = Bench::new(seed, Faults::none());
    let (mut busy, mut other) = (bench.connect(), bench.connect());
    other.send_get("/");
    bench.wait_for_response(&mut other)?;
    busy.send_get("/busy");
    while bench.server.metrics()[0].requests.get() < 2 {
        bench.turn()?;
    }
    other.send_get("/free");
    bench.wait_for_response(&mut other)?;
    let text = bench.wait_for_response(&mut busy)?;
    if text != "freed" {
        return Err(format!("the busy call {text}"));
    }
    bench.end()
}

/// There are many active connections and few buffers, and one call fetches only a part of the
/// completions. No client may be served more than three times as often as another.
fn active_clients_are_served_equally(seed: u64) -> Result<(), String> {
    let faults = Faults {
        buffers: 8,
        ..Faults::none()
    };
    let mut bench = Bench::new(seed, faults);
    let mut clients: Vec<(TestClient, usize)> =
        (0..CLIENTS).map(|_| (bench.connect(), 0)).collect();
    clients.iter().for_each(|(client, _)| client.send_get("/"));
    while clients
        .iter()
        .map(|(_, responses)| responses)
        .sum::<usize>()
        < CLIENTS * ROUNDS
    {
        bench.turn()?;
        for (client, responses) in &mut clients {
            if client.response().is_some() {
                *responses += 1;
                client.send_get("/");
            }
        }
    }
    let responses = || clients.iter().map(|(_, responses)| *responses);
    let (least, most) = (
        responses().min().unwrap_or(0),
        responses().max().unwrap_or(0),
    );
    if most > 3 * least {
        return Err(format!(
            "one client has {least} responses, another has {most}"
        ));
    }
    drop(clients);
    bench.end()
}

/// Runs both checks with one seed.
///
/// # Errors
/// If a check fails; the text says how.
pub(crate) fn check(seed: u64) -> Result<(), String> {
    a_busy_task_delays_no_other_request(seed)?;
    active_clients_are_served_equally(seed)
}

/// Asserts that a check passes for each of ten seeds, and fails for each with a planted fault.
#[track_caller]
pub(crate) fn pitfall(holds: fn(u64) -> Result<(), String>, mutants: &[Mutant]) {
    for seed in 0..10 {
        holds(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        for &mutant in mutants {
            let outcome = coring::sim::with_mutant(mutant, || holds(seed));
            assert!(
                outcome.is_err(),
                "{mutant:?} is not detected by seed {seed}"
            );
        }
    }
}

#[test]
fn pitfall_18_a_busy_ring_is_not_advanced() {
    let mutants = [Mutant::NeverFetch, Mutant::GreedyTurn];
    pitfall(a_busy_task_delays_no_other_request, &mutants);
}

#[test]
fn pitfall_19_starved_connections() {
    pitfall(active_clients_are_served_equally, &[Mutant::NewestFirst]);
}

/// A drain ends although new clients connect all the time, more in each turn than a worker accepts
/// in one.
#[test]
fn a_drain_ends_while_clients_connect() {
    const DRAIN_MS: u64 = 1000;
    let world = World::new(1, Faults::none(), false);
    world.enter(|| {
        let mut limits = Limits::default();
        limits.connections_max = Some(1000);
        limits.drain_timeout = Some(Duration::from_millis(DRAIN_MS));
        let mut server = Simulated::new(&world, 1, &limits, || Site(Rc::default()));
        server.step(0);
        server.drain();
        // A drain accepts from the backlog for one second, and responds to new requests for
        // another. The last term is slack, because each step advances the clock by 200 ms.
        let end_ms = world.now_ms() + 2000 + DRAIN_MS + 2000;
        while server.step(0) != Step::Ended {
            assert!(world.now_ms() < end_ms, "the drain does not end");
            for connection in (0..100).map_while(|_| world.connect(0)) {
                connection.finish();
            }
            let next_ms = server.next_ms(0).unwrap_or(end_ms);
            world.advance(next_ms.max(world.now_ms() + 200));
        }
    });
}
