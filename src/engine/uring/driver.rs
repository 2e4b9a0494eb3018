//! The engine on io_uring. Operations are submitted in batches and completed in batches.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::buf_ring::BufRing;
use super::buffer_queue::BufferQueue;
use super::setup::{Refusal, worker_ring};
use super::{Cqe, Ring, Sqe};
use crate::buf::{Chunk, Outgoing, Pool};
use crate::engine::descriptor::Descriptor;
use crate::engine::op::{
    self, After, Interest, Op, OpId, OpState, Read, Send, Sent, Table, Tag, Then,
};
use crate::engine::worker::Eventfd;
use crate::metrics::WorkerMetrics;
use crate::rt::{ClonedWaker, catch_panic, drop_waker, wake};
use crate::sys::mutants::mutate;

/// How many steps of 100 ms without a final completion [`Uring::finish`] waits through.
const SILENT_STEPS_MAX: u32 = 50;

/// How often one visit enters the kernel for completions that overflowed their queue.
const FLUSHES_MAX: u32 = 64;

/// One worker's ring and its operations. The fields are dropped in this order: the ring must be
/// closed before the memory of the buffers and the operations is freed.
pub(in crate::engine) struct Uring {
    pub(super) ring: RefCell<Ring>,
    pub(super) buffers: RefCell<BufRing>,
    pub(super) table: RefCell<Table>,
    /// Receives that wait for a buffer.
    pub(super) buffer_queue: BufferQueue,
    /// Submissions whose final completion has not arrived.
    pub(super) in_flight: Cell<u64>,
    reaped: RefCell<Vec<Cqe>>,
    /// The error of a kernel call between two visits, to be reported by the next visit.
    failure: RefCell<Option<io::Error>>,
    pub(super) pool: Pool,
    blocks_max: usize,
    pub(in crate::engine) feature_level: &'static str,
    pub(super) metrics: Arc<WorkerMetrics>,
}

impl Uring {
    /// A ring for this thread, whose provided buffers come from `pool`. Once `blocks_max` blocks
    /// are in use, the ring gets only a small reserve of buffers.
    pub(in crate::engine) fn new(
        pool: Pool,
        blocks_max: usize,
        eventfd: Eventfd,
        metrics: Arc<WorkerMetrics>,
    ) -> Result<Self, Refusal> {
        let reports = match &eventfd {
            Eventfd::Wakes(_) => None,
            Eventfd::Reports(reports) => Some(reports.as_fd()),
        };
        let made = worker_ring(&pool, reports)?;
        let engine = Self {
            ring: RefCell::new(made.ring),
            buffers: RefCell::new(made.buffers),
            table: RefCell::new(Table::new()),
            buffer_queue: BufferQueue::default(),
            in_flight: Cell::new(0),
            reaped: RefCell::default(),
            failure: RefCell::default(),
            pool,
            blocks_max,
            feature_level: made.feature_level,
            metrics,
        };
        if let Eventfd::Wakes(wake) = eventfd {
            let read = || Op::Read(Read::new(wake));
            let (wake, _) = engine.table.borrow_mut().insert(read);
            engine.submit(wake);
        }
        Ok(engine)
    }

    /// Submits the queued operations and applies all completions. `sleep` says whether to wait for
    /// a completion: `None` does not wait, `Some(Some(time))` waits at most that long, `Some(None)`
    /// waits without limit.
    ///
    /// # Errors
    /// If the ring can no longer be used.
    pub(in crate::engine) fn visit(&self, sleep: Option<Option<Duration>>) -> io::Result<()> {
        self.top_up();
        self.admit_receives();
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        // The receives that were just submitted may have nothing to receive. Then the next receives
        // in the queue must get their turn, so the worker must not sleep.
        let may_sleep = mutate!(SleepInQueue, true, self.buffer_queue.is_empty());
        let sleep = sleep.filter(|_| may_sleep);
        let mut ring = self.ring.borrow_mut();
        let must_enter = ring.unsubmitted() > 0 || mutate!(NeverFetch, false, ring.needs_enter());
        let ready = ring.has_completions();
        if must_enter || !ready && sleep.is_some() {
            let (want, timeout) = match sleep {
                Some(timeout) if !ready => (1, timeout),
                _ => (0, None),
            };
            self.enter(&mut ring, want, timeout)?;
        }
        let mut reaped = self.reaped.take();
        ring.reap(&mut reaped);
        let mut flushes = 0;
        // The completions that overflowed are fetched before anything is submitted again. A
        // multishot ends when its completion does not fit into the queue. If many of them were
        // armed again first, they could fill the queue in every turn and keep ending one another.
        while ring.overflowed() && flushes < FLUSHES_MAX {
            if let Err(error) = self.enter(&mut ring, 0, None) {
                // The next visit reports the error. The completions fetched so far are applied
                // first.
                self.failure.replace(Some(error));
                break;
            }
            ring.reap(&mut reaped);
            flushes += 1;
        }
        drop(ring);
        self.metrics.completions.add(reaped.len() as u64);
        for cqe in &reaped {
            self.complete(cqe);
        }
        reaped.clear();
        self.reaped.replace(reaped);
        self.metrics.ops_in_flight.set(self.in_flight.get());
        Ok(())
    }

    /// Whether the worker may wait: the kernel has every submission, no completion can be fetched,
    /// and no receive waits for its turn to get a buffer.
    pub(in crate::engine) fn may_wait(&self) -> bool {
        let mut ring = self.ring.borrow_mut();
        mutate!(WaitUnsubmitted, true, ring.unsubmitted() == 0)
            && !ring.needs_enter()
            && !ring.has_completions()
            && mutate!(SleepInQueue, true, self.buffer_queue.is_empty())
            && self.failure.borrow().is_none()
    }

    /// Cancels everything and waits for the final completions. Returns false if some did not arrive
    /// in time; then the caller must not free memory that the kernel may still use.
    pub(in crate::engine) fn finish(&self) -> bool {
        let ids = self.table.borrow().ids();
        for id in ids {
            self.orphan(id);
        }
        while self.buffer_queue.pop().is_some() {}
        let mut silent_steps = 0;
        while silent_steps < SILENT_STEPS_MAX {
            let in_flight = self.in_flight.get();
            if in_flight == 0 && self.ring.borrow().unsubmitted() == 0 {
                // This sets the gauges to their final values.
                self.top_up();
                return true;
            }
            if self.visit(Some(Some(Duration::from_millis(100)))).is_err() {
                return false;
            }
            silent_steps += u32::from(self.in_flight.get() >= in_flight);
        }
        false
    }

    pub(in crate::engine) fn pool(&self) -> &Pool {
        &self.pool
    }

    #[inline(always)]
    pub(in crate::engine) fn start_send(
        &self,
        socket: Descriptor,
        outgoing: Outgoing,
        then: Then,
    ) -> OpId {
        if let Outgoing::File(..) = outgoing {
            return self.start_send_file(socket, outgoing, then);
        }
        let mut table = self.table.borrow_mut();
        let (id, entry) = table.insert(|| Op::Send(Send::new(socket, outgoing, then)));
        entry.state = OpState::InKernel;
        let Op::Send(send) = &mut entry.op else {
            unreachable!("a send was inserted")
        };
        let sqe = send.first_sqe();
        drop(table);
        // SAFETY: the operation owns everything that its submission points to, and stays in the
        // table until its final completion.
        unsafe { self.push(sqe, id.user_data(Tag::Op)) };
        id
    }

    /// Begins to send a file span. The ring is used only if the socket does not accept it at once.
    #[cold]
    fn start_send_file(&self, socket: Descriptor, outgoing: Outgoing, then: Then) -> OpId {
        let mut table = self.table.borrow_mut();
        let (id, entry) = table.insert(|| Op::Send(Send::new(socket, outgoing, then)));
        let Op::Send(send) = &mut entry.op else {
            unreachable!("a send was inserted")
        };
        let after = send.start(&self.metrics);
        let is_over = matches!(after, After::Forget | After::WakeAndForget);
        let gone = is_over.then(|| table.remove(id));
        drop(table);
        // Dropped outside the borrow of the table: it may close its descriptor, through this
        // engine.
        drop(gone);
        if after == After::Resubmit {
            self.submit(id);
        }
        id
    }

    /// The outcome of a send. This call removes the operation from the table. A send that has sent
    /// everything was removed earlier.
    #[inline]
    pub(in crate::engine) fn poll_send(
        &self,
        id: OpId,
        context: &Context<'_>,
        interest: Interest,
    ) -> Poll<Sent> {
        let mut waker = ClonedWaker::of(context);
        let mut table = self.table.borrow_mut();
        let Some(entry) = table.get(id) else {
            return Poll::Ready(Sent::All);
        };
        if entry.state == OpState::InKernel {
            let Op::Send(send) = &mut entry.op else {
                unreachable!("the id of a send")
            };
            send.set_interest(interest);
            waker.store(&mut entry.waker);
            return Poll::Pending;
        }
        let removed = table.remove(id);
        drop(table);
        match removed.map(|entry| entry.op) {
            Some(Op::Send(send)) => Poll::Ready(send.into_sent()),
            _ => unreachable!("the id of a send"),
        }
    }

    /// Whether a send has sent everything.
    pub(in crate::engine) fn has_sent(&self, id: OpId) -> bool {
        self.table.borrow_mut().get(id).is_none()
    }

    /// Asks the kernel to cancel the operation. Its final completion says how much was done.
    pub(in crate::engine) fn cancel(&self, id: OpId) {
        let mut table = self.table.borrow_mut();
        let Some(entry) = table.get(id) else { return };
        if entry.state != OpState::Idle && !entry.cancelled {
            entry.cancelled = true;
            drop(table);
            let target = id.user_data(Tag::Op);
            // SAFETY: a cancellation points to no memory.
            unsafe { self.push(Sqe::Cancel { target }, id.user_data(Tag::Cancel)) };
        }
    }

    /// Removes an operation whose owner is gone, once the kernel has finished with it.
    pub(in crate::engine) fn orphan(&self, id: OpId) {
        let mut table = self.table.borrow_mut();
        let Some(entry) = table.get(id) else { return };
        let hangup = match &mut entry.op {
            Op::Recv(recv) => recv.hangup.take(),
            _ => None,
        };
        // The hang-up poll of a receive ends with the receive.
        if let Some(hangup) = hangup {
            drop(table);
            self.orphan(hangup);
            return self.orphan(id);
        }
        if entry.state == OpState::Idle {
            let removed = table.remove(id);
            drop(table);
            // Dropped outside the borrow of the table: it may close its descriptor, through this
            // engine, and dropping its bytes may run code of the service.
            catch_panic(|| drop(removed));
            return;
        }
        entry.state = OpState::Orphaned;
        let waker = entry.waker.take();
        mutate!(FreeOrphan, entry.op.free_bytes());
        drop(table);
        waker.into_iter().for_each(drop_waker);
        mutate!(ForgetCancel, (), self.cancel(id));
        mutate!(CloseBeforeFinal, drop(self.table.borrow_mut().remove(id)));
    }

    /// Closes a descriptor with the next batch of submissions.
    pub(in crate::engine) fn close(&self, fd: OwnedFd) {
        // SAFETY: a close points to no memory, and the descriptor is ours to close.
        if unsafe { self.push(op::close(&fd), (Tag::Close as u64) << 56) } {
            // The kernel owns it now. If the ring has failed, dropping `fd` closes it instead.
            let _ = fd.into_raw_fd();
        }
    }

    /// Submits an operation to the kernel.
    pub(super) fn submit(&self, id: OpId) {
        let sqe = {
            let mut table = self.table.borrow_mut();
            let entry = table
                .get(id)
                .expect("only an operation in the table is submitted");
            debug_assert_eq!(entry.state, OpState::Idle);
            entry.state = OpState::InKernel;
            entry.cancelled = false;
            match &mut entry.op {
                Op::Accept(accept) => accept.sqe(),
                Op::Recv(recv) => recv.sqe(self.receives_one_by_one()),
                Op::Send(send) => send.sqe(),
                Op::Read(read) => read.sqe(),
                Op::Connect(connect) => connect.sqe(),
                Op::Hangup(hangup) => hangup.sqe(),
                Op::PollEvents(polling) => polling.sqe(),
                Op::RecvMessage(message) => message.sqe(),
                Op::SendMessage(message) => message.sqe(),
            }
        };
        // SAFETY: as in `start_send`.
        unsafe { self.push(sqe, id.user_data(Tag::Op)) };
    }

    /// Queues a submission. Returns false if the ring has failed.
    ///
    /// # Safety
    /// As for [`Ring::push`].
    #[inline(always)]
    unsafe fn push(&self, sqe: Sqe, user_data: u64) -> bool {
        let mut ring = self.ring.borrow_mut();
        // SAFETY: the caller guarantees what `push` requires of `sqe`.
        while !unsafe { ring.push(sqe, user_data) } {
            // The queue is full, so submit it. If that fails, the ring cannot be used any more, as
            // the next visit reports, and this submission never completes.
            if let Err(error) = self.enter(&mut ring, 0, None) {
                self.failure.replace(Some(error));
                return false;
            }
        }
        self.in_flight.set(self.in_flight.get() + 1);
        self.metrics.submissions.add(1);
        true
    }

    fn enter(&self, ring: &mut Ring, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        self.metrics.enters.add(1);
        self.metrics.cq_overflows.add(u64::from(ring.overflowed()));
        ring.enter(want, timeout)
    }

    /// Replaces the provided buffers that the kernel has used.
    fn top_up(&self) {
        let mut buffers = self.buffers.borrow_mut();
        buffers.top_up(&self.pool, self.is_memory_scarce());
        let in_ring = buffers.len();
        drop(buffers);
        self.metrics.blocks_in_ring.set(in_ring as u64);
        self.metrics
            .blocks_in_use
            .set((self.pool.in_use() - in_ring) as u64);
    }

    pub(super) fn is_memory_scarce(&self) -> bool {
        self.pool.in_use() >= self.blocks_max
    }

    /// Whether each receive may take only one buffer at a time.
    fn receives_one_by_one(&self) -> bool {
        self.is_memory_scarce() || self.buffer_queue.is_crowded()
    }

    #[inline]
    fn complete(&self, cqe: &Cqe) {
        let chunk = cqe.buffer().map(|number| {
            let len = usize::try_from(cqe.result).unwrap_or(0);
            self.metrics.bytes_received.add(len as u64);
            self.buffer_queue.note_used();
            self.buffers.borrow_mut().take(number, len)
        });
        if !cqe.more() {
            self.in_flight.set(self.in_flight.get() - 1);
        }
        // The completion of a cancellation or of a close says nothing more.
        let tag = cqe.user_data >> 56;
        if tag == mutate!(CancelIsFinal, tag.min(Tag::Cancel as u64), Tag::Op as u64) {
            self.complete_op(cqe, chunk);
        }
    }

    #[inline]
    fn complete_op(&self, cqe: &Cqe, chunk: Option<Chunk>) {
        let mut table = self.table.borrow_mut();
        let id = table.completed(cqe.user_data);
        let Some((id, entry)) = id.and_then(|id| Some((id, table.get(id)?))) else {
            self.metrics.stale_completions.add(1);
            return;
        };
        let orphaned = entry.state == OpState::Orphaned;
        mutate!(
            LeakBuffer,
            std::mem::forget(chunk.clone().filter(|_| orphaned))
        );
        let more = mutate!(MissLostMore, cqe.buffer().is_some(), cqe.more());
        if !more && !orphaned {
            entry.state = OpState::Idle;
        }
        let after = match &mut entry.op {
            Op::Recv(recv) => recv.complete(cqe, chunk, self.receives_one_by_one()),
            Op::Accept(accept) => accept.complete(cqe),
            Op::Connect(connect) => connect.complete(cqe),
            Op::Hangup(hangup) => hangup.complete(cqe),
            Op::PollEvents(polling) => polling.complete(cqe),
            Op::RecvMessage(_) if mutate!(LeakDescriptors, orphaned, false) => After::Wake,
            Op::RecvMessage(message) => message.complete(cqe),
            Op::SendMessage(message) => message.complete(cqe),
            Op::Read(_) => After::Resubmit,
            Op::Send(send) => send.complete(cqe, entry.cancelled, &self.metrics),
        };
        let waker = match after {
            // The usual end of a request: only a block of ours was sent, so that it can be dropped
            // in place.
            After::Forget if !orphaned && entry.op.is_plain() => {
                let waker = entry.waker.take();
                table.drop_in_place(id);
                drop(table);
                return waker.into_iter().for_each(drop_waker);
            }
            After::Forget | After::AwaitBuffer | After::Resubmit => None,
            _ => entry.waker.take(),
        };
        let forget = matches!(after, After::Forget | After::WakeAndForget);
        let gone = (forget || orphaned && !cqe.more()).then(|| table.remove(id));
        drop(table);
        // Dropped outside the borrow of the table: it may close its descriptor, through this
        // engine, and dropping its bytes may run code of the service.
        catch_panic(|| drop(gone));
        waker.into_iter().for_each(wake);
        match after {
            _ if orphaned => {}
            After::Resubmit => self.submit(id),
            After::WakeAndCancel => self.cancel(id),
            After::AwaitBuffer => {
                self.metrics.buffers_exhausted.add(1);
                self.buffer_queue
                    .note_exhausted(self.buffers.borrow().capacity());
                self.enqueue_receive(id);
            }
            After::Wake | After::WakeAndForget | After::Forget => {}
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("feature_level", &self.feature_level)
            .finish_non_exhaustive()
    }
}
