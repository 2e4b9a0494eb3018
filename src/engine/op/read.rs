//! Reading the worker's eventfd, whose completion ends the worker's sleep (eventfd(2)).

use std::cell::Cell;
use std::os::fd::RawFd;
use std::rc::Rc;

use crate::engine::uring::Sqe;

/// A read of an eventfd's counter. The number does not matter; that it came does.
#[derive(Debug)]
pub(in crate::engine) struct Read {
    fd: RawFd,
    /// Where the kernel puts the counter. Not a box: moving one asserts that nobody else has a
    /// pointer into it.
    counter: Rc<Cell<[u8; 8]>>,
}

impl Read {
    pub(in crate::engine) fn new(fd: RawFd) -> Self {
        Self {
            fd,
            counter: Rc::default(),
        }
    }

    pub(in crate::engine) fn sqe(&self) -> Sqe {
        Sqe::Read {
            fd: self.fd,
            to: self.counter.as_ptr().cast(),
            len: 8,
        }
    }
}
