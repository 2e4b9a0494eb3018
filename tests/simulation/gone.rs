//! Clients that leave while their request is being handled, in random orders of events. The call of
//! the service must end, whatever was received before the client left.

use std::cell::Cell;
use std::rc::Rc;

use coring::sim::{Faults, Mutant, Random, Simulated, World, sleep_ms, with_mutant};
use coring::{HalfClose, Limits, Request, Response, Service};

/// The planted faults that only this test detects.
pub(crate) const MUTANTS: &[Mutant] = &[Mutant::MissReset];

/// The duration of a call in ms, so long that no call ends by itself during a test.
const CALL_MS: u64 = 60_000;
/// The time in ms within which a worker must notice what a client did: more than the delay of any
/// completion.
const NOTICED_MS: u64 = 2_000;
/// The turns of the loop within which it must notice it. More are a busy loop.
const TURNS_MAX: u32 = 5_000;

/// A service whose calls wait. For each call it spawns a task that awaits `Request::gone`.
struct Waiting {
    /// Calls that are running.
    calls: Rc<Cell<u32>>,
    /// Tasks whose `Request::gone` has completed.
    told: Rc<Cell<u32>>,
}

impl Service for Waiting {
    async fn call(&self, request: Request) -> Response {
        struct Call(Rc<Cell<u32>>);
        impl Drop for Call {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        let (gone, told) = (request.gone(), self.told.clone());
        coring::spawn(async move {
            gone.await;
            told.set(told.get() + 1);
        });
        self.calls.set(self.calls.get() + 1);
        let _call = Call(self.calls.clone());
        sleep_ms(CALL_MS).await;
        Response::text("too late")
    }
}

struct Scene {
    world: World,
    server: Simulated,
    calls: Rc<Cell<u32>>,
    told: Rc<Cell<u32>>,
}

impl Scene {
    fn new(seed: u64, faults: Faults, half_close: HalfClose) -> Self {
        let world = World::new(seed, faults, false);
        let mut limits = Limits::default();
        limits.connections_max = Some(10);
        limits.half_close = half_close;
        let (calls, told): (Rc<Cell<u32>>, Rc<Cell<u32>>) = Default::default();
        let service = || Waiting {
            calls: calls.clone(),
            told: told.clone(),
        };
        let server = world.enter(|| Simulated::new(&world, 1, &limits, service));
        Self {
            world,
            server,
            calls,
            told,
        }
    }

    /// Runs the worker's loop until `done`, at most for `NOTICED_MS`. Returns whether it is done.
    fn runs_until(&mut self, done: impl Fn(&Self) -> bool) -> Result<bool, String> {
        let end_ms = self.world.now_ms() + NOTICED_MS;
        for _ in 0..TURNS_MAX {
            if done(self) {
                return Ok(true);
            }
            let next_ms = self.server.next_ms(0).ok_or("the worker sleeps for ever")?;
            if next_ms > end_ms {
                self.world.advance(end_ms);
                return Ok(false);
            }
            self.world.advance(next_ms);
            self.server.step(0);
            self.world.violation().map_or(Ok(()), Err)?;
        }
        Err("a busy loop".to_owned())
    }

    fn end(mut self) -> Result<(), String> {
        self.server.stop();
        while self.server.next_ms(0).is_some() {
            self.server.step(0);
        }
        self.world.violation().map_or(Ok(()), Err)
    }
}

/// A client sends a request, perhaps sends more requests, perhaps half-closes, and resets.
///
/// # Errors
/// If the service or its task learns of an event too early or too late; the text says which event.
pub(crate) fn check(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let faults = Faults {
        completions: random.pick(&[2, 1000]),
        lose_more: random.pick(&[0, 300]),
        delay: random.pick(&[0, 300]),
        delay_ms_max: 40,
        buffers: random.pick(&[2, 64]),
        ..Faults::none()
    };
    let half_close = random.pick(&[HalfClose::Serve, HalfClose::End]);
    let mut scene = Scene::new(seed, faults, half_close);
    let client = scene.world.connect(0).ok_or("no listener")?;
    let request = b"GET / HTTP/1.1\r\nHost: simulated\r\n\r\n";
    client.send(request);
    if !scene.runs_until(|scene| scene.calls.get() == 1)? {
        return Err("the service is not called".to_owned());
    }
    if random.chance(500) {
        client.send(&request.repeat(random.pick(&[1, 100, 10_000])));
        if scene.runs_until(|scene| scene.calls.get() == 0)? {
            return Err("further requests ended the call".to_owned());
        }
        if scene.told.get() > 0 {
            return Err("further requests completed Request::gone".to_owned());
        }
    }
    if random.chance(700) {
        client.finish();
        let has_ended = scene.runs_until(|scene| scene.calls.get() == 0)?;
        if has_ended != (half_close == HalfClose::End) {
            return Err(format!(
                "{half_close:?}: a half-close ended the call: {has_ended}"
            ));
        }
        if !scene.runs_until(|scene| scene.told.get() == 1)? {
            return Err("a half-close did not complete Request::gone".to_owned());
        }
    }
    client.reset();
    let is_gone = |scene: &Scene| scene.server.metrics()[0].connections_open.get() == 0;
    if !scene.runs_until(is_gone)? || scene.calls.get() != 0 {
        return Err("a reset did not end the call and the connection".to_owned());
    }
    if !scene.runs_until(|scene| scene.told.get() == 1)? {
        return Err("a reset did not complete Request::gone".to_owned());
    }
    scene.end()
}

#[test]
fn a_client_that_leaves_ends_its_call() {
    for seed in 0..300 {
        check(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
    for &mutant in MUTANTS {
        let detected = with_mutant(mutant, || (0..20).any(|seed| check(seed).is_err()));
        assert!(detected, "{mutant:?} is not detected");
    }
}
