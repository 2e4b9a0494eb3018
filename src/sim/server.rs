//! A server on a simulated machine, for tests only. Its workers, listeners and connections are
//! real; a test steps the workers.

use std::sync::Arc;

use super::World;
use super::stepped::{Step, Stepped};
use crate::metrics::WorkerMetrics;
use crate::server::{
    Acceptor, Control, Cores, Limits, Phase, Pin, Socket, WorkerPlan, serve_and_drain,
};
use crate::service::Service;

/// A server whose workers are stepped.
#[derive(Debug)]
pub struct Simulated {
    world: World,
    workers: Vec<Stepped>,
    control: Arc<Control>,
    all_metrics: Arc<[Arc<WorkerMetrics>]>,
}

impl Simulated {
    /// Makes a server with `workers` workers, each with its own listener.
    ///
    /// # Panics
    /// If the real machine has no descriptors left, or a limit is invalid.
    pub fn new<S: Service + 'static>(
        world: &World,
        workers: usize,
        limits: &Limits,
        factory: impl Fn() -> S,
    ) -> Self {
        let limits = limits.bounds().expect("valid limits");
        let control = Arc::new(Control::new());
        let all_metrics: Arc<[Arc<WorkerMetrics>]> = (0..workers).map(|_| Arc::default()).collect();
        let cores = Arc::new(Cores::choose(1, Pin::Never));
        let worker = |number: usize| {
            let fd = world.listen().expect("a descriptor for the simulation");
            let plan = WorkerPlan {
                number,
                cores: cores.clone(),
                sockets: vec![Socket { fd, service: 0 }],
                limits,
                files_max: u64::MAX,
                control: control.clone(),
                all_metrics: all_metrics.clone(),
                log: None,
            };
            Stepped::new(
                world,
                &all_metrics[number],
                serve_and_drain(plan, vec![Acceptor::new(factory())]),
            )
        };
        Self {
            world: world.clone(),
            workers: (0..workers).map(worker).collect(),
            control,
            all_metrics: all_metrics.clone(),
        }
    }

    /// When a worker has something to do, in ms; `None` if it waits for another worker or a client.
    pub fn next_ms(&self, worker: usize) -> Option<u64> {
        self.workers[worker].next_ms()
    }

    /// Runs one turn of a worker's loop. The worker must have something to do.
    pub fn step(&mut self, worker: usize) -> Step {
        self.workers[worker].step()
    }

    /// As [`Handle::drain`](crate::Handle::drain).
    pub fn drain(&self) {
        self.control.enter(Phase::Draining);
    }

    /// As [`Handle::stop`](crate::Handle::stop).
    pub fn stop(&self) {
        self.control.enter(Phase::Stopping);
    }

    /// The counters of each worker.
    pub fn metrics(&self) -> &[Arc<WorkerMetrics>] {
        &self.all_metrics
    }

    /// Checks, when all workers have ended, that each accepted connection was counted as ended for
    /// one reason.
    pub fn check_end(&self) {
        let sum = |counter: fn(&WorkerMetrics) -> u64| -> u64 {
            self.all_metrics
                .iter()
                .map(|metrics| counter(metrics))
                .sum()
        };
        let reasons = sum(|metrics| {
            let reasons = [
                &metrics.closed_in_order,
                &metrics.closed_by_peer,
                &metrics.closed_by_timeout,
                &metrics.closed_by_fault,
                &metrics.closed_by_service,
                &metrics.closed_by_drain,
                &metrics.connections_shed,
            ];
            reasons.into_iter().map(|counter| counter.get()).sum()
        });
        let accepted = self.world.accepted() as u64;
        if reasons != accepted && !self.control.has_reached(Phase::Stopping) {
            self.world.fail(format_args!(
                "{accepted} connections were accepted, but {reasons} were counted as ended"
            ));
        }
        self.world.check_end();
    }
}
