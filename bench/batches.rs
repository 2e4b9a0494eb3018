//! Fixed batches of requests to a real server over the simulated kernel: what `bench/instructions`
//! counts. No fault, no live socket, one seed: two runs are the same to the instruction. It refuses
//! to know how instructions are counted, and what they cost.

use std::error::Error;
use std::time::{Duration, SystemTime};

use coring::fs::Root;
use coring::sim::{Connection, Faults, Received, Simulated, Step, World};
use coring::{Files, Limits, Request, Response, Service};

const USAGE: &str = "usage: batches keepalive|pipelined|close | batches static FOLDER NAME";
const CONNECTIONS: usize = 32;
const PIPELINED: usize = 16;
/// Rounds until nothing is new any more: memory, caches, the predictions of the server.
const ROUNDS_BEFORE: u64 = 20;
/// Rounds that are counted.
const ROUNDS: u64 = 100;
/// A round takes so long, in simulated time.
const ROUND_MS: u64 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let hello = b"<b>hello world</b>";
    let site = || {
        async |request: Request| match request.path_bytes() {
            b"/" => Response::html("<b>hello world</b>"),
            _ => Response::not_found("<h1>Not Found</h1>"),
        }
    };
    match words[..] {
        ["keepalive"] => run(site, "/", Asks::AtOnce(1), hello),
        ["pipelined"] => run(site, "/", Asks::AtOnce(PIPELINED), hello),
        ["close"] => run(site, "/", Asks::ToClose, hello),
        ["static", folder, name] => {
            let content = std::fs::read(format!("{folder}/{name}"))?;
            let files = || Files::new(Root::open(folder).expect("a folder"));
            run(files, &format!("/{name}"), Asks::AtOnce(1), &content);
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// How each connection asks in a round.
#[derive(Clone, Copy)]
enum Asks {
    /// So many times at once, in round after round.
    AtOnce(usize),
    /// Once, as a new connection that is closed with the answer.
    ToClose,
}

/// Asks for `path` on every connection, again and again.
fn run<S: Service + 'static>(factory: impl Fn() -> S, path: &str, asks: Asks, body: &[u8]) {
    let world = World::new(1, Faults::none(), false);
    world.enter(|| {
        let mut limits = Limits::default();
        limits.connections_max = Some(CONNECTIONS);
        let server = Simulated::new(&world, 1, &limits, factory);
        let (batch, line) = match asks {
            Asks::AtOnce(batch) => (batch, ""),
            Asks::ToClose => (1, "Connection: close\r\n"),
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n{line}\r\n");
        let mut bench = Bench {
            connections: Vec::new(),
            world: world.clone(),
            server,
            asked: request.repeat(batch).into_bytes(),
            asks,
            batch,
            body: body.to_vec(),
        };
        bench.connect();
        bench.rounds(ROUNDS_BEFORE);
        // The server asks the wall clock once a second. Now it does so as a second begins, so the
        // next time comes after all that is counted.
        std::thread::sleep(until_next_second());
        world.advance(world.now_ms() + 1000);
        bench.rounds(ROUNDS_BEFORE);
        counted(&mut bench);
        assert_eq!(world.violation(), None);
        println!("{}", ROUNDS * (CONNECTIONS * batch) as u64);
    });
}

/// What is counted: the counter looks for this name.
#[inline(never)]
fn counted(bench: &mut Bench) {
    bench.rounds(ROUNDS);
}

fn until_next_second() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let into_second = now.map_or(0, |now| now.subsec_nanos());
    Duration::from_secs(1) - Duration::from_nanos(into_second.into())
}

struct Bench {
    world: World,
    server: Simulated,
    connections: Vec<Connection>,
    /// What each connection sends at once.
    asked: Vec<u8>,
    asks: Asks,
    /// Requests in it.
    batch: usize,
    /// What each answer ends with.
    body: Vec<u8>,
}

impl Bench {
    fn connect(&mut self) {
        let connect = |_| self.world.connect(0).expect("the server listens");
        self.connections = (0..CONNECTIONS).map(connect).collect();
    }

    fn rounds(&mut self, count: u64) {
        for _ in 0..count {
            for connection in &self.connections {
                connection.send(&self.asked);
            }
            let now_ms = self.world.now_ms();
            while self.server.next_ms(0).is_some_and(|at_ms| at_ms <= now_ms) {
                assert_ne!(self.server.step(0), Step::Ended, "the server lives on");
            }
            for connection in &self.connections {
                self.check(connection.read(usize::MAX));
            }
            if matches!(self.asks, Asks::ToClose) {
                let closed = |connection: &Connection| connection.read(1) == Received::End;
                assert!(
                    self.connections.iter().all(closed),
                    "closed with the answer"
                );
                self.connect();
            }
            self.world.advance(now_ms + ROUND_MS);
        }
    }

    /// All that was asked for has been answered, and nothing else.
    fn check(&self, received: Received) {
        let Received::Bytes(bytes) = received else {
            panic!("no answers but {received:?}");
        };
        let len = bytes.len() / self.batch;
        assert_eq!(len * self.batch, bytes.len(), "the answers are alike");
        for answer in bytes.chunks(len) {
            assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "all is well");
            assert!(answer.ends_with(&self.body), "with this content");
        }
    }
}
