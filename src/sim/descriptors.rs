//! Descriptors that are real in all they do, such as an eventfd. What becomes of an operation on
//! one is the real kernel's to say; when it completes is chance.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

use super::flight::Action;
use super::kernel::Kernel;
use super::network::{Identity, borrow};
use crate::engine::Events;

impl Kernel {
    /// Takes a poll that reports each change. Of a simulated connection nothing but its peer's
    /// going can be polled.
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
}

/// An instance that is readable when the descriptor has changed since it was last waited for.
fn watch(fd: RawFd, events: Events) -> Result<Action, ()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(drop)?;
    let flags = EventFlags::from_bits_retain(events.bits()) | EventFlags::RDHUP | EventFlags::ET;
    epoll::add(&epoll, borrow(fd), EventData::new_u64(0), flags).map_err(drop)?;
    Ok(Action::Watch { epoll })
}

/// What has changed of a descriptor that is watched by itself.
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
