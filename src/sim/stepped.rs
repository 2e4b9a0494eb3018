//! A worker whose loop a test runs one turn at a time.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::World;
use super::kernel::Kernel;
use crate::buf::Pool;
use crate::engine::{RunningWorker, Worker, pool};
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

/// A worker on a ring of a simulated machine.
pub struct Stepped {
    world: World,
    /// `None` when the worker has ended.
    running: Option<RunningWorker<()>>,
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
        let ring = world.0.borrow().rings.len();
        let worker = world.enter(|| Worker::simulated(metrics));
        let running = worker.expect("a descriptor for the simulation").start(main);
        Self {
            world: world.clone(),
            ring,
            sleeps: None,
            pool: running.scope(pool),
            running: Some(running),
            metrics: metrics.clone(),
        }
    }

    /// When it has something to do, in ms; `None` if it waits for another worker or a client.
    pub fn next_ms(&self) -> Option<u64> {
        self.running.as_ref()?;
        let kernel = self.world.0.borrow();
        let Some(until_ms) = self.sleeps else {
            return Some(kernel.now_ms);
        };
        kernel.next_ms(self.ring).into_iter().chain(until_ms).min()
    }

    /// Runs one turn of its loop. It must have something to do.
    pub fn step(&mut self) -> Step {
        let Some(running) = &self.running else {
            return Step::Ended;
        };
        let world = self.world.clone();
        let turned = world.enter(|| {
            world.with(|kernel| kernel.is_stepping = true);
            let was_asleep = self.sleeps.take().is_some();
            let turned = running.scope(|| {
                if was_asleep {
                    running.wake_up()?;
                }
                running.turn()
            });
            world.with(|kernel| kernel.is_stepping = false);
            turned
        });
        world.with(Kernel::observe);
        match turned {
            Ok(None) => Step::Runs,
            Ok(Some(())) => self.end(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                #[cfg(feature = "mutants")]
                world.with(|kernel| {
                    kernel.check_sleep(self.ring, &running.queued_receives());
                });
                self.sleeps = Some(world.with(|kernel| kernel.rings[self.ring].sleeps_until_ms));
                Step::Sleeps
            }
            Err(error) => {
                world.fail(format_args!("a worker's engine failed: {error}"));
                self.end()
            }
        }
    }

    /// Drops the worker, and checks that it has released everything.
    fn end(&mut self) -> Step {
        let world = self.world.clone();
        world.enter(|| drop(self.running.take()));
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

impl fmt::Debug for Stepped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stepped")
            .field("ring", &self.ring)
            .field("sleeps", &self.sleeps)
            .finish_non_exhaustive()
    }
}
