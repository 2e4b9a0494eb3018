//! The io_uring floor: the cheapest HTTP server over io_uring. One thread, one ring, no limits, no
//! timeouts, no `Date`. Every request gets the same constant response, whatever it asks for. All
//! requests that one receive completes are answered by one send.

mod buf_ring;
mod queues;
mod ring_closing;
mod shared;

use std::io;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode};

use buf_ring::BufRing;
use queues::{ACCEPT, Queues, RECV, SEND, build_ring, operation};
use ring_closing::Receive;
use shared::{Arguments, REQUESTS_PER_RECV_MAX, Responses, count_requests};

/// One connection. Its index is its file descriptor.
#[derive(Default)]
struct Connection {
    /// The bytes of an unfinished request.
    tail: Vec<u8>,
    /// The number of requests to answer when the current send completes.
    waiting: usize,
    sending: bool,
    /// The multishot receive has ended and will not be re-armed.
    ended: bool,
}

struct Floor<'ring> {
    queues: Queues<'ring>,
    responses: Responses,
    connections: Vec<Connection>,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::from_env(&["multishot", "oneshot"])?;
    let mut ring = build_ring()?;
    let queues = Queues::new(&mut ring, arguments.listen()?)?;
    let responses = arguments.responses()?;
    match arguments.close.as_deref() {
        Some("multishot") => return ring_closing::run(queues, responses, Receive::Multishot),
        Some(_) => return ring_closing::run(queues, responses, Receive::Oneshot),
        None => {}
    }
    let connections = Vec::new();
    Floor {
        queues,
        responses,
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
                    (SEND, fd) => self.on_send(fd, &cqe)?,
                    _ => {}
                }
            }
            self.queues.cq.sync();
        }
    }

    fn arm_recv(&mut self, fd: i32) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(Fd(fd), BufRing::GROUP).build();
        self.queues.push(&[entry.user_data(RECV | fd as u64)])
    }

    fn send(&mut self, fd: i32, requests: usize) -> io::Result<()> {
        let bytes = self.responses.to(requests);
        let send = opcode::Send::new(Fd(fd), bytes.as_ptr(), bytes.len() as u32);
        let entry = send.flags(libc::MSG_WAITALL).build();
        self.queues.push(&[entry.user_data(SEND | fd as u64)])
    }

    fn on_accept(&mut self, cqe: &cqueue::Entry) -> io::Result<()> {
        let Some(fd) = self.queues.accepted(cqe)? else {
            return Ok(());
        };
        let index = fd as usize;
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, Connection::default);
        }
        self.arm_recv(fd)
    }

    fn on_recv(&mut self, fd: i32, cqe: &cqueue::Entry) -> io::Result<()> {
        let connection = &mut self.connections[fd as usize];
        if let Some(id) = cqueue::buffer_select(cqe.flags()) {
            let len = usize::try_from(cqe.result()).unwrap_or(0);
            let received = self.queues.buf_ring.received(id, len);
            let requests = count_requests(&mut connection.tail, received);
            self.queues.buf_ring.give_back(id);
            match requests {
                Ok(0) => {}
                Ok(requests) if connection.sending => connection.waiting += requests,
                Ok(requests) => {
                    connection.sending = true;
                    self.send(fd, requests)?;
                }
                Err(_) => shut(fd),
            }
        }
        if cqueue::more(cqe.flags()) {
            return Ok(());
        }
        // The receive ended because the kernel had no free buffer or no room for a completion.
        // Re-arm it: `enter` publishes the buffers given back here before it submits the receive.
        if cqe.result() > 0 || cqe.result() == -libc::ENOBUFS {
            return self.arm_recv(fd);
        }
        self.connections[fd as usize].ended = true;
        self.close_if_idle(fd);
        Ok(())
    }

    fn on_send(&mut self, fd: i32, cqe: &cqueue::Entry) -> io::Result<()> {
        let connection = &mut self.connections[fd as usize];
        let requests = connection.waiting.min(REQUESTS_PER_RECV_MAX);
        connection.waiting -= requests;
        connection.sending = requests > 0 && cqe.result() > 0;
        if connection.sending {
            return self.send(fd, requests);
        }
        if cqe.result() < 0 && !connection.ended {
            // If a reset arrives together with data, a multishot receive may never complete. The
            // shutdown wakes it.
            shut(fd);
        }
        self.close_if_idle(fd);
        Ok(())
    }

    fn close_if_idle(&mut self, fd: i32) {
        let connection = &mut self.connections[fd as usize];
        if connection.ended && !connection.sending {
            *connection = Connection::default();
            // SAFETY: we own `fd`, no operation on it is in flight, and its state has been reset.
            unsafe { libc::close(fd) };
        }
    }
}

/// Shuts down both directions. The receive in flight completes as if the peer had closed.
fn shut(fd: i32) {
    // SAFETY: no memory is passed. The error for a socket that is already reset is ignored.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}
