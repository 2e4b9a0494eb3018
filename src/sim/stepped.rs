//! A worker whose loop a test runs one turn at a time.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use super::World;
use super::kernel::Kernel;
use super::ring::deadline_ms;
use crate::buf::Pool;
use crate::engine::{Guest, HostedWorker, Refused, RunningWorker, Selected, Turned, Worker, pool};
use crate::metrics::WorkerMetrics;

/// The state of a worker after a turn of its loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It has more to do.
    Runs,
    /// It sleeps in the kernel.
    Sleeps,
    /// It has ended.
    Ended,
}

/// How the worker is turned.
enum Turning {
    /// It sleeps in the kernel itself.
    Own(RunningWorker<()>),
    /// Another executor turns it, which these tests stand for.
    Guest(Guest<()>, Arc<Host>),
}

/// The host of a guest: whether its task was woken.
#[derive(Debug, Default)]
struct Host(AtomicBool);

impl Wake for Host {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Turning {
    fn running(&self) -> Option<&RunningWorker<()>> {
        match self {
            Self::Own(running) => Some(running),
            Self::Guest(guest, _) => guest.running(),
        }
    }
}

/// A worker on a ring of a simulated machine.
pub struct Stepped {
    world: World,
    /// `None` when the worker has ended.
    turning: Option<Turning>,
    ring: usize,
    /// `Some` while the worker sleeps: when the sleep ends at the latest, in ms, if ever.
    sleeps: Option<Option<u64>>,
    pool: Pool,
    metrics: Arc<WorkerMetrics>,
}

impl Stepped {
    /// Makes a worker that runs `main`.
    ///
    /// # Panics
    /// If the real machine has no descriptors left.
    pub fn new(
        world: &World,
        metrics: &Arc<WorkerMetrics>,
        main: impl Future<Output = ()> + 'static,
    ) -> Self {
        let (ring, hosted) = world.with(|kernel| (kernel.rings.len(), kernel.hosts_workers));
        let turning = world.enter(|| {
            if hosted {
                let guest = HostedWorker::simulated(metrics)?.start(main);
                return Ok::<_, Refused>(Turning::Guest(guest, Arc::default()));
            }
            let worker = Worker::new(&Selected::simulated(), usize::MAX, metrics)?;
            Ok(Turning::Own(worker.without_threads().start(main)))
        });
        let turning = turning.expect("a descriptor for the simulation");
        let running = turning.running().expect("a new worker");
        Self {
            world: world.clone(),
            ring,
            sleeps: None,
            pool: running.scope(pool),
            turning: Some(turning),
            metrics: metrics.clone(),
        }
    }

    /// When it has something to do, in ms; `None` if it waits for another worker or a client.
    pub fn next_ms(&self) -> Option<u64> {
        let turning = self.turning.as_ref()?;
        let kernel = self.world.0.borrow();
        let Some(until_ms) = self.sleeps else {
            return Some(kernel.now_ms);
        };
        if let Turning::Guest(_, host) = turning
            && host.0.load(Ordering::Relaxed)
        {
            return Some(kernel.now_ms);
        }
        kernel.next_ms(self.ring).into_iter().chain(until_ms).min()
    }

    /// Runs one turn of its loop. It must have something to do.
    pub fn step(&mut self) -> Step {
        let Some(turning) = &mut self.turning else {
            return Step::Ended;
        };
        let world = self.world.clone();
        let was_asleep = self.sleeps.take().is_some();
        let turned = world.enter(|| match turning {
            Turning::Own(running) => turn_own(&world, running, was_asleep),
            Turning::Guest(guest, host) => {
                host.0.store(false, Ordering::Relaxed);
                guest.turn(&host.clone().into())
            }
        });
        world.with(Kernel::observe);
        let until_ms = match turned {
            Ok(Turned::Again) => return Step::Runs,
            Ok(Turned::Done(())) => return self.end(),
            Ok(Turned::Waits(time)) => world.with(|kernel| {
                kernel.check_submitted(self.ring);
                deadline_ms(kernel, time)
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                world.with(|kernel| kernel.rings[self.ring].sleeps_until_ms)
            }
            Err(error) => {
                world.fail(format_args!("a worker's engine failed: {error}"));
                return self.end();
            }
        };
        #[cfg(feature = "mutants")]
        if let Some(running) = self.turning.as_ref().and_then(Turning::running) {
            world.with(|kernel| kernel.check_sleep(self.ring, &running.queued_receives()));
        }
        self.sleeps = Some(until_ms);
        Step::Sleeps
    }

    /// Drops the worker, and checks that it has released everything.
    fn end(&mut self) -> Step {
        let world = self.world.clone();
        world.enter(|| drop(self.turning.take()));
        world.with(Kernel::observe);
        let metrics = &self.metrics;
        let left = [
            ("blocks", self.pool.in_use() as u64),
            ("blocks on its counter", metrics.blocks_in_use.get()),
            ("operations", metrics.ops_in_flight.get()),
            ("tasks", metrics.tasks_live.get()),
            ("timers", metrics.timers_live.get()),
            ("connections", metrics.connections_open.get()),
        ];
        for (what, count) in left.into_iter().filter(|(_, count)| *count > 0) {
            world.fail(format_args!(
                "a worker has ended without releasing {count} {what}"
            ));
        }
        if metrics.task_panics.get() > 0 {
            world.fail("a task panicked");
        }
        Step::Ended
    }
}

/// One turn of a worker that sleeps in the kernel itself. The error `WouldBlock` says that it does.
fn turn_own(
    world: &World,
    running: &RunningWorker<()>,
    was_asleep: bool,
) -> io::Result<Turned<()>> {
    world.with(|kernel| kernel.is_stepping = true);
    let output = running.scope(|| {
        if was_asleep {
            running.wake_up()?;
        }
        running.turn()
    });
    world.with(|kernel| kernel.is_stepping = false);
    Ok(output?.map_or(Turned::Again, Turned::Done))
}

impl fmt::Debug for Stepped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stepped")
            .field("ring", &self.ring)
            .field("sleeps", &self.sleeps)
            .finish_non_exhaustive()
    }
}
