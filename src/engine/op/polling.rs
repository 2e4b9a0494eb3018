//! Waiting until a descriptor of any kind is ready (poll(2), a multishot `IORING_OP_POLL_ADD`,
//! Linux 5.13). It reports changes, so a lasting state, such as a half-closed peer, is reported
//! once.

use std::fmt;
use std::io;
use std::ops::BitOr;

use super::After;
use crate::engine::descriptor::Descriptor;
use crate::engine::uring::{Cqe, Sqe};

/// A set of events that poll(2) reports for a descriptor. Combine sets with `|`.
///
/// ```
/// use coring::net::Events;
///
/// let events = Events::READABLE | Events::WRITABLE;
/// assert!(events.contains(Events::READABLE));
/// assert!(!events.intersects(Events::HUNG_UP));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Events(u32);

impl Events {
    /// The empty set. As an interest, it asks only for the events that are always reported.
    pub const NONE: Self = Self(0);
    /// A read would not block (`POLLIN`).
    pub const READABLE: Self = Self::of(libc::POLLIN);
    /// A write would not block (`POLLOUT`).
    pub const WRITABLE: Self = Self::of(libc::POLLOUT);
    /// The peer of a stream sends no more: FIN (`POLLRDHUP`). Always reported.
    pub const HALF_CLOSED: Self = Self::of(libc::POLLRDHUP);
    /// Both directions of a stream have ended, or the other end is closed (`POLLHUP`). Always
    /// reported.
    pub const HUNG_UP: Self = Self::of(libc::POLLHUP);
    /// The descriptor has failed (`POLLERR`), for example because the peer reset the connection.
    /// Always reported, unless other code has read the error before (`SO_ERROR`); a socket that was
    /// reset reports `HUNG_UP`, too.
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

    /// Events as poll(2) or epoll_wait(2) report them; both use the same bits.
    pub(crate) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// Whether this set contains all of `events`.
    pub const fn contains(self, events: Self) -> bool {
        self.0 & events.0 == events.0
    }

    /// Whether this set contains any of `events`.
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
pub(in crate::engine) struct PollEvents {
    descriptor: Descriptor,
    interest: Events,
    /// Events that were reported and not yet taken.
    reported: Events,
    error: Option<io::Error>,
}

impl PollEvents {
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

    /// The events that concern this waiter: those that it asked for, and those that are always
    /// reported.
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
            // A task that still waits submits the poll again.
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(error) => self.error = Some(error),
        }
        After::Wake
    }

    /// Adds reported events. Returns false if none of them concerns this waiter.
    pub(in crate::engine) fn report(&mut self, events: Events) -> bool {
        let events = Events::from_bits(events.bits() & self.interest().bits());
        self.reported = self.reported | events;
        events != Events::NONE
    }

    /// Takes the events that were reported since the last call.
    pub(in crate::engine) fn take(&mut self) -> Option<io::Result<Events>> {
        let reported = std::mem::replace(&mut self.reported, Events::NONE);
        if reported != Events::NONE {
            return Some(Ok(reported));
        }
        self.error.take().map(Err)
    }
}
