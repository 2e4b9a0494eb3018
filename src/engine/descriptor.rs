//! A file descriptor that stays open while somebody uses it: its owner, or the kernel.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;

/// A counted descriptor. Every operation on it holds one, so it is closed after the final
/// completion of the last operation, never under the kernel's feet (a socket closed with a
/// receive armed sends no FIN and is leaked; io_uring_cancelation(7)).
#[derive(Debug, Clone)]
pub struct Descriptor(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: Option<OwnedFd>,
    /// We have set `O_NONBLOCK`; how it came does not matter.
    nonblocking: Cell<bool>,
}

impl Descriptor {
    /// Takes over an open descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self(Rc::new(Inner {
            fd: Some(fd),
            nonblocking: Cell::new(false),
        }))
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
