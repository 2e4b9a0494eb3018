//! Waiting until a descriptor of any kind is ready (poll(2), a multishot of `IORING_OP_POLL_ADD`,
//! Linux 5.13). It reports changes, so a state that lasts, as a half-closed peer's, is reported
//! once.

use std::fmt;
use std::io;
use std::ops::BitOr;

use super::After;
use crate::engine::descriptor::Descriptor;
use crate::engine::uring::{Cqe, Sqe};

/// What poll(2) reports of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Events(u32);

impl Events {
    /// Nothing but what is always reported.
    pub const NONE: Self = Self(0);
    /// A read does not wait (`POLLIN`).
    pub const READABLE: Self = Self::of(libc::POLLIN);
    /// A write does not wait (`POLLOUT`).
    pub const WRITABLE: Self = Self::of(libc::POLLOUT);
    /// The peer of a stream sends no more (`POLLRDHUP`). Always reported.
    pub const HALF_CLOSED: Self = Self::of(libc::POLLRDHUP);
    /// Both directions have ended, or the other end is closed (`POLLHUP`). Always reported.
    pub const HUNG_UP: Self = Self::of(libc::POLLHUP);
    /// It has failed (`POLLERR`), as a socket whose peer has reset the connection. Always
    /// reported, unless somebody has taken the error away before; such a socket has also hung up.
    pub const FAILED: Self = Self::of(libc::POLLERR);

    const ALL: [(Self, &'static str); 5] = [
        (Self::READABLE, "READABLE"),
        (Self::WRITABLE, "WRITABLE"),
        (Self::HALF_CLOSED, "HALF_CLOSED"),
        (Self::HUNG_UP, "HUNG_UP"),
        (Self::FAILED, "FAILED"),
    ];

    const fn of(event: libc::c_short) -> Self {
        Self(event.unsigned_abs() as u32)
    }

    /// Those of poll(2) or epoll_wait(2); the numbers are the same.
    pub(crate) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `events` are among these.
    pub const fn contains(self, events: Self) -> bool {
        self.0 & events.0 == events.0
    }

    /// Whether any of `events` is among these.
    pub const fn intersects(self, events: Self) -> bool {
        self.0 & events.0 != 0
    }
}

impl BitOr for Events {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().filter(|(event, _)| self.contains(*event));
        f.debug_set().entries(named.map(|(_, name)| name)).finish()
    }
}

/// One waiter's poll of a descriptor.
#[derive(Debug)]
pub(in crate::engine) struct Polling {
    descriptor: Descriptor,
    interest: Events,
    /// Reported and not yet asked for.
    reported: Events,
    error: Option<io::Error>,
}

impl Polling {
    pub(in crate::engine) fn new(descriptor: Descriptor, interest: Events) -> Self {
        Self {
            descriptor,
            interest,
            reported: Events::NONE,
            error: None,
        }
    }

    pub(in crate::engine) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The events to be reported; the kernel adds the others by itself.
    pub(in crate::engine) fn interest(&self) -> Events {
        self.interest | Events::HALF_CLOSED | Events::HUNG_UP | Events::FAILED
    }

    pub(in crate::engine) fn sqe(&self) -> Sqe {
        Sqe::Poll {
            fd: self.descriptor.raw(),
            events: self.interest,
        }
    }

    pub(in crate::engine) fn complete(&mut self, cqe: &Cqe) -> After {
        match cqe.result() {
            Ok(events) => {
                self.report(Events::from_bits(events));
            }
            // A task that still waits asks for it again.
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(error) => self.error = Some(error),
        }
        After::Wake
    }

    /// Notes what has changed. False: it does not concern this waiter.
    pub(in crate::engine) fn report(&mut self, events: Events) -> bool {
        let events = Events::from_bits(events.bits() & self.interest().bits());
        self.reported = self.reported | events;
        events != Events::NONE
    }

    /// Events that were reported since the last call.
    pub(in crate::engine) fn take(&mut self) -> Option<io::Result<Events>> {
        let reported = std::mem::replace(&mut self.reported, Events::NONE);
        if reported != Events::NONE {
            return Some(Ok(reported));
        }
        self.error.take().map(Err)
    }
}
