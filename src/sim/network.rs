//! Listeners and connections of a simulated machine: real descriptors for their identity, plain
//! queues for their bytes. It knows no ring and no operation.

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

/// Tells the networks of one process apart.
static NETWORKS: AtomicU64 = AtomicU64::new(0);

/// What a descriptor stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    Listener(usize),
    Socket(usize),
}

/// A connection: the client holds the real end that is kept here, the server the other one.
#[derive(Debug)]
pub(super) struct Socket {
    end: OwnedFd,
    /// The number of the listener that it is a connection to.
    listener: usize,
    /// The server has taken it from the backlog.
    pub(super) accepted: bool,
    /// Sent by the client and not yet received.
    pub(super) inbound: VecDeque<u8>,
    /// The client sends no more.
    pub(super) finished: bool,
    /// The client, or the network, has cut it.
    pub(super) reset: bool,
    /// The server has been told of that. The kernel does so once.
    error_told: bool,
    /// Sent by the server and not yet read by the client.
    pub(super) outbound: VecDeque<u8>,
    /// Room for that.
    pub(super) window: usize,
    /// The server sends no more.
    pub(super) ended: bool,
    /// The server has closed its end.
    pub(super) closed: bool,
    /// An error was made up for it, so what becomes of it is nobody's fault.
    pub(super) excused: bool,
    /// The server was told that sending on it has failed.
    pub(super) broken: bool,
    /// The server is to be told when there is room to send.
    wants_room: bool,
    /// Reports that the server may have had: of room, and of the client's end.
    pub(super) changes: u64,
    /// Submissions since something last moved: many of them are a spin.
    pub(super) idle_submissions: u32,
    /// When the server last received or sent bytes, in ms.
    pub(super) moved_ms: u64,
}

#[derive(Debug)]
struct Listener {
    address: SocketAddrUnix,
    backlog: usize,
    /// Accepts submitted at one instant without a connection, and when.
    attempts: (u64, u32),
}

/// Everything that is reachable in one simulation.
#[derive(Debug)]
pub(super) struct Network {
    name: String,
    listeners: Vec<Listener>,
    pub(super) sockets: Vec<Socket>,
    /// Tells when the server shuts a connection down or closes it.
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
        self.listeners.push(Listener {
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
        self.sockets.push(Socket {
            end,
            listener,
            accepted: false,
            inbound: VecDeque::new(),
            finished: false,
            reset: false,
            error_told: false,
            outbound: VecDeque::new(),
            window: window.max(1),
            ended: false,
            closed: false,
            excused: false,
            broken: false,
            wants_room: false,
            changes: 0,
            idle_submissions: 0,
            moved_ms: 0,
        });
        Some(number)
    }

    /// Connections that wait at a listener.
    pub(super) fn backlog(&self, listener: usize) -> usize {
        self.listeners[listener].backlog
    }

    /// How often an accept was submitted at this instant since there was a connection, this time
    /// included.
    pub(super) fn attempts(&mut self, listener: usize, now_ms: u64) -> u32 {
        let (instant_ms, count) = &mut self.listeners[listener].attempts;
        if std::mem::replace(instant_ms, now_ms) != now_ms {
            *count = 0;
        }
        *count += 1;
        *count
    }

    /// Accepts a connection as the kernel would: what is returned is the server's.
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

    /// What the server's descriptor stands for; none when it is not open.
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

    /// Connections to a listener that the server has accepted and not closed.
    pub(super) fn held(&self, listener: usize) -> usize {
        let is_held =
            |socket: &&Socket| socket.listener == listener && socket.accepted && !socket.closed;
        self.sockets.iter().filter(is_held).count()
    }

    /// Connections whose end the server has newly closed.
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

    /// The number in a name of this network's.
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

/// The descriptor with this number, for system calls that answer EBADF where there is none.
pub(super) fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: a number that is not -1; what a call does to it is the answer that is looked for.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// What a client finds when it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// Nothing as yet.
    Nothing,
    /// These bytes.
    Bytes(Vec<u8>),
    /// The server sends no more.
    End,
    /// The connection is cut.
    Reset,
}

impl Socket {
    /// The server has received or sent bytes.
    pub(super) fn moved(&mut self, now_ms: u64) {
        self.idle_submissions = 0;
        self.moved_ms = now_ms;
    }

    /// There is more to send than there is room, or the server asks for room.
    pub(super) fn want_room(&mut self) {
        self.wants_room = true;
    }

    /// The error of a connection that is reset; none if an earlier call has returned it. A receive
    /// then finds the end of the stream.
    pub(super) fn take_error(&mut self) -> Option<i32> {
        let was_told = std::mem::replace(&mut self.error_told, true);
        (!was_told).then_some(libc::ECONNRESET)
    }

    /// The client has read: the kernel reports room when a third of it is free, and only to who
    /// found none before.
    fn report_room(&mut self) {
        if self.wants_room && self.has_room() {
            self.wants_room = false;
            self.changes += 1;
        }
    }

    fn has_room(&self) -> bool {
        self.window.saturating_sub(self.outbound.len()) * 3 >= self.window
    }

    /// What poll(2) tells a sender. The client's end is always told.
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

impl Socket {
    /// What poll(2) says of the client's end, whatever it is asked for.
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
pub struct Connection {
    world: World,
    number: usize,
}

impl Connection {
    pub(super) fn new(world: World, number: usize) -> Self {
        Self { world, number }
    }

    /// Its number among all connections.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Sends.
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

    /// Whether there is something to read.
    pub fn is_readable(&self) -> bool {
        let kernel = self.world.0.borrow();
        let socket = &kernel.network.sockets[self.number];
        socket.reset || socket.ended || !socket.outbound.is_empty()
    }

    /// Bytes that were sent and that the server has not yet received.
    pub fn in_flight(&self) -> usize {
        self.world.0.borrow().network.sockets[self.number]
            .inbound
            .len()
    }

    /// Says that nothing more will come (FIN).
    pub fn finish(&self) {
        self.with("client finishes", 0, |socket| {
            socket.finished = true;
            socket.changes += 1;
        });
    }

    /// Cuts the connection (RST).
    pub fn reset(&self) {
        self.with("client resets", 0, |socket| {
            socket.reset = true;
            socket.changes += 1;
            socket.inbound.clear();
            socket.outbound.clear();
        });
    }

    /// Whether the kernel has made up an error for it.
    pub fn is_excused(&self) -> bool {
        self.world.0.borrow().network.sockets[self.number].excused
    }

    /// When the server last received or sent bytes on it, in ms; 0 if it never did.
    pub fn moved_ms(&self) -> u64 {
        self.world.0.borrow().network.sockets[self.number].moved_ms
    }

    fn with<R>(&self, what: &'static str, value: usize, body: impl FnOnce(&mut Socket) -> R) -> R {
        let mut kernel = self.world.0.borrow_mut();
        kernel.note(what, self.number, i64::try_from(value).unwrap_or(0));
        let socket = &mut kernel.network.sockets[self.number];
        if what != "client reads" {
            socket.idle_submissions = 0;
        }
        body(socket)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.number)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}
