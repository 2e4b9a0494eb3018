//! Counters. Each worker writes its own, and any thread may read them.
//!
//! A counter has one writer, the worker it belongs to, so adding to it is a load and a store
//! instead of an atomic read-modify-write. The exception is `log_lines_dropped`: it rarely changes,
//! and the thread of the access log writes to it too. Other threads may see new values with a short
//! delay, and the values of two counters may be from different moments.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writing thread and any number of reading threads. Users of this crate can only
/// read it:
///
/// ```compile_fail
/// fn overwrite(server: &coring::Handle) {
///     server.metrics()[0].connections_open.set(0);
/// }
/// ```
///
/// ```compile_fail
/// fn add(server: &coring::Handle) {
///     server.metrics()[0].log_lines_dropped.add_shared(1);
/// }
/// ```
///
/// ```
/// fn read(server: &coring::Handle) -> u64 {
///     server.metrics()[0].connections_open.get()
/// }
/// ```
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this: with two writers, updates would be lost.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts `n`, for gauges. Only the owning worker may call this.
    #[inline]
    pub(crate) fn sub(&self, n: u64) {
        self.0.store(self.get().wrapping_sub(n), Ordering::Relaxed);
    }

    /// Adds `n` to a counter that several threads write to.
    #[inline]
    pub(crate) fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Replaces the value, for gauges. Only the owning worker may call this.
    #[inline]
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The current value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Declares a struct of counters, with a function that lists them by name.
macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        #[repr(align(128))]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$doc])* pub $field: Counter,)*
        }

        impl $name {
            /// The name and the value of every counter, in the order of declaration.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field.get()),)*]
            }
        }
    };
}

counters! {
    /// The counters of one worker. Those whose names end in `_open`, `_live`, `_in_flight`,
    /// `_in_ring` or `_in_use` are gauges; all others only grow. The epoll engine uses the same
    /// names as io_uring.
    WorkerMetrics {
        /// Calls of `io_uring_enter`, or of `epoll_wait`.
        enters,
        /// Operations submitted to the engine.
        submissions,
        /// Completions received from the engine.
        completions,
        /// Calls of `io_uring_enter` before which the completion queue had overflowed.
        cq_overflows,
        /// Completions that were dropped because their operation no longer exists.
        stale_completions,
        /// Receives that ended because no provided buffer was left.
        buffers_exhausted,
        /// Operations that were submitted and are not complete.
        ops_in_flight,
        /// Blocks of memory that the kernel may fill with received bytes.
        blocks_in_ring,
        /// Blocks of memory that the worker uses, without those in the ring.
        blocks_in_use,
        /// Tasks that exist.
        tasks_live,
        /// Polls of tasks.
        task_polls,
        /// Tasks that panicked and were dropped.
        task_panics,
        /// Timers that exist.
        timers_live,
        /// Wake-ups of tasks by other threads. Those of one task between two turns count once.
        remote_wakes,
        /// Connections accepted.
        connections_accepted,
        /// Connections that are open.
        connections_open,
        /// Connections refused because the limit of connections was reached. They get a 503, or no
        /// response if very many are refused at once.
        connections_shed,
        /// Failed accepts, for example because no file descriptor was left. The server retries
        /// after a short pause.
        accept_errors,
        /// Connections that closed in an orderly way.
        closed_in_order,
        /// Connections that the peer reset, closed or half-closed during a request or a response.
        closed_by_peer,
        /// Connections closed because a deadline passed.
        closed_by_timeout,
        /// Connections closed because the peer violated the protocol or exceeded a limit.
        closed_by_fault,
        /// Connections closed because the service failed or panicked.
        closed_by_service,
        /// Connections closed because the server drained or stopped.
        closed_by_drain,
        /// Requests whose head was valid.
        requests,
        /// Bytes received.
        bytes_received,
        /// Bytes sent.
        bytes_sent,
        /// Responses with status 1xx.
        responses_1xx,
        /// Responses with status 2xx.
        responses_2xx,
        /// Responses with status 3xx.
        responses_3xx,
        /// Responses with status 4xx.
        responses_4xx,
        /// Responses with status 5xx.
        responses_5xx,
        /// Calls of the service that panicked.
        service_panics,
        /// Lines of the access log that were lost, because the log could not keep up or a write to
        /// it failed. The thread of the access log writes to this counter too.
        log_lines_dropped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_listed_by_name_in_order() {
        let metrics = WorkerMetrics::default();
        metrics.enters.add(3);
        metrics.enters.sub(1);
        metrics.submissions.set(7);
        let list = metrics.list();
        assert_eq!(&list[..2], &[("enters", 2), ("submissions", 7)]);
    }
}
