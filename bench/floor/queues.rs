//! The ring that both io_uring floors use: how it is built, entered and filled, and its multishot
//! accept. Connections are handled elsewhere.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;

use io_uring::types::Fd;
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue};

use crate::buf_ring::BufRing;

const SQ_ENTRIES: u32 = 512;
const CQ_ENTRIES: u32 = 8192;

// The upper half of `user_data` names the operation that a completion belongs to. The lower half
// is the file descriptor. 0 marks completions that are ignored.
pub(crate) const ACCEPT: u64 = 1 << 32;
pub(crate) const RECV: u64 = 2 << 32;
pub(crate) const SEND: u64 = 3 << 32;
pub(crate) const CLOSE: u64 = 4 << 32;
const FD_MASK: u64 = (1 << 32) - 1;

/// The operation and the file descriptor of a completion.
pub(crate) fn operation(cqe: &cqueue::Entry) -> (u64, i32) {
    let fd = (cqe.user_data() & FD_MASK) as i32;
    (cqe.user_data() & !FD_MASK, fd)
}

/// Submission and completion queue, the receive buffers, and the listener.
pub(crate) struct Queues<'ring> {
    submitter: Submitter<'ring>,
    sq: SubmissionQueue<'ring>,
    pub(crate) cq: CompletionQueue<'ring>,
    pub(crate) buf_ring: BufRing,
    listener: TcpListener,
}

/// Builds the cheapest ring that the kernel offers. `IORING_SETUP_NO_SQARRAY` needs Linux 6.6; an
/// older kernel rejects it with `EINVAL`.
pub(crate) fn build_ring() -> io::Result<IoUring> {
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

impl<'ring> Queues<'ring> {
    /// Lends buffers to the kernel and arms the accept.
    pub(crate) fn new(ring: &'ring mut IoUring, listener: TcpListener) -> io::Result<Self> {
        // Keep this submitter: another would not know that the ring's descriptor is registered.
        let (mut submitter, sq, cq) = ring.split();
        let buf_ring = BufRing::register(&submitter)?;
        submitter.register_ring_fd()?;
        let mut queues = Self {
            submitter,
            sq,
            cq,
            buf_ring,
            listener,
        };
        queues.arm_accept()?;
        Ok(queues)
    }

    /// Publishes the buffers that were given back, submits the queued entries, and waits for `want`
    /// completions.
    pub(crate) fn enter(&mut self, want: usize) -> io::Result<()> {
        self.buf_ring.publish();
        self.sq.sync();
        match self.submitter.submit_and_wait(want) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            entered => entered.map(drop),
        }
    }

    /// Queues all `entries` together, so that no submission splits a chain.
    pub(crate) fn push(&mut self, entries: &[squeue::Entry]) -> io::Result<()> {
        // SAFETY: the only memory that entries point to is the responses, which are never freed.
        while unsafe { self.sq.push_multiple(entries) }.is_err() {
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
        self.push(&[entry.user_data(ACCEPT)])
    }

    /// The file descriptor that a completion of the accept delivers. `None` if the peer aborted the
    /// connection. Re-arms the accept when it has ended.
    pub(crate) fn accepted(&mut self, cqe: &cqueue::Entry) -> io::Result<Option<i32>> {
        if !cqueue::more(cqe.flags()) {
            self.arm_accept()?;
        }
        match cqe.result() {
            fd if fd >= 0 => Ok(Some(fd)),
            error if error == -libc::ECONNABORTED => Ok(None),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}
