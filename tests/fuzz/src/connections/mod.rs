//! Connections of several clients to real workers on a simulated kernel, with requests in pieces,
//! pauses, kernel faults, resets and a drain. The input determines everything.

mod client;
mod requests;
mod response;
mod site;

use std::time::Duration;

use coring::Limits;
use coring::sim::{Faults, Random, Simulated, Step, World};

use crate::input::Input;
use crate::planned::allow_panics;
use client::{Circumstances, Client};
use site::Kind;

/// Steps of one input.
const STEPS_MAX: usize = 150;
const CLIENTS: usize = 4;
/// More turns of the loops without any time passing are a busy loop.
const TURNS_AT_ONCE_MAX: u32 = 60_000;
/// The turns after which a worker knows of a drain.
const NOTICE_TURNS: u32 = 3;
/// A run ends within this time, in ms.
const RUN_MS_MAX: u64 = 5_000_000;
/// The pauses of a step, in ms. The longest ones exceed every deadline.
const PAUSES_MS: &[u64] = &[1, 10, 100, 400, 1000, 3000, 11_000, 80_000];
/// The shortest timeout that `limits` sets, in ms.
const SHORTEST_DEADLINE_MS: u64 = 400;

const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: a\r\nRange: bytes=1-3\r\n\r\n",
    "GET /d/e.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=100-\r\n\r\n",
    "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /large HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 26\r\n\r\nabcdefghijklmnopqrstuvwxyz",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
     5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n",
    "POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
    "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nabcd",
    "PATCH /abcdefghijk HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd",
    "X /slow HTTP/1.1\r\nHost: a\r\n\r\n",
    "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabcdefghij",
    "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "GET /d/ HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// Runs a server and its clients as the input says.
///
/// # Panics
/// If a client receives something wrong, or the engine misuses the kernel.
pub fn check(data: &[u8]) {
    allow_panics();
    let mut input = Input::new(data);
    let kind = Kind::choose(&mut input);
    let flags = input.below(256);
    let workers = 1 + input.below(2);
    let window_max = 512 << input.below(12);
    let chances = input.up_to(64);
    let mut random = Random::fed(input.take(chances));
    let is_faulty = flags & 1 != 0;
    let faults = match is_faulty {
        true => Faults::random(&mut random),
        false => Faults {
            window_max,
            ..Faults::none()
        },
    };
    let limits = limits(flags);
    let world = World::with_random(random.fork(), faults, false);
    world.enter(|| {
        let mut run = Run {
            server: Simulated::new(&world, workers, &limits, || kind.service()),
            alive: vec![true; workers],
            clients: (0..CLIENTS).map(|_| None).collect(),
            random,
            instant_ms: 0,
            turns: 0,
            begin_ms: world.now_ms(),
            may_break: is_faulty,
            drained: false,
            drain_turns: vec![0; workers],
            world: world.clone(),
        };
        for _ in 0..STEPS_MAX {
            let Some(step) = input.byte() else { break };
            run.take_step(step, &mut input);
        }
        run.end(input.below(3) == 0);
        let circumstances = Circumstances {
            kind,
            may_break: run.may_break,
        };
        for client in run.clients.iter().flatten() {
            client.check(&limits, circumstances);
        }
    });
}

fn limits(flags: usize) -> Limits {
    let mut limits = Limits::default();
    limits.connections_max = Some(if flags & 2 != 0 { 2 } else { 1000 });
    if flags & 4 != 0 {
        limits.head_bytes_max = 400;
        limits.target_bytes_max = 60;
        limits.fields_max = 6;
        limits.body_bytes_max = Some(100);
    }
    if flags & 8 != 0 {
        limits.receive_memory_max = Some(Limits::RECEIVE_MEMORY_MIN);
    }
    if flags & 16 != 0 {
        limits.head_timeout = Some(Duration::from_millis(SHORTEST_DEADLINE_MS));
        limits.body_timeout = Some(Duration::from_millis(700));
        limits.write_timeout = Some(Duration::from_millis(900));
        limits.idle_timeout = Some(Duration::from_millis(1100));
        limits.drain_timeout = Some(Duration::from_millis(1500));
    }
    limits
}

struct Run {
    world: World,
    server: Simulated,
    alive: Vec<bool>,
    clients: Vec<Option<Client>>,
    random: Random,
    instant_ms: u64,
    turns: u32,
    begin_ms: u64,
    may_break: bool,
    drained: bool,
    /// Turns of each worker since the drain began.
    drain_turns: Vec<u32>,
}

impl Run {
    fn take_step(&mut self, step: u8, input: &mut Input<'_>) {
        let number = usize::from(step >> 4) % CLIENTS;
        match step % 16 {
            0..=2 => {
                let len = input.up_to(4096);
                self.send(number, input.take(len));
            }
            3 | 4 => self.send(number, input.pick(REQUESTS).as_bytes()),
            5 => {
                let request = input.pick(REQUESTS);
                let len = 1 + input.below(40);
                for piece in request.as_bytes().chunks(len) {
                    self.send(number, piece);
                    self.settle(3);
                }
            }
            6 => self.send_large(number, input),
            7 => {
                if let Some(client) = &mut self.clients[number] {
                    client.finish();
                }
            }
            8 if input.below(3) == 0 => {
                if let Some(client) = &mut self.clients[number] {
                    client.reset();
                }
            }
            9 => self.settle(1 + u32::from(step >> 4)),
            10 => self.settle(2000),
            11 => self.pass(input.pick(PAUSES_MS)),
            12 | 13 => {
                if let Some(client) = &mut self.clients[number] {
                    let reads = 1 + input.below(20);
                    let _ = (0..reads).take_while(|_| client.read()).count();
                }
            }
            14 => {
                self.read_all();
                self.settle(100);
            }
            15 if input.below(8) == 0 => self.drain(),
            _ => {}
        }
    }

    /// Sends `bytes` from client `number`, which connects first if it has no connection.
    fn send(&mut self, number: usize, bytes: &[u8]) {
        if self.clients[number].is_none() {
            let read_max = [1 << 20, 1 << 20, 700, 64][number];
            let connection = self.world.connect(number % self.alive.len());
            let mark = u8::try_from(number).expect("a small number");
            let client = connection.map(|connection| Client::new(mark, connection, read_max));
            self.clients[number] = client;
            self.tell_of_drain();
        }
        if let Some(client) = &mut self.clients[number] {
            client.send(bytes);
        }
    }

    fn send_large(&mut self, number: usize, input: &mut Input<'_>) {
        let body = vec![b'x'; input.below(256) * 300];
        let method = input.pick(&["POST", "PUT", "PATCH", "DELETE"]);
        let len = body.len();
        let head = format!("{method} /large HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n");
        self.send(number, head.as_bytes());
        self.send(number, &body);
    }

    fn drain(&mut self) {
        self.server.drain();
        (self.drained, self.may_break) = (true, true);
    }

    /// Tells the clients of the drain, as soon as each worker knows of it.
    fn tell_of_drain(&mut self) {
        if self.drain_turns.iter().all(|turns| *turns >= NOTICE_TURNS) {
            let clients = self.clients.iter_mut().flatten();
            clients.for_each(Client::drain_begins);
        }
    }

    /// Lets each client read everything that has arrived. Returns whether there was something.
    fn read_all(&mut self) -> bool {
        let mut has_read = false;
        for client in self.clients.iter_mut().flatten() {
            while client.read() {
                has_read = true;
            }
        }
        has_read
    }

    /// The time of the next event of any worker, in ms.
    fn due_ms(&self) -> Option<u64> {
        let workers = (0..self.alive.len()).filter(|worker| self.alive[*worker]);
        workers
            .filter_map(|worker| self.server.next_ms(worker))
            .min()
    }

    /// Runs the loop of one of the ready workers once. Returns whether a worker was ready.
    fn turn(&mut self) -> bool {
        let now_ms = self.world.now_ms();
        let is_ready = |worker: &usize| {
            let next_ms = self.server.next_ms(*worker).filter(|_| self.alive[*worker]);
            next_ms.is_some_and(|at_ms| at_ms <= now_ms)
        };
        let ready: Vec<usize> = (0..self.alive.len()).filter(is_ready).collect();
        if ready.is_empty() {
            return false;
        }
        let worker = self.random.pick(&ready);
        if self.server.step(worker) == Step::Ended {
            self.alive[worker] = false;
        }
        self.check_world();
        if self.drained {
            self.drain_turns[worker] += 1;
            self.tell_of_drain();
        }
        self.turns = if now_ms == self.instant_ms {
            self.turns + 1
        } else {
            0
        };
        self.instant_ms = now_ms;
        assert!(self.turns < TURNS_AT_ONCE_MAX, "a busy loop");
        true
    }

    fn check_world(&self) {
        if let Some(what) = self.world.violation() {
            panic!("{what}");
        }
    }

    /// Runs ready workers, `turns_max` turns at most.
    fn settle(&mut self, turns_max: u32) {
        for _ in 0..turns_max {
            if !self.turn() {
                break;
            }
        }
    }

    /// Runs the workers while `pause_ms` pass.
    fn pass(&mut self, pause_ms: u64) {
        self.may_break |= pause_ms >= SHORTEST_DEADLINE_MS;
        let until_ms = self.world.now_ms() + pause_ms;
        loop {
            self.settle(TURNS_AT_ONCE_MAX);
            match self.due_ms() {
                Some(at_ms) if at_ms <= until_ms => self.world.advance(at_ms),
                _ => break,
            }
        }
        self.world.advance(until_ms);
    }

    /// Every client reads to the end of its connection. Then the server drains, if it did not
    /// before. With `stay`, the clients do not close: the server's deadlines end the connections.
    fn end(&mut self, stay: bool) {
        for client in self.clients.iter_mut().flatten() {
            client.read_max = usize::MAX;
            if !stay {
                client.finish();
            }
        }
        loop {
            self.settle(TURNS_AT_ONCE_MAX);
            if self.read_all() {
                continue;
            }
            let has_ended = self.clients.iter().flatten().all(|client| client.ended);
            let next_ms = self.due_ms();
            if !self.alive.contains(&true) {
                break;
            } else if !self.drained && (has_ended || next_ms.is_none()) {
                self.server.drain();
                self.drained = true;
            } else {
                self.world
                    .advance(next_ms.expect("no worker sleeps for ever"));
            }
            assert!(
                self.world.now_ms() < self.begin_ms + RUN_MS_MAX,
                "the run does not end"
            );
        }
        self.server.check_end();
        self.check_world();
    }
}
