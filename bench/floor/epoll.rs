//! The epoll floor: the cheapest HTTP server over edge-triggered epoll. One thread, no limits, no
//! timeouts, no `Date`. Every request gets the same constant response, whatever it asks for. All
//! requests that one receive completes are answered by one send.

mod shared;

use std::io;
use std::os::fd::AsRawFd as _;

use shared::{Arguments, RECV_BUFFER_BYTES, Responses, check, count_requests};

const EVENTS_PER_WAIT_MAX: usize = 512;

/// The peer has closed or the connection failed. The edge that reports this may be the same as the
/// one for the last bytes. Then only a receive that returns 0 shows that everything has been read.
const PEER_DONE: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR).cast_unsigned();

/// One connection. Its index is its file descriptor.
#[derive(Default)]
struct Connection {
    /// The bytes of an unfinished request.
    tail: Vec<u8>,
    /// Response bytes that did not fit the socket buffer.
    unsent: &'static [u8],
}

struct Floor {
    epoll: i32,
    listener: i32,
    responses: Responses,
    /// Each connection is closed after one response.
    closing: bool,
    connections: Vec<Connection>,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::from_env(&[])?;
    let responses = arguments.responses()?;
    // SAFETY: no memory is passed.
    let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    let listener = arguments.listen()?;
    listener.set_nonblocking(true)?;
    let listener = listener.as_raw_fd();
    let mut floor = Floor {
        epoll,
        listener,
        responses,
        closing: arguments.close.is_some(),
        connections: Vec::new(),
    };
    floor.watch(libc::EPOLL_CTL_ADD, listener, libc::EPOLLIN)?;
    floor.run()
}

impl Floor {
    fn run(&mut self) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_PER_WAIT_MAX];
        let capacity = i32::try_from(events.len()).map_err(io::Error::other)?;
        loop {
            // SAFETY: `events` has room for `capacity` events and outlives the call.
            let ready = unsafe { libc::epoll_wait(self.epoll, events.as_mut_ptr(), capacity, -1) };
            let ready = match check(ready) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                ready => usize::try_from(ready?).map_err(io::Error::other)?,
            };
            for event in &events[..ready] {
                let fd = i32::try_from(event.u64).map_err(io::Error::other)?;
                if fd == self.listener {
                    self.accept()?;
                } else {
                    self.on_event(fd, event.events & PEER_DONE != 0)?;
                }
            }
        }
    }

    fn on_event(&mut self, fd: i32, peer_done: bool) -> io::Result<()> {
        if self.serve(fd, peer_done).is_err() {
            return self.close(fd);
        }
        if self.closing && !self.connections[fd as usize].unsent.is_empty() {
            return self.watch(libc::EPOLL_CTL_MOD, fd, libc::EPOLLOUT);
        }
        Ok(())
    }

    fn close(&mut self, fd: i32) -> io::Result<()> {
        self.connections[fd as usize] = Connection::default();
        // SAFETY: we own `fd`, and it is not used after this call.
        check(unsafe { libc::close(fd) })?;
        Ok(())
    }

    fn watch(&self, how: i32, fd: i32, interests: i32) -> io::Result<()> {
        let token = u64::try_from(fd).map_err(io::Error::other)?;
        let mut event = libc::epoll_event {
            events: (interests | libc::EPOLLET).cast_unsigned(),
            u64: token,
        };
        // SAFETY: `event` outlives the call.
        check(unsafe { libc::epoll_ctl(self.epoll, how, fd, &raw mut event) })?;
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            let (address, len) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: with null pointers the kernel writes no peer address.
            let fd = match check(unsafe { libc::accept4(self.listener, address, len, flags) }) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                fd => fd?,
            };
            let index = fd as usize;
            if self.connections.len() <= index {
                self.connections.resize_with(index + 1, Connection::default);
            }
            self.begin(fd)?;
        }
    }

    /// Adds a new connection to epoll. With `--close` the floor tries to serve it first: often the
    /// request has already arrived, and then the connection never needs to be added.
    fn begin(&mut self, fd: i32) -> io::Result<()> {
        if !self.closing {
            let interests = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP;
            return self.watch(libc::EPOLL_CTL_ADD, fd, interests);
        }
        if self.serve(fd, false).is_err() {
            return self.close(fd);
        }
        let all_sent = self.connections[fd as usize].unsent.is_empty();
        let interests = if all_sent {
            libc::EPOLLIN
        } else {
            libc::EPOLLOUT
        };
        self.watch(libc::EPOLL_CTL_ADD, fd, interests)
    }

    /// Receives and responds until the socket has no more input or its send buffer is full. A short
    /// receive means that there is no more input, unless the peer has closed.
    ///
    /// An error means that the connection must be closed: it failed, the peer has closed, or with
    /// `--close` the response has been sent.
    fn serve(&mut self, fd: i32, peer_done: bool) -> io::Result<()> {
        let mut buffer = [0; RECV_BUFFER_BYTES];
        let connection = &mut self.connections[fd as usize];
        // The close follows at once. With MSG_MORE response and FIN leave in one packet.
        let flags = if self.closing { libc::MSG_MORE } else { 0 };
        let mut drained = false;
        loop {
            if !connection.unsent.is_empty() {
                connection.unsent = send(fd, connection.unsent, flags)?;
                if self.closing && connection.unsent.is_empty() {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            if drained || !connection.unsent.is_empty() {
                return Ok(());
            }
            let received = match recv(fd, &mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                received => received?,
            };
            drained = received.len() < RECV_BUFFER_BYTES && !peer_done;
            let requests = count_requests(&mut connection.tail, received)?;
            connection.unsent = self.responses.to(if self.closing {
                requests.min(1)
            } else {
                requests
            });
        }
    }
}

/// Receives once. If the peer has closed, that is an error.
fn recv(fd: i32, buffer: &mut [u8]) -> io::Result<&[u8]> {
    // SAFETY: `buffer` is writable for its length and outlives the call.
    let received = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    match usize::try_from(received) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(len) => Ok(&buffer[..len]),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Sends as much as fits the socket buffer, and returns the rest.
fn send(fd: i32, bytes: &[u8], flags: i32) -> io::Result<&[u8]> {
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: `bytes` is readable for its length and outlives the call.
    let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
    match usize::try_from(sent) {
        Ok(len) => Ok(&bytes[len..]),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(bytes),
            error => Err(error),
        },
    }
}
