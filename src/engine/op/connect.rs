//! Connecting a socket to its peer (connect(2), `IORING_OP_CONNECT`, Linux 5.5).

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::Poll;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::SocketAddrAny;

use super::After;
use crate::engine::descriptor::Descriptor;
use crate::engine::uring::{Cqe, Sqe};

/// One connect. It owns the address until the kernel has finished with it.
#[derive(Debug)]
pub(in crate::engine) struct Connect {
    socket: Descriptor,
    /// `Rc`, not `Box`: moving a `Box` asserts that there is no other pointer to its content.
    address: Rc<SocketAddrAny>,
    /// The result, until the task takes it.
    pub(in crate::engine) result: Option<io::Result<()>>,
}

impl Connect {
    pub(in crate::engine) fn new(socket: Descriptor, address: SocketAddrAny) -> Self {
        Self {
            socket,
            address: Rc::new(address),
            result: None,
        }
    }

    pub(in crate::engine) fn sqe(&self) -> Sqe {
        Sqe::Connect {
            fd: self.socket.raw(),
            address: self.address.as_ptr().cast(),
            len: self.address.addr_len(),
        }
    }

    pub(in crate::engine) fn complete(&mut self, cqe: &Cqe) -> After {
        self.result = Some(cqe.result().map(|_| ()));
        After::Wake
    }
}

/// Begins to connect by a system call, without waiting. `Pending`: the socket becomes writable when
/// the connect has ended. A Unix socket connects at once or fails.
pub(in crate::engine) fn connect(
    socket: impl AsFd,
    address: &SocketAddrAny,
) -> Poll<io::Result<()>> {
    let socket = socket.as_fd();
    let begin = || {
        fcntl_setfl(socket, fcntl_getfl(socket)? | OFlags::NONBLOCK)?;
        rustix::net::connect(socket, address)
    };
    match begin() {
        // After EINTR the kernel continues to connect (connect(2)).
        Err(Errno::INPROGRESS | Errno::INTR) => Poll::Pending,
        ended => Poll::Ready(ended.map_err(io::Error::from)),
    }
}
