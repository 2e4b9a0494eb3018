//! What receives and sends move, and how they fail.

use std::io::IoSliceMut;
use std::os::fd::RawFd;

use rustix::io::Errno;

use super::faults;
use super::flight::Outgoing;
use super::kernel::{CQE_BUFFER, CQE_BUFFER_SHIFT, Kernel, MEMORY_CHANGED, count};

impl Kernel {
    /// A receive into a provided buffer: result and flags.
    pub(super) fn recv(&mut self, ring: usize, number: usize, goes_on: bool) -> (i32, u32) {
        if self.random.chance(self.faults.passing) {
            return (-self.random.pick(faults::STREAM_PASSING), 0);
        }
        if self.random.chance(self.faults.fatal) {
            self.network.sockets[number].excused = true;
            return (-self.random.pick(faults::RECV_FATAL), 0);
        }
        let more = if goes_on { self.more() } else { 0 };
        let is_short = self.random.chance(self.faults.short);
        let socket = &mut self.network.sockets[number];
        if socket.reset {
            return (-libc::ECONNRESET, 0);
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

    /// recvmsg(2) with `MSG_DONTWAIT`, outside of the ring.
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
            return Err(Errno::CONNRESET);
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

    /// How a send ended; none if it has not.
    pub(super) fn send(
        &mut self,
        number: usize,
        outgoing: &mut Outgoing,
        cancelled: bool,
    ) -> Option<i32> {
        let sent_or = |errno: i32, sent: usize| Some(if sent > 0 { count(sent) } else { -errno });
        if cancelled {
            return sent_or(libc::ECANCELED, outgoing.sent);
        }
        if self.random.chance(self.faults.passing) {
            return sent_or(self.random.pick(faults::STREAM_PASSING), outgoing.sent);
        }
        if self.random.chance(self.faults.fatal) {
            self.network.sockets[number].excused = true;
            return sent_or(self.random.pick(faults::SEND_FATAL), outgoing.sent);
        }
        let is_short = self.random.chance(self.faults.short);
        let socket = &mut self.network.sockets[number];
        if socket.reset {
            return sent_or(libc::ECONNRESET, outgoing.sent);
        }
        let room = socket.window.saturating_sub(socket.outbound.len());
        let mut len = room.min(outgoing.copy.len() - outgoing.sent);
        if is_short && len > 0 {
            len = 1 + self.random.below(len);
        }
        socket.moved(self.now_ms);
        match outgoing.send(len) {
            Some(bytes) => socket.outbound.extend(bytes),
            None => self.fail(&MEMORY_CHANGED),
        }
        // It waits for room until everything is sent (MSG_WAITALL), unless it is disturbed.
        let is_disturbed = is_short && self.random.chance(300);
        (outgoing.sent == outgoing.copy.len() || is_disturbed).then(|| count(outgoing.sent))
    }
}
