//! Reading the worker's eventfd. The completion ends the worker's sleep (eventfd(2)).

use std::cell::Cell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use crate::engine::uring::Sqe;

/// A read of an eventfd's counter. Its value does not matter, only the completion.
#[derive(Debug)]
pub(in crate::engine) struct Read {
    /// Shared with the threads that write to it.
    eventfd: Arc<OwnedFd>,
    /// Where the kernel writes the counter. `Rc`, not `Box`: moving a `Box` asserts that there is
    /// no other pointer to its content.
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
