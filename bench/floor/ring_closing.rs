//! The ring's floor with a connection for each request: one answer, then the end, with nothing
//! waited for in between. It refuses to know how else a connection could go on.
//!
//! Answer and close are one chain. The send says that more is to come (`MSG_MORE`), and what comes
//! is the end: answer and FIN leave in one packet. Nobody is told of a chain that went well.

use std::io;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};

use crate::buf_ring::BufRing;
use crate::queues::{ACCEPT, CLOSE, Queues, RECV, SEND, operation};
use crate::shared::{Answers, RECV_BUFFER_BYTES, count_requests};

/// What is armed while a request is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receive {
    /// A receive that the chain has to cancel: closed over it, the socket would live on.
    Multishot,
    /// A receive that is over when it has brought the request: nothing is armed at the close.
    Oneshot,
}

/// One connection, found by its file descriptor.
#[derive(Default)]
struct Connection {
    /// The bytes of an unfinished request.
    tail: Vec<u8>,
    /// The chain that answers and closes is under way.
    answered: bool,
}

struct Floor<'ring> {
    queues: Queues<'ring>,
    answers: Answers,
    receive: Receive,
    connections: Vec<Connection>,
}

/// Answers one request on each connection.
pub(crate) fn run(queues: Queues<'_>, answers: Answers, receive: Receive) -> io::Result<()> {
    let connections = Vec::new();
    Floor {
        queues,
        answers,
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
                    // Only a send that failed or fell short is heard of: its chain is broken and
                    // the socket still open.
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

    fn answer(&mut self, fd: i32) -> io::Result<()> {
        let bytes = self.answers.to(1);
        let send = opcode::Send::new(Fd(fd), bytes.as_ptr(), bytes.len() as u32);
        let entry = send.flags(libc::MSG_WAITALL | libc::MSG_MORE).build();
        let flags = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
        let send = entry.user_data(SEND | fd as u64).flags(flags);
        match self.receive {
            Receive::Multishot => self.queues.push(&[send, cancel(fd), close(fd)]),
            Receive::Oneshot => self.queues.push(&[send, close(fd)]),
        }
    }

    /// Closes without an answer, whether or not a receive is armed.
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
        self.connections[index].answered = false;
        self.arm_recv(fd)
    }

    fn on_recv(&mut self, fd: i32, cqe: &cqueue::Entry) -> io::Result<()> {
        // A cancelled receive may be heard of after its descriptor's next connection.
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
        if connection.answered {
            return Ok(());
        }
        let goes_on = cqe.result() > 0 || cqe.result() == -libc::ENOBUFS;
        match requests {
            Ok(0) if cqueue::more(cqe.flags()) => Ok(()),
            Ok(0) if goes_on => self.arm_recv(fd),
            Ok(1..) => {
                connection.answered = true;
                self.answer(fd)
            }
            Ok(0) | Err(_) => {
                connection.answered = true;
                self.end(fd)
            }
        }
    }
}

/// Ends the receive of a connection; what follows is done also if it has ended by itself.
fn cancel(fd: i32) -> squeue::Entry {
    let entry = opcode::AsyncCancel::new(RECV | fd as u64).build();
    entry.flags(squeue::Flags::IO_HARDLINK | squeue::Flags::SKIP_SUCCESS)
}

fn close(fd: i32) -> squeue::Entry {
    let entry = opcode::Close::new(Fd(fd)).build();
    let entry = entry.user_data(CLOSE | fd as u64);
    entry.flags(squeue::Flags::SKIP_SUCCESS)
}
