//! Operations on real descriptors, such as an eventfd. The real kernel determines their results; a
//! random decision determines when they complete.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{SocketType, sockopt};
use rustix::time::Timespec;

use super::faults;
use super::flight::Action;
use super::kernel::{Kernel, count};
use super::network::{Identity, borrow};
use crate::engine::Events;

impl Kernel {
    /// Starts a poll that reports each change. On a simulated connection it can only wait for the
    /// peer's hang-up.
    pub(super) fn start_watch(&mut self, fd: RawFd, events: Events) -> Action {
        match self.network.identity(fd) {
            None => watch(fd, events).unwrap_or_else(|()| self.misuse("poll", fd)),
            Some(Identity::Socket(_)) if events == Events::NONE => match self.submitted_on(fd) {
                Some(socket) => Action::Hangup {
                    socket,
                    reported: 0,
                },
                None => self.misuse("poll", fd),
            },
            Some(_) => self.misuse("poll", fd),
        }
    }

    /// Receives a message into the operation's memory.
    pub(super) fn recv_message(&mut self, fd: RawFd, header: *mut libc::msghdr) -> i32 {
        if let Some(errno) = self.message_errno() {
            return -errno;
        }
        if self.random.chance(self.faults.exhausted) {
            // As if the process could open only a few more descriptors.
            let room = size_of::<libc::cmsghdr>() + self.random.below(3) * size_of::<RawFd>();
            // SAFETY: the operation keeps the header until its final completion.
            let header = unsafe { &mut *header };
            let all: usize = header.msg_controllen as _;
            header.msg_controllen = room.min(all) as _;
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the operation keeps the header and its buffers until its final completion.
        result(unsafe { libc::recvmsg(fd, header, flags) })
    }

    /// Sends a message.
    pub(super) fn send_message(&mut self, fd: RawFd, header: *const libc::msghdr) -> i32 {
        if let Some(errno) = self.message_errno() {
            return -errno;
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the operation keeps the header and its buffers until its final completion.
        result(unsafe { libc::sendmsg(fd, header, flags) })
    }

    /// The error that a fault gives to a send or receive of a message, if any.
    fn message_errno(&mut self) -> Option<i32> {
        if self.random.chance(self.faults.transient) {
            return Some(self.random.pick(faults::STREAM_TRANSIENT));
        }
        let fails = self.random.chance(self.faults.fatal);
        fails.then(|| self.random.pick(faults::MESSAGE_FATAL))
    }
}

/// Whether it is a real socket that preserves message boundaries.
pub(super) fn keeps_bounds(fd: RawFd) -> bool {
    sockopt::socket_type(borrow(fd)) == Ok(SocketType::SEQPACKET)
}

/// The result of a completion: `len` bytes or, if that is negative, the error of the last call.
fn result(len: isize) -> i32 {
    match usize::try_from(len) {
        Ok(len) => count(len),
        Err(_) => -io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    }
}

/// Pipes whose writing ends are passed in messages. A pipe whose writing ends are all closed
/// reports a hang-up.
#[derive(Debug, Default)]
pub(super) struct Counted(Vec<OwnedFd>);

impl Counted {
    pub(super) fn make(&mut self) -> io::Result<OwnedFd> {
        let (reader, writer) = io::pipe()?;
        self.0.push(reader.into());
        Ok(writer.into())
    }

    /// The number of pipes that still have a writing end.
    pub(super) fn open(&self) -> usize {
        let has_writer = |reader: &&OwnedFd| !is_readable(reader.as_fd());
        self.0.iter().filter(has_writer).count()
    }
}

/// Makes an epoll instance that is readable when the descriptor has changed since the last wait.
fn watch(fd: RawFd, events: Events) -> Result<Action, ()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(drop)?;
    let flags = EventFlags::from_bits_retain(events.bits()) | EventFlags::RDHUP | EventFlags::ET;
    epoll::add(&epoll, borrow(fd), EventData::new_u64(0), flags).map_err(drop)?;
    Ok(Action::Watch { epoll })
}

/// The events of the one descriptor that `epoll` watches.
pub(super) fn watched(epoll: &OwnedFd) -> i32 {
    let mut events: Vec<Event> = Vec::with_capacity(1);
    let _ = epoll::wait(
        epoll,
        spare_capacity(&mut events),
        Some(&Timespec::default()),
    );
    let flags = events
        .first()
        .map_or(EventFlags::empty(), |event| event.flags);
    flags.bits().cast_signed()
}

pub(super) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&Timespec::default())) == Ok(1)
}
