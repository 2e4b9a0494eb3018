//! Futures of every kind that are dropped at random moments: before their first poll, while they
//! wait, after they were woken, and with the coroutine that they belong to. Nothing may be lost,
//! nothing may leak, and no other coroutine may wait for ever.
//!
//! ```text
//! CORING_SEED=77 cargo test --features mutants --test simulation drops -- --nocapture
//! ```

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use coring::sim::{Faults, Mutant, Random, Received, Simulated, World};
use coring::sync::{Mutex, Notify, Semaphore, channel, oneshot};
use coring::task::{JoinSet, Switch, blocking, join_all, race, yield_now};
use coring::time::{interval, sleep, timeout};
use coring::{Limits, Request, Response, Service, remote, spawn, sync};

use crate::variable;

/// The planted faults that only this test detects.
pub(crate) const MUTANTS: &[Mutant] = &[Mutant::LoseGrant];

const COROUTINES: usize = 12;
/// The futures that each of them makes.
const STEPS: usize = 12;
const PERMITS: usize = 3;
/// More turns of the worker's loop mean that a coroutine waits for ever.
const TURNS_MAX: u32 = 20_000;

type Boxed = Pin<Box<dyn Future<Output = ()>>>;

/// A value that is counted while it exists.
struct Tracked(Rc<Shared>);

/// What the coroutines share, and the counts that must match at the end.
struct Shared {
    semaphore: Rc<Semaphore>,
    mutex: Mutex<u32>,
    notify: Notify,
    local: RefCell<Option<sync::Sender<Tracked>>>,
    local_end: Mutex<Option<sync::Receiver<Tracked>>>,
    remote: RefCell<Option<remote::Sender<Tracked>>>,
    remote_end: Mutex<Option<remote::Receiver<Tracked>>>,
    values: Cell<i64>,
    sent: Cell<u64>,
    received: Cell<u64>,
}

impl Tracked {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.values.set(shared.values.get() + 1);
        Self(shared.clone())
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.0.values.set(self.0.values.get() - 1);
    }
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

fn ms(duration_ms: usize) -> Duration {
    Duration::from_millis(duration_ms as u64)
}

async fn yields(times: usize) {
    for _ in 0..times {
        yield_now().await;
    }
}

/// Waits for permits, locks and notifications.
async fn wait_in_turn(shared: &Rc<Shared>, random: &mut Random) {
    let times = random.below(3);
    match random.below(4) {
        0 => {
            let permits = shared.semaphore.acquire_many(1 + random.below(PERMITS));
            let _permits = permits.await.expect("it is open");
            yields(times).await;
        }
        1 => {
            let permit = shared.semaphore.clone().acquire_owned().await;
            spawn(async move {
                sleep(ms(times)).await;
                drop(permit);
            });
        }
        2 => {
            let mut locked = shared.mutex.lock().await;
            yields(times).await;
            *locked += 1;
        }
        _ => shared.notify.notified().await,
    }
}

/// Sends and receives through the channels of the storm.
async fn pass_values(shared: &Rc<Shared>, random: &mut Random) {
    match random.below(4) {
        0 => {
            let sender = shared.local.borrow().clone().expect("open until the end");
            if sender.send(Tracked::new(shared)).await.is_ok() {
                count(&shared.sent);
            }
        }
        1 => {
            let sender = shared.remote.borrow().clone().expect("open until the end");
            if sender.send(Tracked::new(shared)).await.is_ok() {
                count(&shared.sent);
            }
        }
        2 => {
            let mut end = shared.local_end.lock().await;
            let value = end.as_mut().expect("open until the end").recv().await;
            value.into_iter().for_each(|_| count(&shared.received));
        }
        _ => {
            let mut end = shared.remote_end.lock().await;
            let value = end.as_mut().expect("open until the end").recv().await;
            value.into_iter().for_each(|_| count(&shared.received));
        }
    }
}

/// Waits for other coroutines, and for times.
async fn wait_for_others(random: &mut Random) {
    let times = random.below(4);
    match random.below(8) {
        0 => sleep(ms(times)).await,
        1 => {
            let mut ticks = interval(ms(1 + times));
            for _ in 0..times {
                ticks.tick().await;
            }
        }
        2 => {
            let (sender, receiver) = oneshot::channel();
            spawn(async move {
                yields(times).await;
                let _ = sender.send(times);
            });
            assert_eq!(receiver.await, Ok(times));
        }
        3 => {
            let mut set = JoinSet::new();
            for n in 0..3 {
                set.spawn(sleep(ms(n)));
            }
            for _ in 0..times {
                set.join_next().await;
            }
        }
        4 => {
            let many = 10 * times + 1;
            join_all((0..many).map(|n| sleep(ms(n % 4)))).await;
            race((0..many).map(|n| sleep(ms(1 + n % 4)))).await;
        }
        5 => {
            let (mut here, mut there) = Switch::pair();
            spawn(async move {
                let mut next = there.wait().await;
                while let Some(n) = next {
                    next = there.switch(n + 1).await;
                }
            });
            for n in 0..times {
                assert_eq!(here.switch(n).await, Some(n + 1));
            }
        }
        6 => {
            assert_eq!(blocking(move || times).await, Ok(times));
            let hosts = coring::fs::File::open("/proc/self/stat").await;
            assert!(hosts.expect("a file").read_to_end(0).await.is_ok());
        }
        _ => {
            let there = remote::spawn(&remote::current(), move || async move {
                yields(times).await;
                times
            });
            assert_eq!(there.await, Ok(times));
        }
    }
}

/// A future of a random kind.
fn any_future(shared: &Rc<Shared>, random: &mut Random) -> Boxed {
    let (shared, mut random) = (shared.clone(), random.fork());
    Box::pin(async move {
        match random.below(3) {
            0 => wait_in_turn(&shared, &mut random).await,
            1 => pass_values(&shared, &mut random).await,
            _ => wait_for_others(&mut random).await,
        }
    })
}

/// Makes a future, and lets it end, or drops it in a random way.
async fn step(shared: &Rc<Shared>, random: &mut Random) {
    let future = any_future(shared, random);
    match random.below(7) {
        0 => drop(future),
        1 => future.await,
        2 => drop(timeout(ms(random.below(4)), future).await),
        3 => coring::select! {
            () = future => {}
            () = yields(random.below(4)) => {}
        },
        4 => race([future, any_future(shared, random)]).await,
        5 => {
            let handle = spawn(future);
            yields(random.below(4)).await;
            handle.abort();
            if random.chance(500) {
                let _ = handle.await;
            }
        }
        _ => {
            let all = join_all([future, any_future(shared, random)]);
            drop(timeout(ms(random.below(8)), all).await);
        }
    }
}

/// Notifies, sends and receives, so that no future waits in vain.
async fn pump(shared: Rc<Shared>, mut random: Random) {
    let mut ticks = interval(ms(1));
    loop {
        ticks.tick().await;
        match random.below(4) {
            0 => shared.notify.notify_waiters(),
            _ => shared.notify.notify_one(),
        }
        let (local, remote) = (
            shared.local.borrow().clone(),
            shared.remote.borrow().clone(),
        );
        let value = || Tracked::new(&shared);
        if random.chance(500) {
            let local = local.is_some_and(|sender| sender.try_send(value()).is_ok());
            let remote = remote.is_some_and(|sender| sender.try_send(value()).is_ok());
            [local, remote]
                .iter()
                .filter(|sent| **sent)
                .for_each(|_| count(&shared.sent));
            continue;
        }
        if let Ok(mut end) = shared.local_end.try_lock()
            && end.as_mut().is_some_and(|end| end.try_recv().is_ok())
        {
            count(&shared.received);
        }
        if let Ok(mut end) = shared.remote_end.try_lock()
            && end.as_mut().is_some_and(|end| end.try_recv().is_ok())
        {
            count(&shared.received);
        }
    }
}

/// Runs the storm, and returns what is wrong afterwards.
async fn storm(mut random: Random) -> String {
    let (local, local_end) = channel(2);
    let (remote, remote_end) = remote::channel(2);
    let shared = Rc::new(Shared {
        semaphore: Rc::new(Semaphore::new(PERMITS)),
        mutex: Mutex::new(0),
        notify: Notify::new(),
        local: RefCell::new(Some(local)),
        local_end: Mutex::new(Some(local_end)),
        remote: RefCell::new(Some(remote)),
        remote_end: Mutex::new(Some(remote_end)),
        values: Cell::new(0),
        sent: Cell::new(0),
        received: Cell::new(0),
    });
    let pumping = spawn(pump(shared.clone(), random.fork()));
    let coroutines = (0..COROUTINES).map(|_| {
        let (shared, mut random) = (shared.clone(), random.fork());
        spawn(async move {
            for _ in 0..STEPS {
                step(&shared, &mut random).await;
            }
        })
    });
    let outcomes = join_all(coroutines).await;
    // Aborted and detached coroutines end soon, and so do the permits that some of them hold.
    sleep(ms(100)).await;
    pumping.abort();
    let _ = pumping.await;
    end(&shared, outcomes.iter().all(Result::is_ok)).await
}

async fn end(shared: &Rc<Shared>, has_succeeded: bool) -> String {
    let mut faults = String::new();
    let mut check = |holds: bool, what: &str| {
        if !holds {
            faults.push_str(what);
            faults.push_str("; ");
        }
    };
    check(has_succeeded, "a coroutine panicked");
    check(
        shared.semaphore.available_permits() == PERMITS,
        "permits are lost",
    );
    check(shared.mutex.try_lock().is_ok(), "the lock is held");
    // In this order: the senders must be gone, so that the receivers find the end.
    shared.local.take();
    shared.remote.take();
    if let (Some(mut local), Some(mut remote)) = (
        shared.local_end.lock().await.take(),
        shared.remote_end.lock().await.take(),
    ) {
        while local.try_recv().is_ok() {
            count(&shared.received);
        }
        while remote.try_recv().is_ok() {
            count(&shared.received);
        }
        check(local.recv().await.is_none(), "a sender is left");
        check(
            remote.recv().await.is_none(),
            "a sender of the other channel is left",
        );
    }
    check(shared.sent == shared.received, "values are lost or doubled");
    check(shared.values.get() == 0, "a value leaks");
    check(Rc::strong_count(shared) == 1, "a future leaks");
    match faults.is_empty() {
        true => "calm".to_owned(),
        false => faults,
    }
}

/// Each call is a storm.
struct Storms(RefCell<Random>);

impl Service for Storms {
    async fn call(&self, _request: Request) -> Response {
        let random = self.0.borrow_mut().fork();
        Response::text(storm(random).await)
    }
}

/// Runs one storm.
///
/// # Errors
/// If a coroutine waits for ever, or the counts do not match afterwards.
pub(crate) fn check(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let faults = Faults {
        completions: random.pick(&[2, 1000]),
        delay: random.pick(&[0, 300]),
        delay_ms_max: 10,
        ..Faults::none()
    };
    let world = World::new(seed, faults, false);
    if random.chance(500) {
        world.host_workers();
    }
    let storms = random.fork();
    let service = || Storms(RefCell::new(storms.clone()));
    let mut server = world.enter(|| Simulated::new(&world, 1, &Limits::default(), service));
    let client = world.connect(0).ok_or("no listener")?;
    client.send(b"GET / HTTP/1.1\r\nHost: simulated\r\nConnection: close\r\n\r\n");
    let mut received = Vec::new();
    for _ in 0..TURNS_MAX {
        let next_ms = server.next_ms(0).ok_or("the worker sleeps for ever")?;
        world.advance(next_ms);
        server.step(0);
        world.violation().map_or(Ok(()), Err)?;
        if let Received::Bytes(bytes) = client.read(usize::MAX) {
            received.extend_from_slice(&bytes);
        }
        let text = String::from_utf8_lossy(&received);
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && !body.is_empty()
        {
            let body = body.to_owned();
            server.stop();
            while server.next_ms(0).is_some() {
                server.step(0);
            }
            world.violation().map_or(Ok(()), Err)?;
            return if body == "calm" { Ok(()) } else { Err(body) };
        }
    }
    Err("a coroutine waits for ever".to_owned())
}

#[test]
fn futures_may_be_dropped_at_any_moment() {
    if let Some(seed) = variable("CORING_SEED") {
        return check(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
    for seed in 0..variable("CORING_SEEDS").unwrap_or(200) {
        check(seed).unwrap_or_else(|what| {
            panic!(
                "seed {seed}: {what}\n    CORING_SEED={seed} cargo test --features mutants \
                 --test simulation drops"
            )
        });
    }
}
