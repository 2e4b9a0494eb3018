//! Counters: each worker writes its own, anyone reads them.
//!
//! A counter has one writer (the worker it belongs to), so adding is a load and a store, not an
//! atomic read-modify-write. `log_lines_dropped` is the exception: it hardly ever changes, and the
//! access log's thread writes it too. Readers on other threads see every counter a little late and
//! may see two of them from different moments. This room knows nobody: it imports nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writing thread and any number of readers. Outside this crate it can only be
/// read:
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
    /// Adds `n`. Only the owning worker may call this: two writers would lose counts.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` away, for gauges. Only the owning worker may call this.
    #[inline]
    pub(crate) fn sub(&self, n: u64) {
        self.0.store(self.get().wrapping_sub(n), Ordering::Relaxed);
    }

    /// Adds `n` to one of the few counters that more than one thread writes.
    #[inline]
    pub(crate) fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Replaces the value, for gauges. Only the owning worker may call this.
    #[inline]
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value as last written.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Declares a set of counters and the way to list them by name.
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
            /// Every counter with its name, in the order of declaration.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field.get()),)*]
            }
        }
    };
}

counters! {
    /// What one worker counts. Names that end in `_open`, `_live`, `_in_flight`, `_in_ring`,
    /// `_in_use` are gauges; all others only grow. Both engines count under the ring's names.
    WorkerMetrics {
        /// Visits to the kernel: calls of `io_uring_enter`, or of `epoll_wait`.
        enters,
        /// Operations handed to the kernel.
        submissions,
        /// Completions taken from the kernel.
        completions,
        /// Turns that found the completion queue to have overflowed.
        cq_overflows,
        /// Completions of an operation that is no longer known: dropped.
        stale_completions,
        /// Receives that ended because no provided buffer was left.
        buffers_exhausted,
        /// Operations in the kernel's hands.
        ops_in_flight,
        /// Blocks the kernel may fill.
        blocks_in_ring,
        /// Blocks that somebody in the worker holds.
        blocks_in_use,
        /// Tasks that exist.
        tasks_live,
        /// Times a task was polled.
        task_polls,
        /// Tasks that panicked and were dropped.
        task_panics,
        /// Timers that exist.
        timers_live,
        /// Wake-ups that came from other threads; those of one task between two turns count once.
        remote_wakes,
        /// Connections accepted.
        connections_accepted,
        /// Connections now open.
        connections_open,
        /// Connections refused because the limit was reached: answered 503, or closed unanswered
        /// where they are very many at once.
        connections_shed,
        /// Failed accepts (descriptors exhausted, say); accepting goes on a little later.
        accept_errors,
        /// Connections whose life ended as agreed with the peer.
        closed_in_order,
        /// Connections the peer reset or cut in the middle.
        closed_by_peer,
        /// Connections closed because a deadline passed.
        closed_by_timeout,
        /// Connections closed because the peer broke the protocol or a limit.
        closed_by_fault,
        /// Connections closed because the service failed (its own panic included).
        closed_by_service,
        /// Connections closed by a drain or a stop.
        closed_by_drain,
        /// Requests whose head was understood.
        requests,
        /// Bytes received.
        bytes_received,
        /// Bytes sent.
        bytes_sent,
        /// Answers of status 1xx (interim) sent.
        responses_1xx,
        /// Answers of status 2xx.
        responses_2xx,
        /// Answers of status 3xx.
        responses_3xx,
        /// Answers of status 4xx.
        responses_4xx,
        /// Answers of status 5xx.
        responses_5xx,
        /// Calls of the service that panicked.
        service_panics,
        /// Access log lines that were lost, because the log could not keep up or could not be
        /// written. Written by the log's thread too.
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
