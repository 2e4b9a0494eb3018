//! The state that the connections of a worker share, and the limit of connections.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::access_log::{Line, WorkerLog};
use super::close_reason::CloseReason;
use super::date::Date;
use super::limits::Bounds;
use crate::buf::Pool;
use crate::metrics::WorkerMetrics;
use crate::net::SendLimits;
use crate::rt::{ClonedWaker, sleep_ms, spawn_detached};
use crate::service::Request;
use crate::sys::limits::reserved_descriptors;

/// How many connections beyond the limit get a 503 at a time. Others are closed without a response.
const REFUSED_MAX: u64 = 32;

/// How many descriptors served connections may have, if the process may have `files_max`.
pub(super) fn served_descriptors(files_max: u64) -> u64 {
    let reserved = reserved_descriptors(files_max);
    files_max - reserved - reserved / 2
}

/// How a new connection is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Serve,
    /// Send a 503, and close it.
    Refuse,
    /// Close it without a response: too many others get a 503 already.
    Drop,
}

/// How far the drain of a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainState {
    /// There is no drain. Connections persist.
    Serving,
    /// Each connection is closed after its response.
    LastResponses,
    /// In addition, idle connections are closed.
    CloseIdle,
}

/// The shared state of a worker. Other threads see only the metrics.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: Bounds,
    pub(super) send_limits: Rc<SendLimits>,
    /// The limit of open files of the process.
    files_max: u64,
    pub(super) pool: Pool,
    pub(super) date: RefCell<Date>,
    pub(super) drain_state: Cell<DrainState>,
    pub(super) metrics: Arc<WorkerMetrics>,
    /// The metrics of all workers, which count the connections of the process.
    pub(super) all_metrics: Arc<[Arc<WorkerMetrics>]>,
    pub(super) log: Option<WorkerLog>,
    /// Listeners that are not yet closed.
    listening: Cell<usize>,
    /// Connections that are not yet closed, including those that get a 503.
    open: Cell<usize>,
    /// Woken when a listener or a connection is closed.
    drained: RefCell<Option<Waker>>,
}

impl Shared {
    pub(super) fn new(
        limits: Bounds,
        files_max: u64,
        pool: Pool,
        worker: usize,
        all_metrics: Arc<[Arc<WorkerMetrics>]>,
        log: Option<WorkerLog>,
    ) -> Self {
        Self {
            send_limits: Rc::new(limits.sends),
            limits,
            files_max,
            pool,
            date: RefCell::new(Date::new()),
            drain_state: Cell::new(DrainState::Serving),
            metrics: all_metrics[worker].clone(),
            all_metrics,
            log,
            listening: Cell::new(0),
            open: Cell::new(0),
            drained: RefCell::default(),
        }
    }

    /// Decides how to treat a new connection whose descriptor is `number`. The kernel gives out the
    /// lowest free number (open(2)), so a high number means that few are left. With `reserved` from
    /// [`reserved_descriptors`]:
    ///
    /// - A connection that has one of the last `reserved / 2` numbers is closed.
    /// - A connection that has one of the `reserved` numbers before them gets a 503. Files may use
    ///   the lower half of these numbers, so that served connections can open some.
    /// - A connection that has a lower number is served.
    pub(super) fn admission(&self, number: u64) -> Admission {
        let metrics = self.all_metrics.iter();
        let open: u64 = metrics.map(|metrics| metrics.connections_open.get()).sum();
        let reserved = reserved_descriptors(self.files_max);
        if open < self.limits.connections_max && number < served_descriptors(self.files_max) {
            Admission::Serve
        } else if open < self.limits.connections_max.saturating_add(REFUSED_MAX)
            && number < self.files_max - reserved / 2
        {
            Admission::Refuse
        } else {
            Admission::Drop
        }
    }

    /// Whether the blocks in use on this worker, by any owner, have reached the bound of
    /// `receive_memory_max`.
    pub(super) fn is_memory_scarce(&self) -> bool {
        self.pool.in_use() >= self.limits.receive_blocks_max
    }

    pub(super) fn listener_opened(&self) {
        self.listening.set(self.listening.get() + 1);
    }

    pub(super) fn listener_closed(&self) {
        self.listening.set(self.listening.get() - 1);
        self.wake_drained();
    }

    /// Waits until all listeners are closed.
    pub(super) async fn listeners_closed(&self) {
        self.wait(|| self.listening.get() == 0).await;
    }

    /// Waits until all connections are closed.
    pub(super) async fn connections_closed(&self) {
        self.wait(|| self.open.get() == 0).await;
    }

    pub(super) fn connection_opened(&self) {
        self.open.set(self.open.get() + 1);
        self.metrics.connections_accepted.add(1);
        self.metrics.connections_open.add(1);
    }

    pub(super) fn connection_closed(&self, reason: CloseReason) {
        reason.counter(&self.metrics).add(1);
        self.metrics.connections_open.sub(1);
        self.open.set(self.open.get() - 1);
        self.wake_drained();
    }

    /// Whether the request belongs in the access log.
    #[inline]
    pub(super) fn logs(&self, request: &Request) -> bool {
        self.log.as_ref().is_some_and(|log| {
            let (head, bytes) = request.head();
            !log.skips(head.path(bytes))
        })
    }

    /// Ends a line of the access log. The log thread gets it after [`WorkerLog::LINE_DELAY_MS`]
    /// at the latest.
    pub(super) fn write_line(self: &Rc<Self>, line: &mut Line) {
        let must_hand_over = self.log.as_ref().is_some_and(|log| log.write(line));
        if must_hand_over {
            let shared = self.clone();
            spawn_detached(async move {
                sleep_ms(WorkerLog::LINE_DELAY_MS).await;
                if let Some(log) = &shared.log {
                    log.hand_over();
                }
            });
        }
    }

    /// Waits until `done`, which is called whenever a listener or a connection is closed. Only one
    /// coroutine waits at a time: the drain.
    async fn wait(&self, done: impl Fn() -> bool) {
        poll_fn(|context| {
            if done() {
                return Poll::Ready(());
            }
            ClonedWaker::of(context).store(&mut self.drained.borrow_mut());
            Poll::Pending
        })
        .await;
    }

    fn wake_drained(&self) {
        if let Some(waker) = self.drained.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::limits::Limits;

    /// Admits a connection with the descriptor `number` while `open` others are open.
    fn admission(limit: Option<usize>, files_max: u64, open: u64, number: u64) -> Admission {
        let limits = Limits {
            connections_max: limit,
            ..Limits::default()
        };
        let limits = limits.bounds().expect("valid limits");
        let all_metrics: Arc<[Arc<WorkerMetrics>]> = [(); 2].map(|()| Arc::default()).into();
        all_metrics[1].connections_open.add(open);
        let shared = Shared::new(limits, files_max, Pool::new(), 0, all_metrics, None);
        shared.admission(number)
    }

    #[test]
    fn the_limit_of_connections_counts_all_workers() {
        for (open, expected) in [
            (0, Admission::Serve),
            (4, Admission::Serve),
            (5, Admission::Refuse),
            (36, Admission::Refuse),
            (37, Admission::Drop),
        ] {
            assert_eq!(admission(Some(5), 1 << 20, open, 9), expected, "{open}");
        }
        assert_eq!(admission(None, 1 << 20, 100_000, 9), Admission::Serve);
        assert_eq!(
            admission(Some(usize::MAX), 1 << 20, 100_000, 9),
            Admission::Serve
        );
    }

    #[test]
    fn the_highest_descriptors_are_reserved() {
        for (files_max, first_refused, first_dropped) in [
            (0, 0, 0),
            (1, 1, 1),
            (64, 40, 56),
            (256, 160, 224),
            (1 << 20, (1 << 20) - 96, (1 << 20) - 32),
            (u64::MAX, u64::MAX - 96, u64::MAX - 32),
        ] {
            let check = |number: u64, expected| {
                assert_eq!(
                    admission(None, files_max, 9, number),
                    expected,
                    "{number} of {files_max}"
                );
            };
            if first_refused > 0 {
                check(first_refused - 1, Admission::Serve);
            }
            if first_dropped > first_refused {
                check(first_refused, Admission::Refuse);
                check(first_dropped - 1, Admission::Refuse);
            }
            check(first_dropped, Admission::Drop);
        }
    }
}
