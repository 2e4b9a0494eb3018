//! One worker among clients that never rest, turned by hand: what a life leaves to chance is
//! measured here, turn by turn. It knows no deadlines.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use coring::sim::{Connection, Faults, Mutant, Received, Simulated, Step, World};
use coring::{Limits, Request, Response, Service};

use crate::answer::Answer;

/// The cures that show here and in no life.
pub(crate) const CURES: &[Mutant] = &[Mutant::NeverFetch, Mutant::GreedyTurn, Mutant::NewestFirst];

/// Turns in which a worker must have seen what was sent to it.
const TURNS_MAX: u32 = 200;
/// So often a busy call gives way in vain.
const YIELDS_MAX: u32 = 10_000;
/// Clients that ask again and again.
pub(crate) const CLIENTS: usize = 64;
/// Answers for each of them, on average.
const ROUNDS: usize = 50;

/// Calls of one worker that wait for one another: `/busy` gives way until somebody asks for
/// `/free`; `/count` is answered with the length of the request's body; all else is answered after
/// having given way a few times.
struct Site(Rc<Cell<bool>>);

impl Service for Site {
    async fn call(&self, mut request: Request) -> Response {
        let Self(freed) = self;
        match request.path() {
            "/free" => freed.set(true),
            "/busy" => {
                let mut yields = 0;
                while !freed.get() && yields < YIELDS_MAX {
                    give_way().await;
                    yields += 1;
                }
                return Response::text(if freed.get() { "freed" } else { "in vain" });
            }
            "/count" => {
                let body = request.body().read(1 << 20).await;
                return Response::text(body.map_or(0, |body| body.len()).to_string());
            }
            _ => {
                for _ in 0..3 {
                    give_way().await;
                }
            }
        }
        Response::text("done")
    }
}

/// Lets the other tasks run, without anybody else who would wake this one.
async fn give_way() {
    let mut gave_way = false;
    poll_fn(|context| {
        if gave_way {
            return Poll::Ready(());
        }
        gave_way = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A worker and its clients.
pub(crate) struct Bench {
    pub(crate) world: World,
    server: Simulated,
}

impl Bench {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let world = World::new(seed, faults, false);
        let mut limits = Limits::default();
        limits.connections_max = Some(2 * CLIENTS);
        let server = world.enter(|| Simulated::new(&world, 1, &limits, || Site(Rc::default())));
        Self { world, server }
    }

    pub(crate) fn connect(&self) -> Caller {
        let connection = self.world.connect(0).expect("a listener");
        Caller {
            connection,
            received: Vec::new(),
        }
    }

    /// Turns the worker's loop once, when it has something to do.
    pub(crate) fn turn(&mut self) -> Result<(), String> {
        let next_ms = self.server.next_ms(0).ok_or("the worker sleeps for ever")?;
        self.world.advance(next_ms);
        self.server.step(0);
        self.world.violation().map_or(Ok(()), Err)
    }

    /// Lets time pass in which the worker does nothing.
    pub(crate) fn hold_up(&self, duration_ms: u64) {
        self.world.advance(self.world.now_ms() + duration_ms);
    }

    /// Lets time pass in which the worker does what there is to do.
    pub(crate) fn pass(&mut self, duration_ms: u64) -> Result<(), String> {
        let end_ms = self.world.now_ms() + duration_ms;
        while self.server.next_ms(0).is_some_and(|at_ms| at_ms <= end_ms) {
            self.turn()?;
        }
        self.world.advance(end_ms);
        Ok(())
    }

    /// Turns until `caller` has its answer.
    pub(crate) fn answer(&mut self, caller: &mut Caller) -> Result<String, String> {
        for _ in 0..TURNS_MAX {
            if let Some(text) = caller.answer() {
                return Ok(text);
            }
            self.turn()?;
        }
        Err(format!("no answer in {TURNS_MAX} turns"))
    }

    /// Drains the worker, so that nothing is left of it.
    pub(crate) fn end(mut self) -> Result<(), String> {
        self.server.drain();
        while self.server.next_ms(0).is_some() {
            self.turn()?;
        }
        self.server.check_end();
        self.world.violation().map_or(Ok(()), Err)
    }
}

/// A client.
pub(crate) struct Caller {
    pub(crate) connection: Connection,
    received: Vec<u8>,
}

impl Caller {
    pub(crate) fn ask(&self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: simulated\r\n\r\n");
        self.connection.send(request.as_bytes());
    }

    /// The next answer, once it is whole.
    pub(crate) fn answer(&mut self) -> Option<String> {
        if let Received::Bytes(bytes) = self.connection.read(usize::MAX) {
            self.received.extend(bytes);
        }
        let answer = Answer::parse(&self.received).expect("HTTP")?;
        self.received.drain(..answer.len);
        Some(String::from_utf8(answer.body).expect("a text"))
    }
}

/// A call that is busy and never blocks: what others send meanwhile must be seen all the same.
fn busy_tasks_see_what_comes(seed: u64) -> Result<(), String> {
    let mut bench = Bench::new(seed, Faults::none());
    let (mut busy, mut other) = (bench.connect(), bench.connect());
    other.ask("/");
    bench.answer(&mut other)?;
    busy.ask("/busy");
    while bench.server.metrics()[0].requests.get() < 2 {
        bench.turn()?;
    }
    other.ask("/free");
    bench.answer(&mut other)?;
    let text = bench.answer(&mut busy)?;
    if text != "freed" {
        return Err(format!("it was busy {text}"));
    }
    bench.end()
}

/// Many active connections, completions that come twenty at a time, and buffers for a few only:
/// nobody is served three times as often as somebody else.
fn everybody_gets_a_share(seed: u64) -> Result<(), String> {
    let faults = Faults {
        buffers: 8,
        ..Faults::none()
    };
    let mut bench = Bench::new(seed, faults);
    let mut callers: Vec<(Caller, usize)> = (0..CLIENTS).map(|_| (bench.connect(), 0)).collect();
    callers.iter().for_each(|(caller, _)| caller.ask("/"));
    while callers.iter().map(|(_, answers)| answers).sum::<usize>() < CLIENTS * ROUNDS {
        bench.turn()?;
        for (caller, answers) in &mut callers {
            if caller.answer().is_some() {
                *answers += 1;
                caller.ask("/");
            }
        }
    }
    let answers = || callers.iter().map(|(_, answers)| *answers);
    let (least, most) = (answers().min().unwrap_or(0), answers().max().unwrap_or(0));
    if most > 3 * least {
        return Err(format!(
            "one client has {least} answers, another one {most}"
        ));
    }
    drop(callers);
    bench.end()
}

/// Both, by one seed.
///
/// # Errors
/// What did not hold.
pub(crate) fn look(seed: u64) -> Result<(), String> {
    busy_tasks_see_what_comes(seed)?;
    everybody_gets_a_share(seed)
}

/// Each of a few seeds holds; with one of the cures taken out none does.
#[track_caller]
pub(crate) fn pitfall(holds: fn(u64) -> Result<(), String>, cures: &[Mutant]) {
    for seed in 0..10 {
        holds(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        for &cure in cures {
            let outcome = coring::sim::with_mutant(cure, || holds(seed));
            assert!(outcome.is_err(), "{cure:?} is not noticed by seed {seed}");
        }
    }
}

#[test]
fn pitfall_18_a_busy_ring_is_not_advanced() {
    let cures = [Mutant::NeverFetch, Mutant::GreedyTurn];
    pitfall(busy_tasks_see_what_comes, &cures);
}

#[test]
fn pitfall_19_starved_connections() {
    pitfall(everybody_gets_a_share, &[Mutant::NewestFirst]);
}

/// Those who connect all the time, more at each turn than a worker takes in one, keep no drain from
/// its end.
#[test]
fn a_drain_ends_whoever_connects() {
    const DRAIN_MS: u64 = 1000;
    let world = World::new(1, Faults::none(), false);
    world.enter(|| {
        let mut limits = Limits::default();
        limits.connections_max = Some(1000);
        limits.drain_timeout = Some(Duration::from_millis(DRAIN_MS));
        let mut server = Simulated::new(&world, 1, &limits, || Site(Rc::default()));
        server.step(0);
        server.drain();
        // The last look into the backlog, and requests that still arrive, have a second each; the
        // steps are wide.
        let end_ms = world.now_ms() + 2000 + DRAIN_MS + 2000;
        while server.step(0) != Step::Ended {
            assert!(world.now_ms() < end_ms, "the drain goes on");
            for connection in (0..100).map_while(|_| world.connect(0)) {
                connection.finish();
            }
            let next_ms = server.next_ms(0).unwrap_or(end_ms);
            world.advance(next_ms.max(world.now_ms() + 200));
        }
    });
}
