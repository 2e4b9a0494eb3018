//! One run of a server, determined by one seed. Workers and clients make steps in a random order,
//! until a drain has ended all of them. The checks know what the server must do, not how it works.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use coring::Limits;
use coring::sim::{Faults, Random, Simulated, Step, World};

use crate::client::{Behaviour, Client};
use crate::service::{PLANNED, Site, delay_worker_until};

/// More steps than this without any time passing are a busy loop.
const STEPS_AT_ONCE_MAX: u32 = 500_000;
/// Blocks that a connection may hold: received bytes that the service has not taken, bytes received
/// until the receive is cancelled, and bytes of an echo that are not sent.
const BLOCKS_MAX: u64 = 16 + 32 + 64;
/// Blocks that a worker may hold in addition to those of its connections.
pub(crate) const SPARE_BLOCKS_MAX: u64 = 32;
/// A pause of a worker begins within this time, and lasts no longer, in ms: more than any deadline.
const PAUSED_MS_MAX: usize = 100_000;
/// A run ends within this time, in ms: the sum of the longest deadlines.
const RUN_MS_MAX: u64 = 400_000;

/// The result of a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// A hash of everything that happened.
    pub(crate) trace: u64,
    pub(crate) steps: u64,
    pub(crate) requests: u64,
}

/// The parameters of a run. Everything else is random.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) faults: Faults,
    pub(crate) behaviours: &'static [Behaviour],
    /// In some runs the server is stopped during its drain, as by a second signal.
    pub(crate) may_stop: bool,
    /// Before the drain, workers are suspended now and then, and some calls block their worker.
    pub(crate) delays_worker: bool,
    /// The workers are guests of another executor.
    pub(crate) guests: bool,
}

/// Runs `seed` with random faults and every kind of client. With odd seeds the workers are guests.
///
/// # Errors
/// If the server or the engine broke a rule; the text says which.
pub(crate) fn run_seed(seed: u64, traced: bool) -> Result<Summary, String> {
    run_seed_with(seed, seed % 2 == 1, traced)
}

/// As [`run_seed`]; `guests` says whether the workers are guests.
///
/// # Errors
/// As for [`run_seed`].
pub(crate) fn run_seed_with(seed: u64, guests: bool, traced: bool) -> Result<Summary, String> {
    let mut random = Random::new(seed);
    let setting = Setting {
        faults: Faults::random(&mut random),
        behaviours: Behaviour::ALL,
        may_stop: true,
        delays_worker: false,
        guests,
    };
    run_with(&setting, random, traced)
}

/// As [`run_seed`], with a given `setting`.
///
/// # Errors
/// As for [`run_seed`].
pub(crate) fn run_with(
    setting: &Setting,
    mut random: Random,
    traced: bool,
) -> Result<Summary, String> {
    silence_planned_panics();
    if traced {
        println!("{setting:?}");
    }
    let world = World::new(random.any(), setting.faults.clone(), traced);
    if setting.guests {
        world.host_workers();
    }
    let mut run = world.enter(|| Run::new(setting, world.clone(), random));
    let outcome = quietly(|| catch_unwind(AssertUnwindSafe(|| world.enter(|| run.run_to_end()))));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!(
            "a panic: {}",
            text.unwrap_or("its payload is no string")
        ))
    });
    if let Err(what) = &outcome {
        // After `fail` the kernel fails every call, so the broken server can be dropped.
        world.fail(what);
        let _ = quietly(|| catch_unwind(AssertUnwindSafe(|| world.enter(|| drop(run)))));
    }
    outcome
}

struct Run {
    world: World,
    server: Simulated,
    /// Which workers are still running.
    workers: Vec<bool>,
    clients: Vec<Client>,
    /// The pauses in the order of their beginning: begin in ms, worker, end in ms.
    pauses: Vec<(u64, usize, u64)>,
    drains_at_ms: u64,
    drained: bool,
    stops_at_ms: Option<u64>,
    stopped: bool,
    random: Random,
    steps: u64,
}

/// The next step: of a worker, of a client, or a signal.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Worker(usize),
    Client(usize),
    Drain,
    Stop,
}

impl Run {
    fn new(setting: &Setting, world: World, mut random: Random) -> Self {
        let workers = 1 + random.below(3);
        let mut limits = Limits::default();
        limits.connections_max = Some(random.pick(&[1000, 1000, 4]));
        let server = Simulated::new(&world, workers, &limits, || Site);
        let now_ms = world.now_ms();
        // A blocking call advances the clock, so the clients of another worker would be late.
        let may_delay_worker = setting.delays_worker && workers == 1;
        let clients = 1 + random.below(10);
        let clients = (0..clients).map(|number| {
            let behaviour = random.pick(setting.behaviours);
            Client::new(number, behaviour, may_delay_worker, random.fork(), now_ms)
        });
        let clients = clients.collect();
        let drains_at_ms = now_ms + random.pick(&[50, 1000, 2000, 60_000]);
        let (drains_at_ms, pauses) = match setting.delays_worker {
            true => pauses(&mut random, now_ms, workers),
            false => (drains_at_ms, Vec::new()),
        };
        delay_worker_until(drains_at_ms);
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

    fn run_to_end(&mut self) -> Result<Summary, String> {
        let begin_ms = self.world.now_ms();
        let (mut instant_ms, mut turns) = (begin_ms, 0);
        while self.workers.contains(&true) || self.clients.iter().any(|client| !client.done) {
            let now_ms = self.world.now_ms();
            let due = self.due();
            let Some(soonest_ms) = due.iter().map(|(at_ms, _)| *at_ms).min() else {
                return Err("no worker and no client has a next step".to_owned());
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
            if turns > STEPS_AT_ONCE_MAX {
                return Err(format!("a busy loop; the last step: {turn:?}"));
            }
            if now_ms > begin_ms + RUN_MS_MAX {
                return Err("the server does not end".to_owned());
            }
        }
        self.server.check_end();
        self.world.violation().map_or(Ok(()), Err)?;
        let requests = self
            .server
            .metrics()
            .iter()
            .map(|metrics| metrics.requests.get());
        Ok(Summary {
            trace: self.world.trace(),
            steps: self.steps,
            requests: requests.sum(),
        })
    }

    /// The possible next steps, each with its time in ms.
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

    /// The time at which a worker makes the step that is due at `at_ms`: later if it is suspended.
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
                        return Err("a worker ended before the drain".to_owned());
                    }
                }
            }
            Turn::Client(number) => {
                let listener = number % self.workers.len();
                let outcome = self.clients[number].step(&self.world, listener, drain_ms);
                // A stop cuts off the connections, so a client may then miss responses.
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

/// Runs the loop of `worker` once. The worker accepts from the listener of the same number.
///
/// # Errors
/// If the worker holds more blocks than its connections may have. It must slow down a client that
/// sends to a slow service, instead of storing what the client sends.
pub(crate) fn step(world: &World, server: &mut Simulated, worker: usize) -> Result<Step, String> {
    // A connection that ends cancels its operations, and each operation keeps its blocks and the
    // socket until its final completion. So open sockets are counted, not connections. They are
    // counted before the step, because the worker updates `blocks_in_use` before it enters the
    // kernel, and may close sockets afterwards.
    let sockets = world.held(worker) as u64;
    let step = server.step(worker);
    let blocks = server.metrics()[worker].blocks_in_use.get();
    if blocks > SPARE_BLOCKS_MAX + BLOCKS_MAX * sockets {
        return Err(format!("{sockets} connections hold {blocks} blocks"));
    }
    Ok(step)
}

/// The beginning of the drain in ms, and random pauses of workers before it, in order.
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
    /// Panics on this thread are caught and reported by the caller, so the hook prints nothing.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body` and prints none of its panics.
fn quietly<R>(body: impl FnOnce() -> R) -> R {
    QUIET.set(true);
    let result = body();
    QUIET.set(false);
    result
}

/// Installs a panic hook that does not print panics with the message `PLANNED`.
fn silence_planned_panics() {
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
