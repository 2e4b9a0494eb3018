//! A service whose coroutines pass messages and descriptors to one another, and cancel sends and
//! receives at random. Every message that was sent must arrive unchanged or be reported as
//! truncated, and no descriptor may stay open.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use coring::net::{Message, UnixSeqpacket};
use coring::sim::{Faults, Mutant, Random, Received, Simulated, World};
use coring::time::timeout;
use coring::{Limits, Request, Response, Service, spawn};

use crate::reach::run_until;

/// The planted faults that only this test detects.
pub(crate) const MUTANTS: &[Mutant] = &[Mutant::LeakDescriptors];

const REQUESTS: usize = 6;
/// The longest message in bytes: more than a block.
const LEN_MAX: usize = 9000;
/// The receives of one request, whether they succeed or not. More are an endless loop.
const ATTEMPTS_MAX: usize = 1000;

/// How many receives ended in which way.
#[derive(Debug, Default, Clone, Copy)]
struct Ends {
    received: usize,
    /// The receive was dropped by a timeout.
    cancelled: usize,
    /// The receive reported a truncated message (`InvalidData`).
    cut_off: usize,
    failed: usize,
}

struct Passing {
    world: World,
    random: RefCell<Random>,
    /// Sends may be cancelled or fail, so messages may be lost.
    may_lose: bool,
    ends: Rc<Cell<Ends>>,
}

impl Service for Passing {
    async fn call(&self, _: Request) -> Response {
        let mut random = self.random.borrow_mut().fork();
        let (near, far) = UnixSeqpacket::pair().expect("a descriptor");
        let far = UnixSeqpacket::new(far).expect("a socket of messages");
        let sender_random = random.fork();
        spawn(send_all(
            far,
            self.world.clone(),
            sender_random,
            self.may_lose,
        ));
        self.receive_all(near, random).await;
        Response::text("passed.")
    }
}

/// Sends messages. The first byte of a message is its number, the second the number of its
/// descriptors.
async fn send_all(mut socket: UnixSeqpacket, world: World, mut random: Random, cancels: bool) {
    let count = u8::try_from(1 + random.below(8)).expect("a byte");
    for number in 0..count {
        let passed = random.below(4);
        let descriptors = (0..passed).map(|_| world.descriptor().expect("a descriptor"));
        let mut bytes = vec![number; 2 + random.below(LEN_MAX - 1)];
        bytes[1] = u8::try_from(passed).expect("a byte");
        let send = socket.send(bytes, descriptors.collect());
        let limit = if cancels {
            random_timeout(&mut random)
        } else {
            Duration::MAX
        };
        if let Ok(Err(_)) = timeout(limit, send).await {
            return;
        }
    }
}

impl Passing {
    async fn receive_all(&self, mut socket: UnixSeqpacket, mut random: Random) {
        let mut expected = 0;
        for _ in 0..ATTEMPTS_MAX {
            let receive = socket.recv(Vec::with_capacity(LEN_MAX + 1));
            let mut ends = self.ends.get();
            match timeout(random_timeout(&mut random), receive).await {
                Ok(Ok(None)) => return,
                Ok(Ok(Some(message))) => {
                    self.check(&message, expected);
                    expected = message.bytes[0] + 1;
                    ends.received += 1;
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    expected += 1;
                    ends.cut_off += 1;
                }
                Ok(Err(_)) => ends.failed += 1,
                Err(_) => ends.cancelled += 1,
            }
            self.ends.set(ends);
            if random.chance(100) {
                return;
            }
        }
        self.world.fail("the socket does not end");
    }

    fn check(&self, message: &Message, expected: u8) {
        let (number, passed) = (message.bytes[0], message.bytes[1]);
        let is_in_order = number == expected || self.may_lose && number > expected;
        let is_whole = message.bytes[2..].iter().all(|byte| *byte == number);
        if !is_in_order || !is_whole || message.descriptors.len() != usize::from(passed) {
            let came = message.descriptors.len();
            self.world.fail(format_args!(
                "message {number} instead of {expected}, whole: {is_whole}, {came} of {passed} \
                 descriptors"
            ));
        }
    }
}

fn random_timeout(random: &mut Random) -> Duration {
    Duration::from_millis(random.below(80) as u64)
}

/// Runs a server and stops it, for odd seeds before it has sent all responses. Returns how the
/// receives ended.
fn run(seed: u64) -> Result<Ends, String> {
    let mut random = Random::new(seed);
    let may_lose = random.chance(500);
    let faults = Faults {
        delay: 500,
        delay_ms_max: 60,
        fatal: if may_lose { 50 } else { 0 },
        ..Faults::random(&mut random)
    };
    let world = World::new(seed, faults, false);
    let ends = Rc::default();
    let service = || Passing {
        world: world.clone(),
        random: RefCell::new(random.clone()),
        may_lose,
        ends: Rc::clone(&ends),
    };
    let mut server = world.enter(|| Simulated::new(&world, 1, &Limits::default(), service));
    let client = world.connect(0).expect("a listener");
    for _ in 0..REQUESTS {
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let responses_max = if seed.is_multiple_of(2) {
        REQUESTS
    } else {
        REQUESTS / 2
    };
    let mut responses = String::new();
    let outcome = run_until(&world, &mut server, || {
        loop {
            match client.read(usize::MAX) {
                Received::Bytes(bytes) => responses.push_str(str::from_utf8(&bytes).expect("text")),
                Received::Nothing => return responses.matches("passed.").count() >= responses_max,
                Received::End | Received::Reset => return true,
            }
        }
    });
    server.stop();
    let outcome = outcome.and_then(|()| run_until(&world, &mut server, || false));
    if let Err(what) = outcome {
        // After `fail` the kernel fails every call, so the broken server can be dropped.
        world.fail(&what);
        world.enter(|| drop(server));
        return Err(world.violation().unwrap_or(what));
    }
    server.check_end();
    world.violation().map_or_else(|| Ok(ends.get()), Err)
}

/// Runs a server with one seed.
///
/// # Errors
/// If a message or a descriptor is lost; the text says how.
pub(crate) fn check(seed: u64) -> Result<(), String> {
    run(seed).map(drop)
}

#[test]
fn messages_arrive_and_descriptors_are_closed() {
    let mut all = Ends::default();
    for seed in 0..300 {
        let ends = run(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        all.received += ends.received;
        all.cancelled += ends.cancelled;
        all.cut_off += ends.cut_off;
        all.failed += ends.failed;
    }
    let least = [all.received, all.cancelled, all.cut_off, all.failed];
    assert!(least.iter().all(|count| *count > 30), "{all:?}");
}
