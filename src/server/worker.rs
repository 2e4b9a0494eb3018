//! One worker: its thread, its engine and its listeners, from start to end.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::accept::{Acceptor, Factory};
use super::access_log::WorkerLog;
use super::control::{Control, Phase};
use super::drain;
use super::limits::Bounds;
use super::shared::Shared;
use super::startup::StartupBarrier;
use crate::engine::{self, Selected};
use crate::metrics::WorkerMetrics;
use crate::net::Listener;
use crate::sys::cores::Cores;
use crate::sys::signals::block_write_signals;

/// The settings that a worker's thread is started with.
#[derive(Debug)]
pub(crate) struct WorkerPlan {
    pub(crate) number: usize,
    pub(crate) cores: Arc<Cores>,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) limits: Bounds,
    /// The limit of open files of the process.
    pub(crate) files_max: u64,
    pub(crate) control: Arc<Control>,
    pub(crate) all_metrics: Arc<[Arc<WorkerMetrics>]>,
    pub(crate) log: Option<WorkerLog>,
}

/// A listening socket of a worker.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    /// The index of the service that gets this socket's connections.
    pub(crate) service: usize,
}

/// Runs a worker on its own thread, until the server ends.
///
/// # Errors
/// Fails if the engine fails while it runs.
pub(super) fn run(
    plan: WorkerPlan,
    factories: &[Factory],
    barrier: StartupBarrier,
    selected: Selected,
) -> io::Result<()> {
    // sendfile(2) has no flag that keeps a failed write from raising a signal.
    block_write_signals();
    plan.cores.pin(plan.number);
    let services: Vec<Acceptor> = factories.iter().map(Factory::make).collect();
    let metrics = &plan.all_metrics[plan.number];
    let blocks_max = plan.limits.receive_blocks_max;
    let make = |selected: &Selected| engine::Worker::new(selected, blocks_max, metrics);
    match barrier.agree(selected, make) {
        Some(worker) => worker.run(serve_and_drain(plan, services)),
        None => Ok(()),
    }
}

/// Accepts connections until the drain begins, then drains, or ends at once if the server stops.
pub(crate) async fn serve_and_drain(plan: WorkerPlan, services: Vec<Acceptor>) {
    let WorkerPlan {
        number,
        sockets,
        limits,
        files_max,
        control,
        all_metrics,
        log,
        ..
    } = plan;
    let pool = engine::pool();
    let shared = Shared::new(limits, files_max, pool, number, all_metrics, log);
    let shared = Rc::new(shared);
    let mut listeners = Vec::new();
    for Socket { fd, service } in sockets {
        let listener = Rc::new(Listener::new(fd));
        services[service].listen(listener.clone(), shared.clone());
        listeners.push(listener);
    }
    control.reached(Phase::Draining).await;
    drain::drain(listeners, &control, &shared).await;
}
