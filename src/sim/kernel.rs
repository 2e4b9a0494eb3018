//! The simulated kernel: operations in flight, and when and how each of them completes. All random
//! decisions come from one stream of numbers. Invariants are checked where they could be violated.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use super::buffers::Provided;
use super::descriptors::{Counted, is_readable, keeps_bounds, watched};
use super::faults::{self, Faults};
use super::flight::{Action, Flight, SendMemory, parts, read_counter};
use super::network::{Identity, Network, SimSocket, borrow};
use super::random::Random;
use crate::engine::{Cqe, Sqe};

/// `IORING_CQE_F_BUFFER` (io_uring(7)).
pub(super) const CQE_BUFFER: u32 = 1 << 0;
/// `IORING_CQE_F_MORE`.
const CQE_MORE: u32 = 1 << 1;
/// `IORING_CQE_BUFFER_SHIFT`: the position of the buffer's number in the flags.
pub(super) const CQE_BUFFER_SHIFT: u32 = 16;
/// The maximum number of completions that one call posts (`IO_LOCAL_TW_DEFAULT_MAX`, Linux 6.13).
const TASK_WORK_MAX: usize = 20;
/// How many submissions one connection may have without moving a byte; more are a busy loop. Other
/// connections that flood the server may take the buffers from a waiting one some hundred times.
const IDLE_SUBMISSIONS_MAX: u32 = 2000;

/// The state of one ring.
#[derive(Debug, Default)]
pub(super) struct RingState {
    pub(super) submissions: VecDeque<(Sqe, u64)>,
    pub(super) completions: VecDeque<Cqe>,
    /// Completions that did not fit into the queue.
    pub(super) overflow: VecDeque<Cqe>,
    /// The operations in flight.
    pub(super) flights: Vec<Flight>,
    /// When the sleep of the ring's worker ends, in ms; `None`: it has no limit. Valid after
    /// `enter` has returned `WouldBlock` instead of sleeping.
    pub(super) sleeps_until_ms: Option<u64>,
    /// `None` when the ring has been dropped.
    pub(super) buffers: Option<Provided>,
}

/// The state of a simulated machine.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) now_ms: u64,
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) network: Network,
    pub(super) rings: Vec<RingState>,
    /// A worker is being stepped: `enter` returns `WouldBlock` instead of sleeping.
    pub(super) is_stepping: bool,
    /// The workers are guests: they do not sleep themselves.
    pub(super) hosts_workers: bool,
    /// The descriptors of [`super::World::descriptor`].
    pub(super) counted: Counted,
    pub(super) violation: Option<String>,
    /// A hash of all events so far.
    pub(super) trace: u64,
    /// Whether events are printed.
    traced: bool,
}

impl Kernel {
    pub(super) fn new(random: Random, faults: Faults, traced: bool) -> Self {
        Self {
            now_ms: 1_000_000,
            random,
            faults,
            network: Network::new(),
            rings: Vec::new(),
            is_stepping: false,
            hosts_workers: false,
            counted: Counted::default(),
            violation: None,
            trace: 0xcbf2_9ce4_8422_2325,
            traced,
        }
    }

    /// Adds an event to the trace.
    #[expect(
        clippy::print_stderr,
        reason = "prints a trace to debug a failing seed"
    )]
    pub(super) fn note(&mut self, what: &'static str, which: usize, value: i64) {
        let numbers = [self.now_ms, which as u64, value.cast_unsigned()];
        let bytes = numbers.into_iter().flat_map(u64::to_le_bytes);
        for byte in what.bytes().chain(bytes) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.traced {
            eprintln!("{:>9} ms  {what} {which}: {value}", self.now_ms);
        }
    }

    pub(super) fn fail(&mut self, what: &dyn fmt::Display) {
        if self.violation.is_none() {
            self.violation = Some(what.to_string());
        }
    }

    /// Notes which connections the server has closed, and checks that no operation uses them.
    pub(super) fn observe(&mut self) {
        for socket in self.network.observe() {
            self.note("server closes", socket, 0);
            let in_use = |flight: &Flight| flight.socket() == Some(socket);
            if self.rings.iter().flat_map(|ring| &ring.flights).any(in_use) {
                self.fail(&format!(
                    "connection {socket} was closed during an operation"
                ));
            }
            if !self.network.sockets[socket].inbound.is_empty() {
                self.refuse(socket);
            }
        }
    }

    /// Bytes have reached a connection that the server has closed. The kernel then resets it, and
    /// the client may lose bytes that it has not yet read (RFC 9112 §9.6); here in half of the
    /// cases.
    pub(super) fn refuse(&mut self, socket: usize) {
        let loses = self.random.chance(500);
        let socket = &mut self.network.sockets[socket];
        if loses {
            socket.outbound.clear();
            socket.reset = true;
        }
    }

    /// Checks the invariants that must hold when all workers have ended.
    pub(super) fn check_end(&mut self) {
        let in_flight: usize = self.rings.iter().map(|ring| ring.flights.len()).sum();
        if in_flight > 0 {
            self.fail(&format!("{in_flight} operations are left in flight"));
        }
        let passed = self.counted.open();
        if passed > 0 {
            self.fail(&format!("{passed} passed descriptors are left open"));
        }
        let open = |socket: &SimSocket| socket.accepted && !socket.closed;
        let open = self.network.sockets.iter().filter(|socket| open(socket));
        let open = open.count();
        if open > 0 {
            self.fail(&format!("{open} connections are left open"));
        }
    }

    /// Checks a worker that sleeps while receives on the sockets `queued` wait for a buffer: there
    /// must be no buffer, or nothing to receive.
    #[cfg(feature = "mutants")]
    pub(super) fn check_sleep(&mut self, ring: usize, queued: &[RawFd]) {
        let buffers = self.rings[ring].buffers.as_ref().map_or(0, Provided::len);
        for &fd in queued {
            if let Some(Identity::Socket(number)) = self.network.identity(fd)
                && buffers > 0
                && !self.network.sockets[number].inbound.is_empty()
            {
                self.fail(&format!(
                    "a worker sleeps, but connection {number} has data, with {buffers} free buffers"
                ));
            }
        }
    }

    /// Checks that the worker that waits has submitted everything.
    pub(super) fn check_submitted(&mut self, ring: usize) {
        let left = self.rings[ring].submissions.len();
        if left > 0 {
            self.fail(&format!(
                "a worker waits with {left} unsubmitted operations"
            ));
        }
    }

    /// Issues up to `count` queued submissions.
    pub(super) fn submit(&mut self, ring: usize, count: usize) {
        for _ in 0..count {
            let Some((sqe, user_data)) = self.rings[ring].submissions.pop_front() else {
                break;
            };
            self.issue(ring, sqe, user_data);
        }
    }

    /// Completes operations that are ready, in random order, and posts their completions.
    pub(super) fn run_task_work(&mut self, ring: usize) {
        self.flush_overflow(ring);
        for _ in 0..TASK_WORK_MAX {
            let flights = 0..self.rings[ring].flights.len();
            let ready: Vec<usize> = flights.filter(|&n| self.is_ready(ring, n)).collect();
            if ready.is_empty() || self.violation.is_some() {
                break;
            }
            let chosen = self.random.pick(&ready);
            self.complete(ring, chosen);
        }
    }

    /// When something can complete or be fetched, in ms; `None` if that takes an event from outside
    /// this ring.
    pub(super) fn next_ms(&self, ring: usize) -> Option<u64> {
        let state = &self.rings[ring];
        if !state.completions.is_empty() || !state.overflow.is_empty() {
            return Some(self.now_ms);
        }
        state
            .flights
            .iter()
            .filter_map(|flight| self.ready_ms(ring, flight))
            .min()
    }

    /// Whether the ring has task work to run, or completions that did not fit into the queue.
    pub(super) fn needs_enter(&self, ring: usize) -> bool {
        let flights = 0..self.rings[ring].flights.len();
        !self.rings[ring].overflow.is_empty() || flights.into_iter().any(|n| self.is_ready(ring, n))
    }

    fn is_ready(&self, ring: usize, flight: usize) -> bool {
        let flight = &self.rings[ring].flights[flight];
        self.ready_ms(ring, flight)
            .is_some_and(|at_ms| at_ms <= self.now_ms)
    }

    /// When an operation can complete or post, in ms; `None` if it cannot yet.
    fn ready_ms(&self, ring: usize, flight: &Flight) -> Option<u64> {
        let after_ms = self.can_complete(ring, flight).then_some(flight.after_ms);
        after_ms.into_iter().chain(flight.cancel_ms).min()
    }

    /// Whether an operation has a result to report.
    fn can_complete(&self, ring: usize, flight: &Flight) -> bool {
        match &flight.action {
            Action::Accept { listener, .. } => self.network.backlog(*listener) > 0,
            Action::Recv { socket, .. } => {
                let socket = &self.network.sockets[*socket];
                let buffers = self.rings[ring].buffers.as_ref();
                let no_buffer = buffers.is_none_or(|buffers| buffers.len() == 0);
                socket.reset || socket.finished || !socket.inbound.is_empty() || no_buffer
            }
            Action::Room {
                socket, reported, ..
            } => {
                let socket = &self.network.sockets[*socket];
                socket.events() != 0 && *reported != Some(socket.changes)
            }
            Action::Hangup { socket, reported } => {
                self.network.sockets[*socket].hangup() & !reported != 0
            }
            Action::Read { fd, .. } => is_readable(borrow(*fd)),
            Action::Watch { epoll } => is_readable(epoll.as_fd()),
            Action::RecvMsg { fd, .. } => is_readable(borrow(*fd)),
            Action::Send { .. }
            | Action::SendMsg { .. }
            | Action::Connect { .. }
            | Action::Decided(_) => true,
        }
    }

    fn issue(&mut self, ring: usize, sqe: Sqe, user_data: u64) {
        let action = match sqe {
            Sqe::Accept { fd } => self.start_accept(fd, false),
            Sqe::AcceptMulti { fd } => self.start_accept(fd, true),
            Sqe::Recv { fd } => self.start_recv(fd, false),
            Sqe::RecvMulti { fd } => self.start_recv(fd, true),
            Sqe::Send { fd, from, len, .. } => {
                self.start_send(ring, fd, vec![(from, len as usize)])
            }
            Sqe::SendMsg { fd, header, .. } if keeps_bounds(fd) => Action::SendMsg {
                fd,
                header,
                outgoing: SendMemory::new(parts(header)),
            },
            Sqe::SendMsg { fd, header, .. } => self.start_send(ring, fd, parts(header)),
            Sqe::RecvMsg { fd, header } if keeps_bounds(fd) => Action::RecvMsg { fd, header },
            Sqe::RecvMsg { fd, .. } => self.misuse("recvmsg", fd),
            Sqe::PollOut { fd, edges } => self.start_poll(ring, fd, edges),
            Sqe::Poll { fd, events } => self.start_watch(fd, events),
            Sqe::Read { fd, to, .. } => Action::Read { fd, to },
            Sqe::Connect { address, len, .. } => Action::Connect {
                errno: self.random.pick(faults::CONNECT),
                address: SendMemory::new(vec![(address.cast(), len as usize)]),
            },
            Sqe::Close { fd } => Action::Decided(self.close(fd)),
            Sqe::Cancel { target } => Action::Decided(self.cancel(ring, target)),
        };
        let after_ms = self.delayed_ms();
        self.rings[ring].flights.push(Flight {
            user_data,
            action,
            after_ms,
            cancel_ms: None,
        });
    }

    fn start_recv(&mut self, fd: RawFd, is_multishot: bool) -> Action {
        match self.submitted_on(fd) {
            Some(socket) => Action::Recv {
                socket,
                is_multishot,
            },
            None => self.misuse("recv", fd),
        }
    }

    /// The connection on which an operation is submitted. Counts the submission.
    pub(super) fn submitted_on(&mut self, fd: RawFd) -> Option<usize> {
        let Some(Identity::Socket(number)) = self.network.identity(fd) else {
            return None;
        };
        let socket = &mut self.network.sockets[number];
        socket.idle_submissions += 1;
        if socket.idle_submissions > IDLE_SUBMISSIONS_MAX {
            self.fail(&format!(
                "operations are submitted on connection {number} in a loop, without progress"
            ));
        }
        Some(number)
    }

    /// Reports an operation on a descriptor that does not support it.
    pub(super) fn misuse(&mut self, what: &str, fd: RawFd) -> Action {
        self.fail(&format!(
            "{what} on descriptor {fd}, which does not support it"
        ));
        Action::Decided(-libc::EBADF)
    }

    /// Closes a descriptor at once, so its number can be reused at once.
    fn close(&mut self, fd: RawFd) -> i32 {
        if let Some(Identity::Socket(socket)) = self.network.identity(fd) {
            self.note("close", socket, 0);
        }
        let in_use = |flight: &Flight| flight.descriptor() == Some(fd);
        if self.rings.iter().flat_map(|ring| &ring.flights).any(in_use) {
            self.fail(&format!("descriptor {fd} was closed during an operation"));
        }
        // SAFETY: the submission of a close passes ownership of the descriptor.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        self.observe();
        if self.random.chance(self.faults.transient) {
            return -self.random.pick(faults::CLOSE);
        }
        0
    }

    /// Cancels an operation now or some time later, and returns the result of the cancellation.
    fn cancel(&mut self, ring: usize, target: u64) -> i32 {
        let flights = &self.rings[ring].flights;
        let of_target = |flight: &Flight| flight.user_data == target && !flight.is_decided();
        let Some(flight) = flights.iter().position(of_target) else {
            return -libc::ENOENT;
        };
        let is_running = self.random.chance(self.faults.already);
        let at_ms = self.delayed_ms();
        let flight = &mut self.rings[ring].flights[flight];
        flight.cancel_ms.get_or_insert(at_ms);
        if is_running { -libc::EALREADY } else { 0 }
    }

    /// The present time or, by chance, some time later, in ms.
    fn delayed_ms(&mut self) -> u64 {
        let is_delayed = self.random.chance(self.faults.delay);
        let most = usize::try_from(self.faults.delay_ms_max).unwrap_or(0);
        self.now_ms
            + if is_delayed {
                self.random.below(most + 1) as u64
            } else {
                0
            }
    }

    /// Posts a completion of an operation that is ready.
    fn complete(&mut self, ring: usize, flight: usize) {
        let mut flight = self.rings[ring].flights.swap_remove(flight);
        let was_cancelled = flight.cancel_ms.is_some_and(|at_ms| at_ms <= self.now_ms);
        // A multishot may post more completions between its cancellation and its end.
        let is_cancelled =
            was_cancelled && (!self.can_complete(ring, &flight) || self.random.chance(500));
        let (result, flags) = match &mut flight.action {
            Action::Decided(result) => (*result, 0),
            _ if is_cancelled => (-libc::ECANCELED, 0),
            Action::Accept {
                fd,
                listener,
                is_multishot,
            } => self.accept(*fd, *listener, *is_multishot),
            Action::Recv {
                socket,
                is_multishot,
            } => self.recv(ring, *socket, *is_multishot),
            Action::Hangup { socket, reported } => {
                *reported = self.network.sockets[*socket].hangup();
                (reported.cast_signed(), self.more())
            }
            Action::Watch { epoll } => (watched(epoll), self.more()),
            Action::RecvMsg { fd, header } => (self.recv_message(*fd, *header), 0),
            Action::SendMsg { fd, header, .. } => (self.send_message(*fd, *header), 0),
            Action::Send { socket, outgoing } => (self.send(*socket, outgoing), 0),
            Action::Room {
                socket,
                edges,
                reported,
            } => {
                let socket = &self.network.sockets[*socket];
                let events = socket.events().cast_signed();
                *reported = edges.then_some(socket.changes);
                (events, if *edges { self.more() } else { 0 })
            }
            Action::Read { fd, to } => (read_counter(*fd, *to), 0),
            Action::Connect { errno, .. } => (-*errno, 0),
        };
        if !flight.is_intact() {
            self.fail(&"the memory of an operation was changed while in flight");
        }
        let state = &self.rings[ring];
        let has_room = state.completions.len() < self.faults.completions;
        // A multishot ends if its completion does not fit into the queue.
        let more = flags & CQE_MORE != 0 && has_room && state.overflow.is_empty();
        let flags = if more { flags } else { flags & !CQE_MORE };
        // Descriptor numbers differ between runs, so the trace leaves them out.
        let is_accept = matches!(flight.action, Action::Accept { .. });
        let traced_result = if is_accept { result.min(0) } else { result };
        self.note("completes", flight.which(), i64::from(traced_result));
        let user_data = flight.user_data;
        let cqe = Cqe {
            user_data,
            result,
            flags,
        };
        self.post(ring, cqe);
        if more {
            flight.after_ms = self.delayed_ms();
            self.rings[ring].flights.push(flight);
        }
    }

    /// The flag that a multishot continues, or 0 if a fault ends it.
    pub(super) fn more(&mut self) -> u32 {
        if self.random.chance(self.faults.lose_more) {
            0
        } else {
            CQE_MORE
        }
    }

    fn post(&mut self, ring: usize, cqe: Cqe) {
        let state = &mut self.rings[ring];
        if state.completions.len() < self.faults.completions && state.overflow.is_empty() {
            state.completions.push_back(cqe);
        } else {
            state.overflow.push_back(cqe);
        }
    }

    fn flush_overflow(&mut self, ring: usize) {
        let state = &mut self.rings[ring];
        while state.completions.len() < self.faults.completions {
            let Some(cqe) = state.overflow.pop_front() else {
                break;
            };
            state.completions.push_back(cqe);
        }
    }
}

/// A number of bytes as the result of an operation.
pub(super) fn count(bytes: usize) -> i32 {
    i32::try_from(bytes).expect("an operation moves less than 2 GiB")
}

/// The error of a simulated system call.
pub(super) fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
