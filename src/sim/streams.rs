//! How receives and sends move bytes, how they fail, and how a socket reports room. Nothing here
//! waits.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use rustix::io::{Errno, pread};

use super::World;
use super::faults;
use super::flight::{Action, Flight, SendMemory};
use super::kernel::{CQE_BUFFER, CQE_BUFFER_SHIFT, Kernel, count};
use super::network::Identity;
use crate::buf;
use crate::engine::Descriptor;

impl Kernel {
    /// Receives into a provided buffer. Returns the result and the flags of the completion.
    pub(super) fn recv(&mut self, ring: usize, number: usize, is_multishot: bool) -> (i32, u32) {
        if self.random.chance(self.faults.transient) {
            return (-self.random.pick(faults::STREAM_TRANSIENT), 0);
        }
        if self.random.chance(self.faults.fatal) {
            self.network.sockets[number].had_injected_error = true;
            return (-self.random.pick(faults::RECV_FATAL), 0);
        }
        let more = if is_multishot { self.more() } else { 0 };
        let is_short = self.random.chance(self.faults.short);
        let socket = &mut self.network.sockets[number];
        if socket.reset {
            return (socket.take_error().map_or(0, |errno| -errno), 0);
        }
        let Some(buffers) = self.rings[ring].buffers.as_mut().filter(|b| b.len() > 0) else {
            return (-libc::ENOBUFS, 0);
        };
        let mut len = socket.inbound.len().min(buffers.next_len());
        if len == 0 {
            return (0, 0);
        }
        if is_short {
            len = 1 + self.random.below(len);
        }
        let bytes: Vec<u8> = socket.inbound.drain(..len).collect();
        socket.moved(self.now_ms);
        let buffer = buffers.take(&bytes);
        let flags = more | CQE_BUFFER | u32::from(buffer) << CQE_BUFFER_SHIFT;
        (count(len), flags)
    }

    /// recvmsg(2) with `MSG_DONTWAIT`, as a plain system call.
    pub(super) fn recv_at_once(
        &mut self,
        fd: RawFd,
        to: &mut [IoSliceMut<'_>],
    ) -> Result<usize, Errno> {
        let Some(number) = self.submitted_on(fd) else {
            return Err(Errno::BADF);
        };
        let is_short = self.random.chance(self.faults.short);
        let socket = &mut self.network.sockets[number];
        let mut len = socket
            .inbound
            .len()
            .min(to.iter().map(|slice| slice.len()).sum());
        if socket.reset {
            let errno = socket.take_error().map(Errno::from_raw_os_error);
            return errno.map_or(Ok(0), Err);
        }
        if len == 0 && !socket.finished {
            return Err(Errno::AGAIN);
        }
        if is_short && len > 0 {
            len = 1 + self.random.below(len);
        }
        let places = to.iter_mut().flat_map(|slice| slice.iter_mut());
        for (place, byte) in places.zip(socket.inbound.drain(..len)) {
            *place = byte;
        }
        socket.idle_submissions = 0;
        self.note("received at once", number, i64::from(count(len)));
        Ok(len)
    }

    /// Starts a send of `parts`.
    pub(super) fn start_send(
        &mut self,
        ring: usize,
        fd: RawFd,
        parts: Vec<(*const u8, usize)>,
    ) -> Action {
        match self.start_sender(ring, fd) {
            Some(socket) => Action::Send {
                socket,
                outgoing: SendMemory::new(parts),
            },
            None => self.misuse("send", fd),
        }
    }

    /// Starts a poll for room to send.
    pub(super) fn start_poll(&mut self, ring: usize, fd: RawFd, edges: bool) -> Action {
        let Some(socket) = self.start_sender(ring, fd) else {
            return self.misuse("poll", fd);
        };
        self.network.sockets[socket].want_room();
        Action::Room {
            socket,
            edges,
            reported: None,
        }
    }

    /// The connection on which a send or a poll for room is submitted. Checks that no other one is
    /// in flight there.
    fn start_sender(&mut self, ring: usize, fd: RawFd) -> Option<usize> {
        let socket = self.submitted_on(fd)?;
        let sends = |flight: &Flight| flight.sends_on(socket);
        if self.rings[ring].flights.iter().any(sends) {
            self.fail(&format!("two sends at once on connection {socket}"));
        }
        Some(socket)
    }

    /// Executes a send of the ring.
    pub(super) fn send(&mut self, socket: usize, outgoing: &SendMemory) -> i32 {
        if self.random.chance(self.faults.transient) {
            return -self.random.pick(faults::STREAM_TRANSIENT);
        }
        match self.take(socket, &[&outgoing.copy]) {
            Ok(sent) => count(sent),
            Err(errno) => -errno,
        }
    }

    /// Executes send(2) with `MSG_DONTWAIT`, as a plain system call.
    fn send_now(&mut self, fd: RawFd, parts: &[&[u8]]) -> Result<usize, i32> {
        let Some(Identity::Socket(socket)) = self.network.identity(fd) else {
            self.misuse("send", fd);
            return Err(libc::EBADF);
        };
        if self.random.chance(self.faults.transient) {
            return Err(libc::EINTR);
        }
        let result = self.take(socket, parts);
        let traced_result = result.map_or_else(|errno| -errno, count);
        self.note("sends at once", socket, traced_result.into());
        result
    }

    /// Moves as many bytes of `parts` as there is room for to the client.
    fn take(&mut self, number: usize, parts: &[&[u8]]) -> Result<usize, i32> {
        if self.network.sockets[number].broken {
            self.fail(&format!(
                "a send on connection {number} follows a failed one"
            ));
        }
        let is_short = self.random.chance(self.faults.short);
        let fails = self.random.chance(self.faults.fatal);
        let socket = &mut self.network.sockets[number];
        if fails || socket.reset {
            (socket.broken, socket.had_injected_error) = (true, socket.had_injected_error || fails);
            return Err(match fails {
                true => self.random.pick(faults::SEND_FATAL),
                false => socket.take_error().unwrap_or(libc::EPIPE),
            });
        }
        let all: usize = parts.iter().map(|part| part.len()).sum();
        let mut len = all.min(socket.window.saturating_sub(socket.outbound.len()));
        if len < all {
            socket.want_room();
        }
        if len == 0 {
            return Err(libc::EAGAIN);
        }
        if is_short {
            len = 1 + self.random.below(len);
        }
        let mut rest = len;
        for part in parts {
            let taken = rest.min(part.len());
            socket.outbound.extend(&part[..taken]);
            rest -= taken;
        }
        socket.moved(self.now_ms);
        Ok(len)
    }
}

/// The content of a file span. It is shorter than the span if the file ends before.
fn read(span: &buf::FileSpan) -> Result<Vec<u8>, Errno> {
    let mut content = vec![0; span.len()];
    let mut len = 0;
    while len < content.len() {
        match pread(span, &mut content[len..], span.offset() + len as u64)? {
            0 => break,
            n => len += n,
        }
    }
    content.truncate(len);
    Ok(content)
}

/// send(2) with `MSG_DONTWAIT` of `outgoing` without its first `sent` bytes; `None` outside a
/// simulation.
pub(crate) fn send(
    socket: &Descriptor,
    outgoing: &buf::Outgoing,
    mut sent: usize,
) -> Option<Result<usize, Errno>> {
    let world = World::current()?;
    let content;
    let mut parts: Vec<&[u8]> = match outgoing {
        buf::Outgoing::One(chunk) => vec![chunk],
        buf::Outgoing::Many(parts) => parts.iter().map(|part| &part[..]).collect(),
        buf::Outgoing::File(file) => {
            content = match read(&file.span) {
                Ok(content) => content,
                Err(errno) => return Some(Err(errno)),
            };
            file.head
                .as_deref()
                .into_iter()
                .chain([&content[..]])
                .collect()
        }
    };
    for part in &mut parts {
        let skipped = sent.min(part.len());
        *part = &part[skipped..];
        sent -= skipped;
    }
    let result = world.with(|kernel| kernel.send_now(socket.as_fd().as_raw_fd(), &parts));
    Some(result.map_err(Errno::from_raw_os_error))
}
