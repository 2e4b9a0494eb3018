//! One core's share of a server: a thread with its engine, its listeners and its connections.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::access_log::WorkerLog;
use super::close_reason::CloseReason;
use super::connection;
use super::control::{Control, Phase};
use super::cores::Cores;
use super::drain;
use super::limits::Limits;
use super::shared::{Admission, Place, Shared};
use super::startup::Seat;
use crate::buf::BLOCK_BYTES;
use crate::engine::{self, Selected};
use crate::metrics::WorkerMetrics;
use crate::net::{Listener, Stream};
use crate::rt::{peer_after_ms, peer_now_ms, sleep, spawn, yield_now};
use crate::service::Service;
use crate::sys::mutants::mutate;
use crate::sys::signals::block_write_signals;

/// Connections that are taken in a row.
const BURST_MAX: u32 = 64;
/// How long to wait when no connection can be accepted, for want of descriptors say, in ms.
const ACCEPT_PAUSE_MS: u64 = 100;
/// How long the last look into a backlog may take, in ms: long enough for who is answered meanwhile
/// to give a descriptor back, and not for ever where there are always more.
const BACKLOG_MS: u64 = 1000;

/// What a worker's thread is given.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) number: usize,
    pub(crate) cores: Arc<Cores>,
    pub(crate) sockets: Vec<OwnedFd>,
    pub(crate) limits: Limits,
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
    let blocks_max = plan.limits.receive_memory_max / BLOCK_BYTES;
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
        spawn(accept(listener.clone(), service.clone(), shared.clone()));
    }
    control.reached(Phase::Draining).await;
    drain::drain(listeners, &control, &shared).await;
}

/// Accepts connections until the listener is stopped; then takes those that the kernel had
/// already accepted, and closes it.
async fn accept<S: Service + 'static>(listener: Rc<Listener>, service: Rc<S>, shared: Rc<Shared>) {
    let mut burst = 0;
    loop {
        match std::future::poll_fn(|context| listener.poll_accept(context)).await {
            Some(Ok(stream)) => {
                admit(stream, &service, &shared);
                let_others(&mut burst).await;
            }
            Some(Err(_)) => {
                // Descriptors or memory are exhausted: the backlog keeps who comes meanwhile.
                shared.metrics.accept_errors.add(1);
                mutate!(SpinOnExhausted, (), sleep(ACCEPT_PAUSE_MS).await);
            }
            None => break,
        }
    }
    let end_ms = peer_after_ms(BACKLOG_MS);
    while peer_now_ms() < end_ms {
        match mutate!(ForgetBacklog, Ok(None), listener.take_from_backlog()) {
            Ok(Some(stream)) => {
                admit(stream, &service, &shared);
                let_others(&mut burst).await;
            }
            Err(error) if is_exhausted(&error) => {
                shared.metrics.accept_errors.add(1);
                sleep(ACCEPT_PAUSE_MS).await;
            }
            Ok(None) | Err(_) => break,
        }
    }
    if let Some(listener) = Rc::into_inner(listener) {
        listener.close();
    }
    shared.listener_closed();
}

/// After so many connections in a row others have their turn: whoever connects all the time must
/// not have the worker for himself.
async fn let_others(burst: &mut u32) {
    *burst += 1;
    if *burst >= BURST_MAX {
        *burst = 0;
        yield_now().await;
    }
}

/// Whether descriptors or memory have run out, which may pass.
fn is_exhausted(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    matches!(
        errno,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// Starts a connection's coroutine, unless there are too many connections, or descriptors in use.
fn admit<S: Service + 'static>(stream: Stream, service: &Rc<S>, shared: &Rc<Shared>) {
    let admission = shared.admission(stream.number());
    if admission == Admission::Drop {
        shared.metrics.connections_accepted.add(1);
        CloseReason::Shed.counter(&shared.metrics).add(1);
        return;
    }
    let place = Place::take(shared.clone());
    if admission == Admission::Refuse {
        spawn(connection::shed(stream, place));
    } else {
        spawn(connection::serve(stream, service.clone(), place));
    }
}
