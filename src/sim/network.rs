//! Listeners and connections of a simulated machine. Their descriptors are real, and their bytes
//! are in plain queues. This module uses neither rings nor operations.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    getpeername, getsockname,
};

use super::World;

/// The number of networks that this process has made; part of their socket names.
static NETWORKS: AtomicU64 = AtomicU64::new(0);

/// The simulated object of a descriptor, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    Listener(usize),
    Socket(usize),
}

/// A connection. The client's real end is kept here; the server holds the other end.
#[derive(Debug)]
pub(super) struct SimSocket {
    end: OwnedFd,
    /// The number of its listener.
    listener: usize,
    /// The server has accepted it.
    pub(super) accepted: bool,
    /// Bytes that the client has sent and the server has not yet received.
    pub(super) inbound: VecDeque<u8>,
    /// The client has ended its side (FIN).
    pub(super) finished: bool,
    /// The connection is reset.
    pub(super) reset: bool,
    /// The server has received the error of the reset. The kernel reports it once.
    error_reported: bool,
    /// Bytes that the server has sent and the client has not yet read.
    pub(super) outbound: VecDeque<u8>,
    /// The capacity of `outbound`, in bytes.
    pub(super) window: usize,
    /// The server has ended its side (FIN).
    pub(super) ended: bool,
    /// The server has closed its end.
    pub(super) closed: bool,
    /// The simulation has made an operation on it fail, so the server may end it early.
    pub(super) had_injected_error: bool,
    /// A send on it has failed.
    pub(super) broken: bool,
    /// The server waits for room to send.
    wants_room: bool,
    /// The number of changes to report so far: of room to send, and of the client's end.
    pub(super) changes: u64,
    /// The number of submissions since bytes last moved. Too many are a busy loop.
    pub(super) idle_submissions: u32,
    /// When the server last received or sent bytes, in ms.
    pub(super) moved_ms: u64,
}

#[derive(Debug)]
struct SimListener {
    address: SocketAddrUnix,
    /// The number of connections in the backlog.
    backlog: usize,
    /// A time in ms, and the number of accepts submitted then since the last connection.
    attempts: (u64, u32),
}

/// All listeners and connections of one simulation.
#[derive(Debug)]
pub(super) struct Network {
    name: String,
    listeners: Vec<SimListener>,
    pub(super) sockets: Vec<SimSocket>,
    /// An epoll instance that reports when the server shuts down or closes a connection.
    watch: OwnedFd,
}

impl Network {
    pub(super) fn new() -> Self {
        let serial = NETWORKS.fetch_add(1, Ordering::Relaxed);
        Self {
            name: format!("coring-sim/{}/{serial}/", std::process::id()),
            listeners: Vec::new(),
            sockets: Vec::new(),
            watch: epoll::create(CreateFlags::CLOEXEC).expect("a descriptor for the simulation"),
        }
    }

    pub(super) fn listen(&mut self) -> io::Result<OwnedFd> {
        let address = self.address('l', self.listeners.len())?;
        let socket = stream_socket()?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, 128)?;
        self.listeners.push(SimListener {
            address,
            backlog: 0,
            attempts: (0, 0),
        });
        Ok(socket)
    }

    pub(super) fn connect(&mut self, listener: usize, window: usize) -> Option<usize> {
        let number = self.sockets.len();
        let address = self.address('c', number).expect("a short name");
        let end = stream_socket().expect("a descriptor for the simulation");
        rustix::net::bind(&end, &address).expect("a name of our own");
        rustix::net::connect(&end, &self.listeners[listener].address).ok()?;
        self.listeners[listener].backlog += 1;
        let data = EventData::new_u64(number as u64);
        let flags = EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.watch, &end, data, flags).expect("a descriptor can be watched");
        self.sockets.push(SimSocket {
            end,
            listener,
            accepted: false,
            inbound: VecDeque::new(),
            finished: false,
            reset: false,
            error_reported: false,
            outbound: VecDeque::new(),
            window: window.max(1),
            ended: false,
            closed: false,
            had_injected_error: false,
            broken: false,
            wants_room: false,
            changes: 0,
            idle_submissions: 0,
            moved_ms: 0,
        });
        Some(number)
    }

    /// The number of connections in a listener's backlog.
    pub(super) fn backlog(&self, listener: usize) -> usize {
        self.listeners[listener].backlog
    }

    /// Counts an accept that is submitted at `now_ms`. Returns the number of accepts at this time
    /// since the last connection, including this one.
    pub(super) fn attempts(&mut self, listener: usize, now_ms: u64) -> u32 {
        let (instant_ms, count) = &mut self.listeners[listener].attempts;
        if std::mem::replace(instant_ms, now_ms) != now_ms {
            *count = 0;
        }
        *count += 1;
        *count
    }

    /// Accepts a connection as the kernel does. Returns the server's descriptor, and the number of
    /// the connection.
    pub(super) fn accept(&mut self, listener: usize, fd: RawFd) -> Option<(OwnedFd, usize)> {
        let listener = &mut self.listeners[listener];
        listener.backlog = listener.backlog.checked_sub(1)?;
        listener.attempts = (0, 0);
        let accepted = accept_with(borrow(fd), SocketFlags::CLOEXEC).ok()?;
        let Some(Identity::Socket(number)) =
            self.identity(std::os::fd::AsRawFd::as_raw_fd(&accepted))
        else {
            return None;
        };
        Some((accepted, number))
    }

    /// The object of one of the server's descriptors; `None` if it has none or is closed. Marks a
    /// connection as accepted, because a plain accept(2) may have returned the descriptor.
    pub(super) fn identity(&mut self, fd: RawFd) -> Option<Identity> {
        let socket = borrow(fd);
        if let Ok(Some(peer)) = getpeername(socket) {
            let number = self.number(peer)?;
            self.sockets.get_mut(number)?.accepted = true;
            return Some(Identity::Socket(number));
        }
        Some(Identity::Listener(self.number(getsockname(socket).ok()?)?))
    }

    pub(super) fn accepted(&self) -> usize {
        self.sockets.iter().filter(|socket| socket.accepted).count()
    }

    /// The number of connections to a listener that the server has accepted and not closed.
    pub(super) fn held(&self, listener: usize) -> usize {
        let is_held =
            |socket: &&SimSocket| socket.listener == listener && socket.accepted && !socket.closed;
        self.sockets.iter().filter(is_held).count()
    }

    /// The connections that the server has closed since the last call.
    pub(super) fn observe(&mut self) -> Vec<usize> {
        let mut closed = Vec::new();
        let mut events = Vec::with_capacity(64);
        let none = rustix::time::Timespec::default();
        while epoll::wait(&self.watch, spare_capacity(&mut events), Some(&none)) != Ok(0) {
            for event in events.drain(..) {
                let number = usize::try_from(event.data.u64()).expect("a number of ours");
                let socket = &mut self.sockets[number];
                socket.ended = true;
                let flags = event.flags;
                if flags.contains(EventFlags::HUP) && !socket.closed {
                    socket.closed = true;
                    closed.push(number);
                }
            }
        }
        closed.sort_unstable();
        closed
    }

    fn address(&self, kind: char, number: usize) -> io::Result<SocketAddrUnix> {
        let name = format!("{}{kind}{number}", self.name);
        Ok(SocketAddrUnix::new_abstract_name(name.as_bytes())?)
    }

    /// The number in an address of this network.
    fn number(&self, address: SocketAddrAny) -> Option<usize> {
        let address = SocketAddrUnix::try_from(address).ok()?;
        let name = std::str::from_utf8(address.abstract_name()?).ok()?;
        name.strip_prefix(&self.name)?.get(1..)?.parse().ok()
    }
}

fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(socket)
}

/// Borrows the descriptor with this number. If there is none, system calls on it return EBADF.
pub(super) fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the number is not -1. All callers handle EBADF.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// The result of a client's read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// No bytes have arrived yet.
    Nothing,
    /// These bytes were read.
    Bytes(Vec<u8>),
    /// The server has ended its side (FIN).
    End,
    /// The connection is reset (RST).
    Reset,
}

impl SimSocket {
    /// Notes that the server has received or sent bytes at `now_ms`.
    pub(super) fn moved(&mut self, now_ms: u64) {
        self.idle_submissions = 0;
        self.moved_ms = now_ms;
    }

    /// Notes that the server waits for room to send.
    pub(super) fn want_room(&mut self) {
        self.wants_room = true;
    }

    /// The error of a reset connection; `None` if an earlier call has returned it. A receive then
    /// returns the end of the stream.
    pub(super) fn take_error(&mut self) -> Option<i32> {
        let was_reported = std::mem::replace(&mut self.error_reported, true);
        (!was_reported).then_some(libc::ECONNRESET)
    }

    /// Reports room after a read of the client. The kernel does this when a third of the buffer is
    /// free, and only if the server has found no room before.
    fn report_room(&mut self) {
        if self.wants_room && self.has_room() {
            self.wants_room = false;
            self.changes += 1;
        }
    }

    fn has_room(&self) -> bool {
        self.window.saturating_sub(self.outbound.len()) * 3 >= self.window
    }

    /// The events that poll(2) reports to a sender. The client's hang-up is always reported.
    pub(super) fn events(&self) -> u32 {
        let broken = libc::POLLOUT | libc::POLLERR | libc::POLLHUP | libc::POLLRDHUP;
        let events = [
            (self.has_room(), libc::POLLOUT),
            (self.finished, libc::POLLRDHUP),
            (self.reset, broken),
        ];
        let events = events.iter().filter(|(holds, _)| *holds);
        events.fold(0, |all, (_, event)| all | u32::from(event.unsigned_abs()))
    }
}

impl SimSocket {
    /// The events that poll(2) always reports about the client's end.
    pub(super) fn hangup(&self) -> u32 {
        let events = match (self.reset, self.finished) {
            (true, _) => libc::POLLERR | libc::POLLHUP | libc::POLLRDHUP,
            (false, true) => libc::POLLRDHUP,
            (false, false) => 0,
        };
        events.unsigned_abs().into()
    }
}

/// A client's end of a connection.
pub struct ClientEnd {
    world: World,
    number: usize,
}

impl ClientEnd {
    pub(super) fn new(world: World, number: usize) -> Self {
        Self { world, number }
    }

    /// The connection's number.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Sends `bytes`.
    pub fn send(&self, bytes: &[u8]) {
        let refused = self.with("client sends", bytes.len(), |socket| {
            if !socket.closed && !socket.reset {
                socket.inbound.extend(bytes);
            }
            socket.closed
        });
        if refused {
            self.world.with(|kernel| kernel.refuse(self.number));
        }
    }

    /// Reads up to `len_max` bytes.
    pub fn read(&self, len_max: usize) -> Received {
        self.with("client reads", len_max, |socket| {
            let len = len_max.min(socket.outbound.len());
            if socket.reset {
                Received::Reset
            } else if len > 0 {
                socket.idle_submissions = 0;
                let bytes = socket.outbound.drain(..len).collect();
                socket.report_room();
                Received::Bytes(bytes)
            } else if socket.ended {
                Received::End
            } else {
                Received::Nothing
            }
        })
    }

    /// Whether a read would return something other than [`Received::Nothing`].
    pub fn is_readable(&self) -> bool {
        let kernel = self.world.0.borrow();
        let socket = &kernel.network.sockets[self.number];
        socket.reset || socket.ended || !socket.outbound.is_empty()
    }

    /// The number of bytes that the client has sent and the server has not yet received.
    pub fn in_flight(&self) -> usize {
        self.world.0.borrow().network.sockets[self.number]
            .inbound
            .len()
    }

    /// Ends the client's side (FIN).
    pub fn finish(&self) {
        self.with("client finishes", 0, |socket| {
            socket.finished = true;
            socket.changes += 1;
        });
    }

    /// Resets the connection (RST).
    pub fn reset(&self) {
        self.with("client resets", 0, |socket| {
            socket.reset = true;
            socket.changes += 1;
            socket.inbound.clear();
            socket.outbound.clear();
        });
    }

    /// Whether the simulation has made an operation on it fail.
    pub fn had_injected_error(&self) -> bool {
        self.world.0.borrow().network.sockets[self.number].had_injected_error
    }

    /// When the server last received or sent bytes on it, in ms; 0 if it never did.
    pub fn moved_ms(&self) -> u64 {
        self.world.0.borrow().network.sockets[self.number].moved_ms
    }

    fn with<R>(
        &self,
        what: &'static str,
        value: usize,
        body: impl FnOnce(&mut SimSocket) -> R,
    ) -> R {
        let mut kernel = self.world.0.borrow_mut();
        kernel.note(what, self.number, i64::try_from(value).unwrap_or(0));
        let socket = &mut kernel.network.sockets[self.number];
        if what != "client reads" {
            socket.idle_submissions = 0;
        }
        body(socket)
    }
}

impl fmt::Debug for ClientEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientEnd({})", self.number)
    }
}

impl AsFd for SimSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}
