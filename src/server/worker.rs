//! One core's share of a server: its thread, its engine, its listeners, and how it lives.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::accept::{Acceptor, Factory};
use super::access_log::WorkerLog;
use super::control::{Control, Phase};
use super::cores::Cores;
use super::drain;
use super::limits::Bounds;
use super::shared::Shared;
use super::startup::Seat;
use crate::engine::{self, Selected};
use crate::metrics::WorkerMetrics;
use crate::net::Listener;
use crate::sys::signals::block_write_signals;

/// What a worker's thread is given.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) number: usize,
    pub(crate) cores: Arc<Cores>,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) limits: Bounds,
    /// The limit of open files.
    pub(crate) files_max: u64,
    pub(crate) control: Arc<Control>,
    pub(crate) all_metrics: Arc<[Arc<WorkerMetrics>]>,
    pub(crate) log: Option<WorkerLog>,
}

/// A listening socket of a worker.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    /// The number of the service that gets its connections.
    pub(crate) service: usize,
}

/// The body of a worker's thread.
///
/// # Errors
/// When the engine fails while it runs.
pub(super) fn run(
    plan: Plan,
    factories: &[Factory],
    seat: Seat,
    selected: Selected,
) -> io::Result<()> {
    // Sending a file cannot be told to raise none.
    block_write_signals();
    plan.cores.pin(plan.number);
    let services: Vec<Acceptor> = factories.iter().map(Factory::make).collect();
    let metrics = &plan.all_metrics[plan.number];
    let blocks_max = plan.limits.receive_blocks_max;
    let make = |selected: &Selected| engine::Worker::new(selected, blocks_max, metrics);
    match seat.agree(selected, make) {
        Some(worker) => worker.run(live(plan, services)),
        None => Ok(()),
    }
}

/// A worker's life: accept until the drain begins, then drain, or stop at once.
pub(crate) async fn live(plan: Plan, services: Vec<Acceptor>) {
    let Plan {
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
