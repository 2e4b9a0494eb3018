//! Operations on the ring: submitted in batches, completed in batches.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
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
    self, After, Interest, Op, OpId, Read, Send, Sent, State, Table, Tag, Then,
};
use crate::metrics::WorkerMetrics;
use crate::rt::{contain, drop_waker, wake};
use crate::sys::mutants::mutate;

/// The longest wait for the kernel's last words at the end: so many steps of a tenth of a second in
/// which it says nothing.
const SILENT_STEPS_MAX: u32 = 50;

/// How often the kernel is entered in one visit for completions that did not fit into their queue.
const FLUSHES_MAX: u32 = 64;

/// One worker's ring and the operations on it. Fields are dropped in this order: the kernel must
/// be done with the ring before the buffers and the operations' memory go.
pub(in crate::engine) struct Uring {
    pub(super) ring: RefCell<Ring>,
    pub(super) buffers: RefCell<BufRing>,
    pub(super) table: RefCell<Table>,
    /// Receives that wait for a buffer.
    pub(super) buffer_queue: BufferQueue,
    /// Submissions whose final completion is still to come.
    pub(super) in_flight: Cell<u64>,
    reaped: RefCell<Vec<Cqe>>,
    /// Why the kernel could not be entered between two visits.
    failure: RefCell<Option<io::Error>>,
    pub(super) pool: Pool,
    blocks_max: usize,
    pub(in crate::engine) rung: &'static str,
    pub(super) metrics: Arc<WorkerMetrics>,
}

impl Uring {
    /// A ring for this thread, filled from `pool`, which may use `blocks_max` blocks before the
    /// kernel gets no more to receive into. Other threads write to `wake` to end its sleep.
    pub(in crate::engine) fn new(
        pool: Pool,
        blocks_max: usize,
        wake: Arc<OwnedFd>,
        metrics: Arc<WorkerMetrics>,
    ) -> Result<Self, Refusal> {
        let made = worker_ring(&pool)?;
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
            rung: made.rung,
            metrics,
        };
        let read = || Op::Read(Read::new(wake));
        let (wake, _) = engine.table.borrow_mut().insert(read);
        engine.submit(wake);
        Ok(engine)
    }

    /// Hands the kernel what is queued, waits for a completion if `sleep` says how long (`Some`:
    /// at most so long; `Some(None)`: for ever), and lets every completion have its effect.
    ///
    /// # Errors
    /// When the ring can no longer be used.
    pub(in crate::engine) fn visit(&self, sleep: Option<Option<Duration>>) -> io::Result<()> {
        self.top_up();
        self.admit_receives();
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        // The receives whose turn it was may have nothing to receive: it is the next ones' turn.
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
        // Completions that did not fit come before anything is submitted again. A multishot whose
        // completion does not fit ends, so many that are armed again at once could otherwise fill
        // the queue in every turn and end one another for ever.
        while ring.overflowed() && flushes < FLUSHES_MAX {
            if let Err(error) = self.enter(&mut ring, 0, None) {
                // Reported by the next visit: the completions that were reaped have their effect.
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

    /// Cancels everything and waits for the kernel's last words. False: some did not come in
    /// time, and the caller must not free what the kernel may still use.
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
                // The gauges tell what is left, which is nothing.
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
        entry.state = State::InKernel;
        let Op::Send(send) = &mut entry.op else {
            unreachable!("a send was inserted")
        };
        let sqe = send.first_sqe();
        drop(table);
        // SAFETY: the operation owns what its submission refers to, and stays in the table until
        // its final completion.
        unsafe { self.push(sqe, id.user_data(Tag::Op)) };
        id
    }

    /// The kernel hears of it only if the socket does not take all of it at once.
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
        // Dropped last: it may hold the last use of its descriptor.
        drop(gone);
        if after == After::Resubmit {
            self.submit(id);
        }
        id
    }

    /// How a send ended. The operation is gone after that; one that sent everything is gone
    /// even before.
    #[inline]
    pub(in crate::engine) fn poll_send(
        &self,
        id: OpId,
        context: &Context<'_>,
        interest: Interest,
    ) -> Poll<Sent> {
        let mut table = self.table.borrow_mut();
        let Some(entry) = table.get(id) else {
            return Poll::Ready(Sent::All);
        };
        if entry.state == State::InKernel {
            let Op::Send(send) = &mut entry.op else {
                unreachable!("a send's name")
            };
            send.set_interest(interest);
            let replaced = entry.wait(context.waker());
            drop(table);
            drop(replaced);
            return Poll::Pending;
        }
        let removed = table.remove(id);
        drop(table);
        match removed.map(|entry| entry.op) {
            Some(Op::Send(send)) => Poll::Ready(send.into_sent()),
            _ => unreachable!("a send's name"),
        }
    }

    /// Whether a send has sent everything.
    pub(in crate::engine) fn has_sent(&self, id: OpId) -> bool {
        self.table.borrow_mut().get(id).is_none()
    }

    /// Asks the kernel to end the operation; its final completion says how far it came.
    pub(in crate::engine) fn cancel(&self, id: OpId) {
        let mut table = self.table.borrow_mut();
        let Some(entry) = table.get(id) else { return };
        if entry.state != State::Idle && !entry.cancelled {
            entry.cancelled = true;
            drop(table);
            let target = id.user_data(Tag::Op);
            // SAFETY: a cancellation refers to nothing.
            unsafe { self.push(Sqe::Cancel { target }, id.user_data(Tag::Cancel)) };
        }
    }

    /// The owner is gone: the operation goes too, once the kernel is done with it.
    pub(in crate::engine) fn orphan(&self, id: OpId) {
        let mut table = self.table.borrow_mut();
        let Some(entry) = table.get(id) else { return };
        let hangup = match &mut entry.op {
            Op::Recv(recv) => recv.hangup.take(),
            _ => None,
        };
        if let Some(hangup) = hangup {
            drop(table);
            self.orphan(hangup);
            return self.orphan(id);
        }
        if entry.state == State::Idle {
            let removed = table.remove(id);
            drop(table);
            // Dropped last: its descriptor may now be closed, through this engine. What it was to
            // send may run code of the service's.
            contain(|| drop(removed));
            return;
        }
        entry.state = State::Orphaned;
        let waker = entry.waker.take();
        mutate!(FreeOrphan, entry.op.free_bytes());
        drop(table);
        waker.into_iter().for_each(drop_waker);
        mutate!(ForgetCancel, (), self.cancel(id));
        mutate!(CloseBeforeFinal, drop(self.table.borrow_mut().remove(id)));
    }

    /// Closes a descriptor with the next batch.
    pub(in crate::engine) fn close(&self, fd: OwnedFd) {
        // SAFETY: a close refers to no memory, and the descriptor is ours to close.
        if unsafe { self.push(op::close(&fd), (Tag::Close as u64) << 56) } {
            // The kernel's now. A ring that has failed leaves it to be dropped here.
            let _ = fd.into_raw_fd();
        }
    }

    /// Lets the kernel have an operation.
    pub(super) fn submit(&self, id: OpId) {
        let sqe = {
            let mut table = self.table.borrow_mut();
            let entry = table
                .get(id)
                .expect("only an operation in the table is submitted");
            debug_assert_eq!(entry.state, State::Idle);
            entry.state = State::InKernel;
            entry.cancelled = false;
            match &mut entry.op {
                Op::Accept(accept) => accept.sqe(),
                Op::Recv(recv) => recv.sqe(self.receives_one_by_one()),
                Op::Send(send) => send.sqe(),
                Op::Read(read) => read.sqe(),
                Op::Connect(connect) => connect.sqe(),
                Op::Hangup(hangup) => hangup.sqe(),
                Op::Polling(polling) => polling.sqe(),
                Op::RecvMessage(message) => message.sqe(),
                Op::SendMessage(message) => message.sqe(),
            }
        };
        // SAFETY: as for a send.
        unsafe { self.push(sqe, id.user_data(Tag::Op)) };
    }

    /// Queues a submission. False: the ring has failed.
    ///
    /// # Safety
    /// As for [`Ring::push`].
    #[inline(always)]
    unsafe fn push(&self, sqe: Sqe, user_data: u64) -> bool {
        let mut ring = self.ring.borrow_mut();
        // SAFETY: the caller answers for what `sqe` refers to.
        while !unsafe { ring.push(sqe, user_data) } {
            // The queue is a batch buffer: full means that it is time to hand it over. If that
            // fails the ring is of no more use, as the next visit reports; this submission is
            // then as if the kernel never answered it.
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

    /// Gives the kernel buffers for those it has used.
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

    /// Whether no receive may take more than one buffer at a time.
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
        let orphaned = entry.state == State::Orphaned;
        mutate!(
            LeakBuffer,
            std::mem::forget(chunk.clone().filter(|_| orphaned))
        );
        let goes_on = mutate!(MissLostMore, cqe.buffer().is_some(), cqe.more());
        if !goes_on && !orphaned {
            entry.state = State::Idle;
        }
        let after = match &mut entry.op {
            Op::Recv(recv) => recv.complete(cqe, chunk, self.receives_one_by_one()),
            Op::Accept(accept) => accept.complete(cqe),
            Op::Connect(connect) => connect.complete(cqe),
            Op::Hangup(hangup) => hangup.complete(cqe),
            Op::Polling(polling) => polling.complete(cqe),
            Op::RecvMessage(_) if mutate!(LeakDescriptors, orphaned, false) => After::Wake,
            Op::RecvMessage(message) => message.complete(cqe),
            Op::SendMessage(message) => message.complete(cqe),
            Op::Read(_) => After::Resubmit,
            Op::Send(send) => send.complete(cqe, entry.cancelled, &self.metrics),
        };
        let waker = match after {
            // The common end of a request: what was sent is a block of ours.
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
        // Dropped outside the table: its descriptor may now be closed, through this engine. What
        // was sent may run code of the service's when it is dropped.
        contain(|| drop(gone));
        waker.into_iter().for_each(wake);
        match after {
            _ if orphaned => {}
            After::Resubmit => self.submit(id),
            After::WakeAndCancel => self.cancel(id),
            After::AwaitBuffer => {
                self.metrics.buffers_exhausted.add(1);
                self.buffer_queue.ran_dry(self.buffers.borrow().capacity());
                self.enqueue_receive(id);
            }
            After::Wake | After::WakeAndForget | After::Forget => {}
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("rung", &self.rung)
            .finish_non_exhaustive()
    }
}
