//! Reading the worker's eventfd, whose completion ends the worker's sleep (eventfd(2)).

use std::cell::Cell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use crate::engine::uring::Sqe;

/// A read of an eventfd's counter. The number does not matter; that it came does.
#[derive(Debug)]
pub(in crate::engine) struct Read {
    /// Other threads write to it, so they share it.
    eventfd: Arc<OwnedFd>,
    /// Where the kernel puts the counter. Not a box: moving one asserts that nobody else has a
    /// pointer into it.
    counter: Rc<Cell<[u8; 8]>>,
}

impl Read {
    pub(in crate::engine) fn new(eventfd: Arc<OwnedFd>) -> Self {
        Self {
            eventfd,
            counter: Rc::default(),
        }
    }

    pub(in crate::engine) fn sqe(&self) -> Sqe {
        Sqe::Read {
            fd: self.eventfd.as_raw_fd(),
            to: self.counter.as_ptr().cast(),
            len: 8,
        }
    }
}
