//! The floor: the cheapest HTTP server over io_uring. One thread, one ring, no limits, no
//! timeouts, no `Date`; it refuses to know what is asked for and gives one constant answer, all
//! that one receive asks for in one send.

mod buf_ring;
mod shared;

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;

use io_uring::types::Fd;
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue};

use buf_ring::BufRing;
use shared::{Answers, Arguments, REQUESTS_PER_RECV_MAX, count_requests};

const SQ_ENTRIES: u32 = 512;
const CQ_ENTRIES: u32 = 8192;

// The operation a completion belongs to, in the upper half of `user_data`; the file descriptor is
// the lower half. A descriptor is closed after its last completion, so none is ever stale.
const ACCEPT: u64 = 0;
const RECV: u64 = 1 << 32;
const SEND: u64 = 2 << 32;
const FD_MASK: u64 = (1 << 32) - 1;

/// One connection, found by its file descriptor.
#[derive(Default)]
struct Connection {
    /// The bytes of an unfinished request.
    tail: Vec<u8>,
    /// Requests to answer when the send under way is complete.
    waiting: usize,
    sending: bool,
    /// The multishot receive is over and will not be armed again.
    ended: bool,
}

struct Floor<'ring> {
    submitter: Submitter<'ring>,
    sq: SubmissionQueue<'ring>,
    cq: CompletionQueue<'ring>,
    buf_ring: BufRing,
    listener: TcpListener,
    answers: Answers,
    connections: Vec<Connection>,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::from_env()?;
    let mut ring = build_ring()?;
    // One submitter for good: it alone remembers that the ring's descriptor is registered.
    let (mut submitter, sq, cq) = ring.split();
    let buf_ring = BufRing::register(&submitter)?;
    submitter.register_ring_fd()?;
    let answers = arguments.answers();
    let listener = arguments.listen()?;
    let connections = Vec::new();
    Floor {
        submitter,
        sq,
        cq,
        buf_ring,
        listener,
        answers,
        connections,
    }
    .run()
}

/// The cheapest kind of ring the kernel has: without the index array if it can (Linux 6.6).
fn build_ring() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(CQ_ENTRIES);
    let with_sqarray = builder.clone();
    match builder.setup_no_sqarray().build(SQ_ENTRIES) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => with_sqarray.build(SQ_ENTRIES),
        ring => ring,
    }
}

impl Floor<'_> {
    fn run(&mut self) -> io::Result<()> {
        self.arm_accept()?;
        loop {
            self.enter(1)?;
            self.cq.sync();
            while let Some(cqe) = self.cq.next() {
                let fd = (cqe.user_data() & FD_MASK) as i32;
                match cqe.user_data() & !FD_MASK {
                    RECV => self.on_recv(fd, &cqe)?,
                    SEND => self.on_send(fd, &cqe)?,
                    _ => self.on_accept(&cqe)?,
                }
            }
            self.cq.sync();
        }
    }

    /// Gives back what was received into, submits what is queued and waits for `want` completions.
    fn enter(&mut self, want: usize) -> io::Result<()> {
        self.buf_ring.publish();
        self.sq.sync();
        match self.submitter.submit_and_wait(want) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            entered => entered.map(drop),
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: an entry points to no memory but answers, which live as long as the process.
        while unsafe { self.sq.push(entry) }.is_err() {
            self.enter(0)?;
            self.sq.sync();
        }
        Ok(())
    }

    fn arm_accept(&mut self) -> io::Result<()> {
        let fd = Fd(self.listener.as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd)
            .flags(libc::SOCK_CLOEXEC)
            .build();
        self.push(&entry.user_data(ACCEPT))
    }

    fn arm_recv(&mut self, fd: i32) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(Fd(fd), BufRing::GROUP).build();
        self.push(&entry.user_data(RECV | fd as u64))
    }

    fn send(&mut self, fd: i32, requests: usize) -> io::Result<()> {
        let bytes = self.answers.to(requests);
        let send = opcode::Send::new(Fd(fd), bytes.as_ptr(), bytes.len() as u32);
        let entry = send.flags(libc::MSG_WAITALL).build();
        self.push(&entry.user_data(SEND | fd as u64))
    }

    fn on_accept(&mut self, cqe: &cqueue::Entry) -> io::Result<()> {
        if !cqueue::more(cqe.flags()) {
            self.arm_accept()?;
        }
        if cqe.result() == -libc::ECONNABORTED {
            return Ok(());
        }
        let Ok(index) = usize::try_from(cqe.result()) else {
            return Err(io::Error::from_raw_os_error(-cqe.result()));
        };
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, Connection::default);
        }
        self.arm_recv(cqe.result())
    }

    fn on_recv(&mut self, fd: i32, cqe: &cqueue::Entry) -> io::Result<()> {
        let connection = &mut self.connections[fd as usize];
        if let Some(id) = cqueue::buffer_select(cqe.flags()) {
            let len = usize::try_from(cqe.result()).unwrap_or(0);
            let received = self.buf_ring.received(id, len);
            let requests = count_requests(&mut connection.tail, received);
            self.buf_ring.give_back(id);
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
        // Ended for want of a buffer or of room for completions. This turn's buffers are back in
        // the kernel's hands before the new receive is submitted.
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
            // A reset that comes along with data can leave a multishot receive asleep for good.
            shut(fd);
        }
        self.close_if_idle(fd);
        Ok(())
    }

    fn close_if_idle(&mut self, fd: i32) {
        let connection = &mut self.connections[fd as usize];
        if connection.ended && !connection.sending {
            *connection = Connection::default();
            // SAFETY: the connection is ours, without operations in flight, and now forgotten.
            unsafe { libc::close(fd) };
        }
    }
}

/// Ends both directions and wakes the receive in flight, which ends as at the peer's own end.
fn shut(fd: i32) {
    // SAFETY: no memory is passed; a socket the peer has reset already is no matter.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}
