//! A file descriptor that stays open while somebody uses it: its owner, or the kernel.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;

use crate::rt::{Event, Occurrence};

/// A counted descriptor. Every operation on it holds one, so it is closed after the final
/// completion of the last operation, never under the kernel's feet (a socket closed with a
/// receive armed sends no FIN and is leaked; io_uring_cancelation(7)).
#[derive(Debug, Clone)]
pub struct Descriptor(Rc<Inner>);

/// A counted descriptor as those see it that do not keep it open.
#[derive(Debug, Clone)]
pub struct WeakDescriptor(Weak<Inner>);

#[derive(Debug)]
struct Inner {
    fd: Option<OwnedFd>,
    /// We have set `O_NONBLOCK`; how it came does not matter.
    nonblocking: Cell<bool>,
    /// Nothing more can be done for the other end; it was told by the owner.
    is_gone: Cell<bool>,
    /// The same, for those that wait for it; made when it is first waited for.
    gone: RefCell<Option<Rc<Event>>>,
}

impl Descriptor {
    /// Takes over an open descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self(Rc::new(Inner {
            fd: Some(fd),
            nonblocking: Cell::new(false),
            is_gone: Cell::new(false),
            gone: RefCell::default(),
        }))
    }

    /// The same without keeping it open.
    #[inline]
    pub fn downgrade(&self) -> WeakDescriptor {
        WeakDescriptor(Rc::downgrade(&self.0))
    }

    /// Tells those that wait for it that the other end is gone, or that its owner is done with it.
    pub fn tell_gone(&self) {
        self.0.is_gone.set(true);
        let gone = self.0.gone.take();
        gone.into_iter().for_each(|gone| gone.happen());
    }

    /// Its number, for the kernel.
    pub(super) fn raw(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// Closes it at once if nobody else uses it, rather than with the next batch.
    pub fn close_now(self) {
        if let Some(mut inner) = Rc::into_inner(self.0) {
            drop(inner.fd.take());
        }
    }

    /// Sets `O_NONBLOCK`, once.
    ///
    /// # Errors
    /// Those of fcntl(2).
    #[inline]
    pub(super) fn make_nonblocking(&self) -> Result<(), Errno> {
        if !self.0.nonblocking.get() {
            fcntl_setfl(self, OFlags::NONBLOCK)?;
            self.0.nonblocking.set(true);
        }
        Ok(())
    }
}

impl WeakDescriptor {
    /// The descriptor, while it is open.
    pub fn upgrade(&self) -> Option<Descriptor> {
        self.0.upgrade().map(Descriptor)
    }

    /// Waits until [`Descriptor::tell_gone`].
    pub fn gone(&self) -> Occurrence {
        let inner = self.0.upgrade().filter(|inner| !inner.is_gone.get());
        let event = match &inner {
            Some(inner) => inner.gone.borrow_mut().get_or_insert_default().clone(),
            None => Rc::default(),
        };
        if inner.is_none() {
            event.happen();
        }
        event.wait()
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0
            .fd
            .as_ref()
            .expect("a descriptor is open until it is dropped")
            .as_fd()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            super::current::close(fd);
        }
    }
}
