//! A file descriptor that stays open while its owner or an operation uses it.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;

use crate::rt::{Event, EventWait};
use crate::sys::socket;

/// A reference-counted descriptor. Each operation on it holds a reference, so it is closed after
/// the final completion of its last operation. (A socket that is closed while a receive is armed
/// sends no FIN, and is leaked; io_uring_cancelation(7).)
#[derive(Debug, Clone)]
pub struct Descriptor(Rc<DescriptorState>);

/// A reference to a descriptor that does not keep it open.
#[derive(Debug, Clone)]
pub struct WeakDescriptor {
    state: Weak<DescriptorState>,
    /// The number of exchanges that had ended when the reference was made.
    exchanges_ended: u64,
}

#[derive(Debug)]
struct DescriptorState {
    fd: Option<OwnedFd>,
    /// We have set `O_NONBLOCK`. The flag may have been set before, too.
    nonblocking: Cell<bool>,
    /// [`Descriptor::notify_gone`] was called.
    is_gone: Cell<bool>,
    /// How often [`Descriptor::end_exchange`] was called.
    exchanges_ended: Cell<u64>,
    /// The event for those that wait in [`WeakDescriptor::gone`] during the current exchange;
    /// created for the first of them.
    gone: RefCell<Option<Rc<Event>>>,
    addresses: OnceCell<Box<Addresses>>,
}

/// The addresses of a connected socket. `None` for a Unix socket, and where the kernel gives none:
/// a peer that has reset the connection has no address any more.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Ours.
    pub local: Option<SocketAddr>,
    /// The peer's.
    pub peer: Option<SocketAddr>,
    /// Whether it is a Unix socket that has a file.
    pub has_socket_file: bool,
}

impl Descriptor {
    /// Takes ownership of an open descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self(Rc::new(DescriptorState {
            fd: Some(fd),
            nonblocking: Cell::new(false),
            is_gone: Cell::new(false),
            exchanges_ended: Cell::new(0),
            gone: RefCell::default(),
            addresses: OnceCell::new(),
        }))
    }

    /// The addresses, if it is a socket that is connected. They do not change, so the kernel is
    /// asked once.
    pub fn addresses(&self) -> Addresses {
        **self.0.addresses.get_or_init(|| {
            let local = rustix::net::getsockname(self).ok();
            let peer = rustix::net::getpeername(self).ok().flatten();
            Box::new(Addresses {
                has_socket_file: local.as_ref().is_some_and(socket::has_file),
                local: local.and_then(|address| address.try_into().ok()),
                peer: peer.and_then(|address| address.try_into().ok()),
            })
        })
    }

    /// A reference that does not keep the descriptor open.
    #[inline]
    pub fn downgrade(&self) -> WeakDescriptor {
        WeakDescriptor {
            state: Rc::downgrade(&self.0),
            exchanges_ended: self.0.exchanges_ended.get(),
        }
    }

    /// Wakes all tasks that wait in [`WeakDescriptor::gone`]: the peer is gone, or the owner no
    /// longer uses the descriptor.
    pub fn notify_gone(&self) {
        self.0.is_gone.set(true);
        self.wake_waiting();
    }

    /// Ends an exchange with the peer: wakes all tasks that wait in [`WeakDescriptor::gone`] of a
    /// reference made before.
    #[inline]
    pub fn end_exchange(&self) {
        let ended = &self.0.exchanges_ended;
        ended.set(ended.get().wrapping_add(1));
        if self.0.gone.borrow().is_some() {
            self.wake_waiting();
        }
    }

    #[cold]
    fn wake_waiting(&self) {
        let gone = self.0.gone.take();
        gone.into_iter().for_each(|gone| gone.fire());
    }

    /// The descriptor's number, for the kernel.
    pub(super) fn raw(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// If this is the last reference, closes the descriptor at once instead of with the next batch.
    pub fn close_now(self) {
        if let Some(mut inner) = Rc::into_inner(self.0) {
            drop(inner.fd.take());
        }
    }

    /// Sets `O_NONBLOCK`, with a system call only the first time.
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
    /// The descriptor, if it is still open.
    pub fn upgrade(&self) -> Option<Descriptor> {
        self.state.upgrade().map(Descriptor)
    }

    /// Waits until [`Descriptor::notify_gone`] is called, or [`Descriptor::end_exchange`] for the
    /// first time since the reference was made. Ready at once if the descriptor is closed.
    pub fn gone(&self) -> EventWait {
        let is_running = |inner: &Rc<DescriptorState>| {
            !inner.is_gone.get() && inner.exchanges_ended.get() == self.exchanges_ended
        };
        let inner = self.state.upgrade().filter(is_running);
        let event = match &inner {
            Some(inner) => inner.gone.borrow_mut().get_or_insert_default().clone(),
            None => Rc::default(),
        };
        if inner.is_none() {
            event.fire();
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

impl Drop for DescriptorState {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            super::current::close(fd);
        }
    }
}
