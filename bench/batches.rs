//! The program whose instructions `bench/instructions` counts. It sends fixed batches of requests
//! to a real server over the simulated kernel. There are no faults, no live sockets and only one
//! seed, so two runs execute the same instructions.

use std::error::Error;
use std::time::{Duration, SystemTime};

use coring::fs::Root;
use coring::sim::{ClientEnd, Faults, Received, Simulated, Step, World};
use coring::{Files, Limits, Request, Response, Service};

const USAGE: &str = "usage: batches keepalive|pipelined|close | batches static FOLDER NAME";
const CONNECTIONS: usize = 32;
const PIPELINED: usize = 16;
/// Rounds that warm up the server: its memory, its caches, and its estimates of buffer sizes.
const ROUNDS_BEFORE: u64 = 20;
/// Rounds that are counted.
const ROUNDS: u64 = 100;
/// The length of a round in simulated time.
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
        ["keepalive"] => run(site, "/", Load::Kept { pipelined: 1 }, hello),
        ["pipelined"] => run(
            site,
            "/",
            Load::Kept {
                pipelined: PIPELINED,
            },
            hello,
        ),
        ["close"] => run(site, "/", Load::Closing, hello),
        ["static", folder, name] => {
            let content = std::fs::read(format!("{folder}/{name}"))?;
            let files = || Files::new(Root::open(folder).expect("FOLDER can be opened"));
            run(
                files,
                &format!("/{name}"),
                Load::Kept { pipelined: 1 },
                &content,
            );
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// The requests that each connection sends in a round.
#[derive(Clone, Copy)]
enum Load {
    /// Several requests at once. The connection is kept for the next round.
    Kept { pipelined: usize },
    /// One request with `Connection: close`. The next round uses a new connection.
    Closing,
}

/// Requests `path` on every connection in every round, and checks that the responses end with
/// `body`. Prints the number of counted requests.
fn run<S: Service + 'static>(factory: impl Fn() -> S, path: &str, load: Load, body: &[u8]) {
    let world = World::new(1, Faults::none(), false);
    world.enter(|| {
        let mut limits = Limits::default();
        limits.connections_max = Some(CONNECTIONS);
        let server = Simulated::new(&world, 1, &limits, factory);
        let (batch, line) = match load {
            Load::Kept { pipelined } => (pipelined, ""),
            Load::Closing => (1, "Connection: close\r\n"),
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n{line}\r\n");
        let mut bench = Bench {
            connections: Vec::new(),
            world: world.clone(),
            server,
            requests: request.repeat(batch).into_bytes(),
            load,
            batch,
            body: body.to_vec(),
        };
        bench.connect();
        bench.rounds(ROUNDS_BEFORE);
        // The server reads the wall clock once a second, for `Date`. Make it do so now, at the
        // start of a second: the next time is then after the counted rounds.
        std::thread::sleep(until_next_second());
        world.advance(world.now_ms() + 1000);
        bench.rounds(ROUNDS_BEFORE);
        counted(&mut bench);
        assert_eq!(world.violation(), None);
        println!("{}", ROUNDS * (CONNECTIONS * batch) as u64);
    });
}

/// `bench/instructions` counts only this function and its callees, which it finds by this name.
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
    connections: Vec<ClientEnd>,
    /// The bytes that each connection sends in a round.
    requests: Vec<u8>,
    load: Load,
    /// The number of requests in `requests`.
    batch: usize,
    /// The body of each response.
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
                connection.send(&self.requests);
            }
            let now_ms = self.world.now_ms();
            while self.server.next_ms(0).is_some_and(|at_ms| at_ms <= now_ms) {
                assert_ne!(self.server.step(0), Step::Ended, "the server ended");
            }
            for connection in &self.connections {
                self.check(connection.read(usize::MAX));
            }
            if matches!(self.load, Load::Closing) {
                let closed = |connection: &ClientEnd| connection.read(1) == Received::End;
                assert!(
                    self.connections.iter().all(closed),
                    "the server did not close a connection after the response"
                );
                self.connect();
            }
            self.world.advance(now_ms + ROUND_MS);
        }
    }

    /// Checks that each request of a batch got a response with status 200 and the expected body,
    /// and that the server sent nothing else.
    fn check(&self, received: Received) {
        let Received::Bytes(bytes) = received else {
            panic!("expected responses, got {received:?}");
        };
        let len = bytes.len() / self.batch;
        assert_eq!(len * self.batch, bytes.len(), "responses differ in length");
        for response in bytes.chunks(len) {
            assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n"), "not 200");
            assert!(response.ends_with(&self.body), "another body");
        }
    }
}
