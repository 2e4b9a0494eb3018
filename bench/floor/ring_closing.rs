//! The io_uring floor with a connection for each request: it sends one response and closes the
//! connection, without waiting in between.
//!
//! Send and close are one chain of linked operations. The send has `MSG_MORE`, so the kernel holds
//! the response back until the close, and response and FIN leave in one packet. A chain that
//! succeeds posts no completion (`IOSQE_CQE_SKIP_SUCCESS`).

use std::io;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};

use crate::buf_ring::BufRing;
use crate::queues::{ACCEPT, CLOSE, Queues, RECV, SEND, operation};
use crate::shared::{RECV_BUFFER_BYTES, Responses, count_requests};

/// The kind of receive that is armed while a connection waits for its request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receive {
    /// A receive that stays armed. The chain must cancel it before the close: an armed receive
    /// holds a reference to the socket, which would stay open.
    Multishot,
    /// A receive that completes once, with the request. Nothing is armed at the close.
    Oneshot,
}

/// One connection. Its index is its file descriptor.
#[derive(Default)]
struct Connection {
    /// The bytes of an unfinished request.
    tail: Vec<u8>,
    /// The chain that ends the connection has been queued.
    ending: bool,
}

struct Floor<'ring> {
    queues: Queues<'ring>,
    responses: Responses,
    receive: Receive,
    connections: Vec<Connection>,
}

/// Responses one request on each connection.
pub(crate) fn run(queues: Queues<'_>, responses: Responses, receive: Receive) -> io::Result<()> {
    let connections = Vec::new();
    Floor {
        queues,
        responses,
        receive,
        connections,
    }
    .run()
}

impl Floor<'_> {
    fn run(&mut self) -> io::Result<()> {
        loop {
            self.queues.enter(1)?;
            self.queues.cq.sync();
            while let Some(cqe) = self.queues.cq.next() {
                match operation(&cqe) {
                    (ACCEPT, _) => self.on_accept(&cqe)?,
                    (RECV, fd) => self.on_recv(fd, &cqe)?,
                    // Only a send that failed or was short posts a completion. Its chain is broken,
                    // and the socket is still open.
                    (SEND, fd) => self.end(fd)?,
                    (CLOSE, _) if cqe.result() != -libc::ECANCELED => {
                        return Err(io::Error::from_raw_os_error(-cqe.result()));
                    }
                    _ => {}
                }
            }
            self.queues.cq.sync();
        }
    }

    fn arm_recv(&mut self, fd: i32) -> io::Result<()> {
        let group = BufRing::GROUP;
        let entry = match self.receive {
            Receive::Multishot => opcode::RecvMulti::new(Fd(fd), group).build(),
            Receive::Oneshot => {
                let len = RECV_BUFFER_BYTES as u32;
                let recv = opcode::Recv::new(Fd(fd), std::ptr::null_mut(), len).buf_group(group);
                recv.build().flags(squeue::Flags::BUFFER_SELECT)
            }
        };
        self.queues.push(&[entry.user_data(RECV | fd as u64)])
    }

    fn respond(&mut self, fd: i32) -> io::Result<()> {
        let bytes = self.responses.to(1);
        let send = opcode::Send::new(Fd(fd), bytes.as_ptr(), bytes.len() as u32);
        let entry = send.flags(libc::MSG_WAITALL | libc::MSG_MORE).build();
        let flags = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
        let send = entry.user_data(SEND | fd as u64).flags(flags);
        match self.receive {
            Receive::Multishot => self.queues.push(&[send, cancel(fd), close(fd)]),
            Receive::Oneshot => self.queues.push(&[send, close(fd)]),
        }
    }

    /// Closes the connection without a response, whether or not a receive is armed.
    fn end(&mut self, fd: i32) -> io::Result<()> {
        match self.receive {
            Receive::Multishot => self.queues.push(&[cancel(fd), close(fd)]),
            Receive::Oneshot => self.queues.push(&[close(fd)]),
        }
    }

    fn on_accept(&mut self, cqe: &cqueue::Entry) -> io::Result<()> {
        let Some(fd) = self.queues.accepted(cqe)? else {
            return Ok(());
        };
        let index = fd as usize;
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, Connection::default);
        }
        self.connections[index].tail.clear();
        self.connections[index].ending = false;
        self.arm_recv(fd)
    }

    fn on_recv(&mut self, fd: i32, cqe: &cqueue::Entry) -> io::Result<()> {
        // The completion of a cancelled receive may arrive when the kernel has already reused the
        // descriptor for another connection.
        if cqe.result() == -libc::ECANCELED {
            return Ok(());
        }
        let connection = &mut self.connections[fd as usize];
        let mut requests = Ok(0);
        if let Some(id) = cqueue::buffer_select(cqe.flags()) {
            let len = usize::try_from(cqe.result()).unwrap_or(0);
            let received = self.queues.buf_ring.received(id, len);
            requests = count_requests(&mut connection.tail, received);
            self.queues.buf_ring.give_back(id);
        }
        if connection.ending {
            return Ok(());
        }
        let may_receive_more = cqe.result() > 0 || cqe.result() == -libc::ENOBUFS;
        match requests {
            Ok(0) if cqueue::more(cqe.flags()) => Ok(()),
            Ok(0) if may_receive_more => self.arm_recv(fd),
            Ok(1..) => {
                connection.ending = true;
                self.respond(fd)
            }
            Ok(0) | Err(_) => {
                connection.ending = true;
                self.end(fd)
            }
        }
    }
}

/// Cancels the receive of a connection. The hard link executes the next operation of the chain also
/// if the receive has already ended and there is nothing to cancel.
fn cancel(fd: i32) -> squeue::Entry {
    let entry = opcode::AsyncCancel::new(RECV | fd as u64).build();
    entry.flags(squeue::Flags::IO_HARDLINK | squeue::Flags::SKIP_SUCCESS)
}

fn close(fd: i32) -> squeue::Entry {
    let entry = opcode::Close::new(Fd(fd)).build();
    let entry = entry.user_data(CLOSE | fd as u64);
    entry.flags(squeue::Flags::SKIP_SUCCESS)
}
