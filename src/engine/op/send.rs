//! Sending: one submission for all that is owed (send(2), sendmsg(2)), and by readiness what the
//! socket does not take at once.
//!
//! No send waits in the kernel (`MSG_DONTWAIT`). io_uring waits for room by poll(2), which reports
//! a peer that has half-closed (`POLLRDHUP`) at once and always, even without room. The kernel then
//! gives the send to one of its own threads, where it blocks until the peer reads. So the ring is
//! asked to send once, which mostly is enough. The rest is sent by plain system calls whenever a
//! poll of ours (`IORING_OP_POLL_ADD`) reports room, as a span of a file is from the start.

use std::fmt;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::Poll;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};

use super::After;
use super::send_file::send_file;
use crate::buf::{Outgoing, Part};
use crate::engine::descriptor::Descriptor;
use crate::engine::uring::{Cqe, Sqe};
use crate::metrics::WorkerMetrics;
use crate::sys::mutants::mutate;

/// One send on a ring; it owns what is sent until the kernel is done.
#[derive(Debug)]
pub(in crate::engine) struct Send {
    part: PartSent,
    /// The gathering form's description of what is sent, while the kernel has it.
    gather: Option<Rc<Gather>>,
    /// Why not everything was sent.
    trouble: Option<io::Error>,
    asked: Asked,
}

/// What a send has last asked of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// To send everything.
    Send,
    /// To report room, once.
    Room,
    /// To report each change. A peer that has half-closed is reported at once whenever the ring is
    /// asked for room, so it is asked only once.
    Changes,
}

/// The events of poll(2) that concern a sender.
const NEWS: u32 = (libc::POLLOUT | libc::POLLERR | libc::POLLHUP).unsigned_abs() as u32;

/// What comes after a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Other sends, at some time or other.
    GoOn,
    /// The close of the socket, as soon as this has ended: so the end of the stream shares the last
    /// packet (`MSG_MORE`), which halves what they cost. If the close should be late, the kernel
    /// does not wait for it longer than 200 ms.
    Close,
}

impl Then {
    /// As a flag of send(2).
    #[inline]
    pub(in crate::engine) fn flag(self) -> libc::c_int {
        match self {
            Self::GoOn => 0,
            Self::Close => libc::MSG_MORE,
        }
    }
}

/// What the owner of a send wants to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Its end.
    End,
    /// Only an end that is not as hoped: mostly nothing waits for a send but the next request.
    Trouble,
}

/// How a send ended.
#[derive(Debug)]
pub enum Sent {
    /// Everything went out.
    All,
    /// It failed or was cancelled.
    Part {
        /// All that was to be sent.
        outgoing: Outgoing,
        /// How many bytes of it went out.
        sent: usize,
        /// Why the others did not: ECANCELED if the send was cancelled. After any other error the
        /// socket must not be sent on again, also where a part went out.
        error: io::Error,
    },
}

/// `struct msghdr` with its vectors, at an address that does not change. Not in a box: moving one
/// asserts that nobody else has a pointer into it.
struct Gather {
    header: libc::msghdr,
    vectors: Vec<libc::iovec>,
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gather({} parts)", self.vectors.len())
    }
}

impl Send {
    #[inline(always)]
    pub(in crate::engine) fn new(socket: Descriptor, outgoing: Outgoing, then: Then) -> Self {
        Self {
            asked: match outgoing {
                // The ring has no operation for it.
                Outgoing::File(..) => Asked::Room,
                _ => Asked::Send,
            },
            part: PartSent::new(socket, outgoing, then),
            gather: None,
            trouble: None,
        }
    }

    /// Asks the ring to send everything. A file is not for the ring to send.
    #[inline]
    pub(in crate::engine) fn first_sqe(&mut self) -> Sqe {
        let (fd, then) = (self.part.socket.raw(), self.part.then);
        match &self.part.outgoing {
            Outgoing::One(chunk) => {
                let len = u32::try_from(chunk.len()).expect("a chunk is smaller than a block");
                Sqe::Send {
                    fd,
                    from: chunk.as_ptr(),
                    len,
                    then,
                }
            }
            Outgoing::Many(parts) => {
                let gather = self.gather.insert(Gather::new(parts));
                Sqe::SendMsg {
                    fd,
                    header: &raw const gather.header,
                    then,
                }
            }
            Outgoing::File(..) => unreachable!("the ring is not asked to send a file"),
        }
    }

    /// Asks the ring to report room.
    pub(in crate::engine) fn sqe(&self) -> Sqe {
        Sqe::PollOut {
            fd: self.part.socket.raw(),
            edges: self.asked == Asked::Changes,
        }
    }

    /// Whether it carries nothing but a block of ours.
    #[inline]
    pub(in crate::engine) fn is_plain(&self) -> bool {
        matches!(self.part.outgoing, Outgoing::One(_))
    }

    pub(in crate::engine) fn set_interest(&mut self, interest: Interest) {
        self.part.interest = interest;
    }

    /// Sends what the socket takes at first, where that is not for the ring to do. `Resubmit`: the
    /// ring is to be asked for room.
    pub(in crate::engine) fn start(&mut self, metrics: &WorkerMetrics) -> After {
        self.go_on(metrics);
        self.after(false)
    }

    /// What the ring was asked for has happened. No more is sent of one that
    /// `is_cancelled`.
    #[inline]
    pub(in crate::engine) fn complete(
        &mut self,
        cqe: &Cqe,
        is_cancelled: bool,
        metrics: &WorkerMetrics,
    ) -> After {
        let len = self.part.outgoing.len();
        let is_all = |sent| mutate!(ShortSendIsWhole, true, sent == len);
        if self.asked == Asked::Send && usize::try_from(cqe.result).is_ok_and(is_all) {
            metrics.bytes_sent.add(len as u64);
            return self.part.interest.at_the_end();
        }
        self.complete_in_part(cqe, is_cancelled, metrics)
    }

    /// The ring has sent less than everything, or reports room.
    #[cold]
    fn complete_in_part(
        &mut self,
        cqe: &Cqe,
        is_cancelled: bool,
        metrics: &WorkerMetrics,
    ) -> After {
        match (cqe.result(), self.asked) {
            // Reports of changes go on until they are cancelled.
            _ if self.is_over() => {}
            (Ok(sent), Asked::Send) => {
                self.part.sent = sent as usize;
                metrics.bytes_sent.add(sent.into());
            }
            (Err(error), Asked::Send) if is_passing(&error) => {}
            (Err(error), _) => self.trouble = Some(error),
            (Ok(_), _) if is_cancelled => {}
            (Ok(events), _) if events & NEWS == 0 => {
                mutate!(AskForRoomAgain, (), self.asked = Asked::Changes);
            }
            (Ok(_), _) => self.go_on(metrics),
        }
        if is_cancelled && !self.is_over() {
            self.trouble = Some(cancelled());
        }
        if self.asked == Asked::Send {
            self.asked = Asked::Room;
        }
        self.after(cqe.more())
    }

    fn go_on(&mut self, metrics: &WorkerMetrics) {
        if let Poll::Ready(Err(error)) = self.part.go_on(metrics) {
            self.trouble = Some(error);
        }
    }

    fn is_over(&self) -> bool {
        self.trouble.is_some() || self.part.is_all()
    }

    /// The next step. `goes_on`: the ring will report again by itself.
    fn after(&self, goes_on: bool) -> After {
        match (self.is_over(), goes_on) {
            (false, false) => After::Resubmit,
            (false, true) => After::Wake,
            (true, true) => After::WakeAndCancel,
            (true, false) if self.trouble.is_some() => After::Wake,
            (true, false) => self.part.interest.at_the_end(),
        }
    }

    /// How it ended. To be called after the last completion.
    pub(in crate::engine) fn into_sent(self) -> Sent {
        let trouble = self.trouble.expect("a send that went well is forgotten");
        self.part.into_sent(trouble)
    }
}

impl Interest {
    /// The next step when everything is sent.
    #[inline]
    fn at_the_end(self) -> After {
        match self {
            Self::End => After::WakeAndForget,
            Self::Trouble => After::Forget,
        }
    }
}

/// Whether an error of send(2) only ends the attempt.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR))
}

/// Why a send goes no further that was cancelled.
pub(in crate::engine) fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

#[cfg(feature = "mutants")]
impl super::Op {
    /// What must not happen while the kernel has the operation.
    pub(in crate::engine) fn free_bytes(&mut self) {
        match self {
            Self::Send(send) => send.part.outgoing = Outgoing::Many(Vec::new()),
            Self::SendMessage(message) => message.free_bytes(),
            _ => {}
        }
    }
}

impl Gather {
    fn new(parts: &[Part]) -> Rc<Self> {
        let vector = |part: &Part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        };
        let mut vectors: Vec<libc::iovec> = parts.iter().map(vector).collect();
        // SAFETY: all fields of `msghdr` are integers or pointers, for which zero is valid.
        let mut header = unsafe { std::mem::zeroed::<libc::msghdr>() };
        header.msg_iov = vectors.as_mut_ptr();
        header.msg_iovlen = vectors.len() as _;
        Rc::new(Self { header, vectors })
    }
}

/// A send by readiness, as far as it has come.
#[derive(Debug)]
pub(in crate::engine) struct PartSent {
    socket: Descriptor,
    outgoing: Outgoing,
    sent: usize,
    pub(in crate::engine) interest: Interest,
    then: Then,
}

impl PartSent {
    #[inline(always)]
    pub(in crate::engine) fn new(socket: Descriptor, outgoing: Outgoing, then: Then) -> Self {
        Self {
            socket,
            outgoing,
            sent: 0,
            interest: Interest::End,
            then,
        }
    }

    /// Sends as much as the socket takes. Ready when everything is sent.
    ///
    /// # Errors
    /// Those of send(2) and sendfile(2); `UnexpectedEof` where a file has become shorter.
    pub(in crate::engine) fn go_on(&mut self, metrics: &WorkerMetrics) -> Poll<io::Result<()>> {
        while self.sent < self.outgoing.len() {
            match self.try_once() {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(sent) => {
                    self.sent += sent;
                    metrics.bytes_sent.add(sent as u64);
                }
                Err(Errno::AGAIN) => return Poll::Pending,
                Err(Errno::INTR) => {}
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(in crate::engine) fn is_all(&self) -> bool {
        self.sent == self.outgoing.len()
    }

    /// How it ended, with `error` before everything was sent.
    pub(in crate::engine) fn into_sent(self, error: io::Error) -> Sent {
        let Self { outgoing, sent, .. } = self;
        #[cfg(feature = "mutants")]
        let error = mutate!(
            ForgetSendError,
            if sent > 0 { cancelled() } else { error },
            error
        );
        Sent::Part {
            outgoing,
            sent,
            error,
        }
    }

    fn try_once(&self) -> Result<usize, Errno> {
        #[cfg(feature = "sim")]
        if let Some(result) = crate::sim::send(&self.socket, &self.outgoing, self.sent) {
            return result;
        }
        let then = SendFlags::from_bits_retain(self.then.flag().unsigned_abs());
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL | then;
        match &self.outgoing {
            Outgoing::One(chunk) => rustix::net::send(&self.socket, &chunk[self.sent..], flags),
            Outgoing::Many(parts) => {
                let mut slices: Vec<IoSlice<'_>> =
                    parts.iter().map(|part| IoSlice::new(part)).collect();
                let mut rest = &mut slices[..];
                IoSlice::advance_slices(&mut rest, self.sent);
                let mut control = SendAncillaryBuffer::default();
                rustix::net::sendmsg(&self.socket, rest, &mut control, flags)
            }
            Outgoing::File(file) => match &file.head {
                // The span follows in the same segment.
                Some(head) if self.sent < head.len() => {
                    rustix::net::send(&self.socket, &head[self.sent..], flags | SendFlags::MORE)
                }
                _ => send_file(&self.socket, &file.span, self.sent - file.head_len()),
            },
        }
    }
}
