//! Reading the worker's eventfd, whose completion ends the worker's sleep (eventfd(2)).

use std::os::fd::RawFd;

use crate::engine::uring::Sqe;

/// A read of an eventfd's counter. The number does not matter; that it came does.
#[derive(Debug)]
pub(in crate::engine) struct Read {
    fd: RawFd,
    /// Where the kernel puts the counter: it must not move while the operation runs.
    counter: Box<[u8; 8]>,
}

impl Read {
    pub(in crate::engine) fn new(fd: RawFd) -> Self {
        Self {
            fd,
            counter: Box::default(),
        }
    }

    pub(in crate::engine) fn sqe(&mut self) -> Sqe {
        Sqe::Read {
            fd: self.fd,
            to: self.counter.as_mut_ptr(),
            len: 8,
        }
    }
}
