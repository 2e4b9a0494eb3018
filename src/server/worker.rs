//! One core's share of a server: its thread, its engine, its listeners, and how it lives.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::accept::accept;
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
use crate::rt::spawn_detached;
use crate::service::Service;
use crate::sys::signals::block_write_signals;

/// What a worker's thread is given.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) number: usize,
    pub(crate) cores: Arc<Cores>,
    pub(crate) sockets: Vec<OwnedFd>,
    pub(crate) limits: Bounds,
    /// The limit of open files.
    pub(crate) files_max: u64,
    pub(crate) control: Arc<Control>,
    pub(crate) all_metrics: Arc<[Arc<WorkerMetrics>]>,
    pub(crate) log: Option<WorkerLog>,
}

/// The body of a worker's thread.
///
/// # Errors
/// When the engine fails while it runs.
pub(super) fn run<S: Service + 'static>(
    plan: Plan,
    factory: &dyn Fn() -> S,
    seat: Seat,
    selected: Selected,
) -> io::Result<()> {
    // Sending a file cannot be told to raise none.
    block_write_signals();
    plan.cores.pin(plan.number);
    let service = Rc::new(factory());
    let metrics = &plan.all_metrics[plan.number];
    let blocks_max = plan.limits.receive_blocks_max;
    let make = |selected: &Selected| engine::Worker::new(selected, blocks_max, metrics);
    match seat.agree(selected, make) {
        Some(worker) => worker.run(live(plan, service)),
        None => Ok(()),
    }
}

/// A worker's life: accept until the drain begins, then drain, or stop at once.
pub(crate) async fn live<S: Service + 'static>(plan: Plan, service: Rc<S>) {
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
    let listeners: Vec<Rc<Listener>> = sockets
        .into_iter()
        .map(|socket| Rc::new(Listener::new(socket)))
        .collect();
    for listener in &listeners {
        shared.listener_opened();
        spawn_detached(accept(listener.clone(), service.clone(), shared.clone()));
    }
    control.reached(Phase::Draining).await;
    drain::drain(listeners, &control, &shared).await;
}
