//! One server's life by one seed: workers and clients take turns as chance will have it, until a
//! drain has ended everything. It knows what must hold and not how it is achieved.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use coring::Limits;
use coring::sim::{Faults, Random, Simulated, Step, World};

use crate::client::{Client, Manner};
use crate::service::{PLANNED, Site, hold_up_until};

/// Turns of the loops at one instant: more are a spin.
const TURNS_AT_ONCE_MAX: u32 = 20_000;
/// Blocks that a connection may hold: what waits to be asked for, what is received before the
/// receive is cancelled, and what an echo owes.
const BLOCKS_MAX: u64 = 16 + 32 + 64;
/// Blocks that a worker may hold for no connection.
pub(crate) const SPARE_BLOCKS_MAX: u64 = 32;
/// A worker is stopped within so long, for so long at most, in ms: longer than any deadline.
const PAUSED_MS_MAX: usize = 100_000;
/// A life is over by then, in ms: the longest deadlines, one after the other.
const LIFE_MS_MAX: u64 = 400_000;

/// What a life was like.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lived {
    pub(crate) trace: u64,
    pub(crate) steps: u64,
    pub(crate) requests: u64,
}

/// What a life is set up with; all else is left to chance.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) faults: Faults,
    pub(crate) manners: &'static [Manner],
    /// The second signal comes, too.
    pub(crate) may_stop: bool,
    /// Before the drain, workers are stopped for some time now and then, and some calls hold up
    /// their worker.
    pub(crate) holds_up: bool,
}

/// Lives the life of `seed`, in which anything may happen.
///
/// # Errors
/// What did not hold.
pub(crate) fn live(seed: u64, traced: bool) -> Result<Lived, String> {
    let mut random = Random::new(seed);
    let setting = Setting {
        faults: Faults::random(&mut random),
        manners: Manner::ALL,
        may_stop: true,
        holds_up: false,
    };
    live_in(&setting, random, traced)
}

/// As [`live`], in a `setting`.
///
/// # Errors
/// As there.
pub(crate) fn live_in(
    setting: &Setting,
    mut random: Random,
    traced: bool,
) -> Result<Lived, String> {
    be_quiet_about_planned_panics();
    if traced {
        println!("{setting:?}");
    }
    let world = World::new(random.any(), setting.faults.clone(), traced);
    let mut life = world.enter(|| Life::new(setting, world.clone(), random));
    let outcome = quietly(|| catch_unwind(AssertUnwindSafe(|| world.enter(|| life.run()))));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("a panic: {}", text.unwrap_or("of no known kind")))
    });
    if let Err(what) = &outcome {
        // From here on the kernel refuses everything, so that what is broken can be dropped.
        world.fail(what);
        let _ = quietly(|| catch_unwind(AssertUnwindSafe(|| world.enter(|| drop(life)))));
    }
    outcome
}

struct Life {
    world: World,
    server: Simulated,
    workers: Vec<bool>,
    clients: Vec<Client>,
    /// When which worker is stopped, and until when, in order.
    pauses: Vec<(u64, usize, u64)>,
    drains_at_ms: u64,
    drained: bool,
    stops_at_ms: Option<u64>,
    stopped: bool,
    random: Random,
    steps: u64,
}

/// Who can go on.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Worker(usize),
    Client(usize),
    Drain,
    Stop,
}

impl Life {
    fn new(setting: &Setting, world: World, mut random: Random) -> Self {
        let workers = 1 + random.below(3);
        let mut limits = Limits::default();
        limits.connections_max = Some(random.pick(&[1000, 1000, 4]));
        let server = Simulated::new(&world, workers, &limits, || Site);
        let now_ms = world.now_ms();
        // A call that takes time stops the clients as well: those of another worker would be late.
        let may_hold_up = setting.holds_up && workers == 1;
        let clients = 1 + random.below(10);
        let clients = (0..clients).map(|number| {
            let manner = random.pick(setting.manners);
            Client::new(number, manner, may_hold_up, random.fork(), now_ms)
        });
        let clients = clients.collect();
        let drains_at_ms = now_ms + random.pick(&[50, 1000, 2000, 60_000]);
        let (drains_at_ms, pauses) = match setting.holds_up {
            true => pauses(&mut random, now_ms, workers),
            false => (drains_at_ms, Vec::new()),
        };
        hold_up_until(drains_at_ms);
        let stops = setting.may_stop && random.chance(200);
        Self {
            server,
            workers: vec![true; workers],
            clients,
            pauses,
            drains_at_ms,
            drained: false,
            stops_at_ms: stops.then(|| drains_at_ms + random.below(5000) as u64),
            stopped: false,
            random,
            steps: 0,
            world,
        }
    }

    fn run(&mut self) -> Result<Lived, String> {
        let begin_ms = self.world.now_ms();
        let (mut instant_ms, mut turns) = (begin_ms, 0);
        while self.workers.contains(&true) || self.clients.iter().any(|client| !client.done) {
            let now_ms = self.world.now_ms();
            let due = self.due();
            let Some(soonest_ms) = due.iter().map(|(at_ms, _)| *at_ms).min() else {
                return Err("everybody sleeps for ever".to_owned());
            };
            if soonest_ms > now_ms {
                self.world.advance(soonest_ms);
                continue;
            }
            let ready: Vec<Turn> = due
                .into_iter()
                .filter_map(|(at_ms, turn)| (at_ms <= now_ms).then_some(turn))
                .collect();
            let turn = self.random.pick(&ready);
            let taken = self.take_turn(turn);
            self.world.violation().map_or(taken, Err)?;
            self.steps += 1;
            turns = if now_ms == instant_ms { turns + 1 } else { 0 };
            instant_ms = now_ms;
            if turns > TURNS_AT_ONCE_MAX {
                return Err(format!("the loops spin; last {turn:?}"));
            }
            if now_ms > begin_ms + LIFE_MS_MAX {
                return Err("the server does not come to its end".to_owned());
            }
        }
        self.server.check_end();
        self.world.violation().map_or(Ok(()), Err)?;
        let requests = self
            .server
            .metrics()
            .iter()
            .map(|metrics| metrics.requests.get());
        Ok(Lived {
            trace: self.world.trace(),
            steps: self.steps,
            requests: requests.sum(),
        })
    }

    /// Who has something to do, and when, in ms.
    fn due(&self) -> Vec<(u64, Turn)> {
        let now_ms = self.world.now_ms();
        let mut due = Vec::new();
        for worker in 0..self.workers.len() {
            let at_ms = self.server.next_ms(worker).filter(|_| self.workers[worker]);
            let at_ms = at_ms.map(|at_ms| self.after_pauses(worker, at_ms.max(now_ms)));
            due.extend(at_ms.map(|at_ms| (at_ms, Turn::Worker(worker))));
        }
        for (number, client) in self.clients.iter().enumerate() {
            due.extend(
                client
                    .next_ms(now_ms)
                    .map(|at_ms| (at_ms, Turn::Client(number))),
            );
        }
        if !self.drained {
            due.push((self.drains_at_ms, Turn::Drain));
        } else if !self.stopped {
            due.extend(self.stops_at_ms.map(|at_ms| (at_ms, Turn::Stop)));
        }
        due
    }

    /// When a worker can do what it would do `at_ms`.
    fn after_pauses(&self, worker: usize, at_ms: u64) -> u64 {
        let pauses = self.pauses.iter().filter(|(_, whose, _)| *whose == worker);
        pauses.fold(at_ms, |at_ms, (from_ms, _, until_ms)| {
            let is_within = (*from_ms..*until_ms).contains(&at_ms);
            if is_within { *until_ms } else { at_ms }
        })
    }

    fn take_turn(&mut self, turn: Turn) -> Result<(), String> {
        let drain_ms = self.drained.then_some(self.drains_at_ms);
        match turn {
            Turn::Worker(number) => {
                let step = step(&self.world, &mut self.server, number)?;
                self.world.note("worker", number, step as i64);
                if step == Step::Ended {
                    self.workers[number] = false;
                    if !self.drained {
                        return Err("a worker has ended by itself".to_owned());
                    }
                }
            }
            Turn::Client(number) => {
                let listener = number % self.workers.len();
                let outcome = self.clients[number].step(&self.world, listener, drain_ms);
                if !self.stopped {
                    outcome?;
                }
            }
            Turn::Stop => {
                self.world.note("stop", 0, 0);
                self.server.stop();
                self.stopped = true;
            }
            Turn::Drain => {
                self.world.note("drain", 0, 0);
                self.server.drain();
                self.drained = true;
            }
        }
        Ok(())
    }
}

/// Turns the loop of `worker`, which accepts from the listener of the same number.
///
/// # Errors
/// When it holds more memory than its connections may have: a client that sends much to a slow
/// service is slowed down, and what it sends is not stored.
pub(crate) fn step(world: &World, server: &mut Simulated, worker: usize) -> Result<Step, String> {
    // The end of a connection cancels its operations. Each of them keeps its blocks, and the socket
    // open, until the kernel is done with it, so open sockets are counted, not connections that are
    // served. They are counted before the turn: the worker counts its blocks before its last visit
    // to the kernel, and may close sockets in it.
    let sockets = world.held(worker) as u64;
    let step = server.step(worker);
    let blocks = server.metrics()[worker].blocks_in_use.get();
    if blocks > SPARE_BLOCKS_MAX + BLOCKS_MAX * sockets {
        return Err(format!("{sockets} connections hold {blocks} blocks"));
    }
    Ok(step)
}

/// Some pauses of workers, in order, and when the drain begins that follows them.
fn pauses(random: &mut Random, now_ms: u64, workers: usize) -> (u64, Vec<(u64, usize, u64)>) {
    let count = random.below(4);
    let pause = |_| {
        let from_ms = now_ms + random.below(PAUSED_MS_MAX) as u64;
        let length_ms = 1 + random.below(PAUSED_MS_MAX) as u64;
        (from_ms, random.below(workers), from_ms + length_ms)
    };
    let mut pauses: Vec<_> = (0..count).map(pause).collect();
    pauses.sort_unstable();
    (now_ms + 2 * PAUSED_MS_MAX as u64, pauses)
}

thread_local! {
    /// Panics on this thread are somebody's answer, and not to be printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn quietly<R>(body: impl FnOnce() -> R) -> R {
    QUIET.set(true);
    let result = body();
    QUIET.set(false);
    result
}

fn be_quiet_about_planned_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_planned = info.payload().downcast_ref::<&str>() == Some(&PLANNED)
                || info
                    .payload()
                    .downcast_ref::<String>()
                    .is_some_and(|text| text == PLANNED);
            if !is_planned && !QUIET.get() {
                hook(info);
            }
        }));
    });
}
