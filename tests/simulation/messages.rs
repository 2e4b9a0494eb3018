//! A service whose coroutines pass messages and descriptors to one another, and give up on them at
//! any moment: no message is lost or torn, and no descriptor is left open.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use coring::net::{Message, UnixSeqpacket};
use coring::sim::{Faults, Mutant, Random, Received, Simulated, World};
use coring::time::timeout;
use coring::{Limits, Request, Response, Service, spawn};

use crate::reach::turn;

/// The cures that show here and in no life.
pub(crate) const CURES: &[Mutant] = &[Mutant::LeakDescriptors];

const REQUESTS: usize = 6;
/// Bytes of a message, at most: more than a block.
const LEN_MAX: usize = 9000;
/// Messages that are waited for, and attempts that end otherwise.
const ATTEMPTS_MAX: usize = 1000;

/// How often receives ended in which way.
#[derive(Debug, Default, Clone, Copy)]
struct Ends {
    received: usize,
    given_up: usize,
    cut_off: usize,
    failed: usize,
}

struct Passing {
    world: World,
    random: RefCell<Random>,
    /// Sends are given up, or fail.
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

/// Sends messages whose first bytes are their number and that of their descriptors.
async fn send_all(mut socket: UnixSeqpacket, world: World, mut random: Random, gives_up: bool) {
    let count = u8::try_from(1 + random.below(8)).expect("a byte");
    for number in 0..count {
        let passed = random.below(4);
        let descriptors = (0..passed).map(|_| world.descriptor().expect("a descriptor"));
        let mut bytes = vec![number; 2 + random.below(LEN_MAX - 1)];
        bytes[1] = u8::try_from(passed).expect("a byte");
        let send = socket.send(bytes, descriptors.collect());
        let patience = if gives_up {
            patience(&mut random)
        } else {
            Duration::MAX
        };
        if let Ok(Err(_)) = timeout(patience, send).await {
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
            match timeout(patience(&mut random), receive).await {
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
                Err(_) => ends.given_up += 1,
            }
            self.ends.set(ends);
            if random.chance(100) {
                return;
            }
        }
        self.world.fail("messages never end");
    }

    fn check(&self, message: &Message, expected: u8) {
        let (number, passed) = (message.bytes[0], message.bytes[1]);
        let is_in_order = number == expected || self.may_lose && number > expected;
        let is_whole = message.bytes[2..].iter().all(|byte| *byte == number);
        if !is_in_order || !is_whole || message.descriptors.len() != usize::from(passed) {
            let came = message.descriptors.len();
            self.world.fail(format_args!(
                "message {number} for {expected}, whole: {is_whole}, {came} descriptors of {passed}"
            ));
        }
    }
}

fn patience(random: &mut Random) -> Duration {
    Duration::from_millis(random.below(80) as u64)
}

/// How receives ended in the life of a server that is stopped in the middle, or at its end.
fn live(seed: u64) -> Result<Ends, String> {
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
    let answers_max = if seed.is_multiple_of(2) {
        REQUESTS
    } else {
        REQUESTS / 2
    };
    let mut answers = String::new();
    let answered = turn(&world, &mut server, || {
        loop {
            match client.read(usize::MAX) {
                Received::Bytes(bytes) => answers.push_str(str::from_utf8(&bytes).expect("text")),
                Received::Nothing => return answers.matches("passed.").count() >= answers_max,
                Received::End | Received::Reset => return true,
            }
        }
    });
    server.stop();
    let ended = answered.and_then(|()| turn(&world, &mut server, || false));
    if let Err(what) = ended {
        // The kernel refuses everything from here on, so that what is broken can be dropped.
        world.fail(&what);
        world.enter(|| drop(server));
        return Err(world.violation().unwrap_or(what));
    }
    server.check_end();
    world.violation().map_or_else(|| Ok(ends.get()), Err)
}

/// # Errors
/// What did not hold.
pub(crate) fn look(seed: u64) -> Result<(), String> {
    live(seed).map(drop)
}

#[test]
fn messages_arrive_and_descriptors_are_closed() {
    let mut all = Ends::default();
    for seed in 0..300 {
        let ends = live(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        all.received += ends.received;
        all.given_up += ends.given_up;
        all.cut_off += ends.cut_off;
        all.failed += ends.failed;
    }
    let least = [all.received, all.given_up, all.cut_off, all.failed];
    assert!(least.iter().all(|count| *count > 30), "{all:?}");
}
