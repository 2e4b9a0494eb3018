//! Sending: one submission for all queued bytes (send(2), sendmsg(2)). The bytes that the socket
//! does not accept at once are sent when the socket has room.
//!
//! No send waits in the kernel (`MSG_DONTWAIT`). io_uring would wait for room by poll(2), but that
//! reports a half-closed peer (`POLLRDHUP`) at once and always, even without room. The kernel would
//! then move the send to one of its own threads (io-wq), where it blocks until the peer reads. So
//! the ring is asked to send only once, which is usually enough. The rest is sent by system calls
//! whenever a poll of ours (`IORING_OP_POLL_ADD`) reports room. A file span is sent in this way
//! from the start.

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

/// One send on a ring. It owns the bytes until the kernel has finished with them.
#[derive(Debug)]
pub(in crate::engine) struct Send {
    partial: PartialSend,
    /// The `msghdr` of a gathering send, while the kernel uses it.
    gather: Option<Rc<Gather>>,
    /// The error that stopped the send before everything was sent.
    error: Option<io::Error>,
    submission: Submission,
}

/// The last submission of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Submission {
    /// A send of everything.
    Send,
    /// A poll that completes once, when the socket has room.
    PollOnce,
    /// A poll that completes at each change. A single-shot poll on a half-closed peer completes at
    /// once even without room, so a second one would do so over and over.
    PollChanges,
}

/// The events of poll(2) after which a send continues or fails.
const SENDER_EVENTS: u32 = (libc::POLLOUT | libc::POLLERR | libc::POLLHUP).unsigned_abs() as u32;

/// What follows a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Perhaps other sends.
    KeepOpen,
    /// The close of the socket, as soon as this send has ended. With `MSG_MORE` the FIN leaves in
    /// the last packet of the data instead of a packet of its own. If the close is delayed, the
    /// kernel sends the data after at most 200 ms.
    Close,
}

impl Then {
    /// The flag of send(2) that announces this.
    #[inline]
    pub(in crate::engine) fn flag(self) -> libc::c_int {
        match self {
            Self::KeepOpen => 0,
            Self::Close => libc::MSG_MORE,
        }
    }
}

/// Which ends of a send wake its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Every end.
    End,
    /// Only an error or a cancellation. Usually the owner waits for the next request, not for the
    /// send.
    Failure,
}

/// How a send ended.
#[derive(Debug)]
pub enum Sent {
    /// Everything was sent.
    All,
    /// It failed or was cancelled.
    Part {
        /// Everything that was to be sent.
        outgoing: Outgoing,
        /// How many of its bytes were sent.
        sent: usize,
        /// Why it ended: ECANCELED if it was cancelled. After any other error nothing more may be
        /// sent on the socket, even if a part of the bytes was sent.
        error: io::Error,
    },
}

/// `struct msghdr` with its `iovec`s, at an address that does not change. `Rc`, not `Box`: moving a
/// `Box` asserts that there is no other pointer to its content.
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
            submission: match outgoing {
                // io_uring has no operation that sends a file.
                Outgoing::File(..) => Submission::PollOnce,
                _ => Submission::Send,
            },
            partial: PartialSend::new(socket, outgoing, then),
            gather: None,
            error: None,
        }
    }

    /// The submission that sends everything. Not for a file span.
    #[inline]
    pub(in crate::engine) fn first_sqe(&mut self) -> Sqe {
        let (fd, then) = (self.partial.socket.raw(), self.partial.then);
        match &self.partial.outgoing {
            Outgoing::One(chunk) => {
                let len = u32::try_from(chunk.len()).expect("a chunk is no larger than a block");
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
            Outgoing::File(..) => unreachable!("the ring cannot send a file"),
        }
    }

    /// The submission that polls for room.
    pub(in crate::engine) fn sqe(&self) -> Sqe {
        Sqe::PollOut {
            fd: self.partial.socket.raw(),
            edges: self.submission == Submission::PollChanges,
        }
    }

    /// Whether it owns nothing but one of our blocks.
    #[inline]
    pub(in crate::engine) fn is_plain(&self) -> bool {
        matches!(self.partial.outgoing, Outgoing::One(_))
    }

    pub(in crate::engine) fn set_interest(&mut self, interest: Interest) {
        self.partial.interest = interest;
    }

    /// Begins a send that the ring cannot do: sends what the socket accepts now. `Resubmit` means
    /// that a poll for room must be submitted.
    pub(in crate::engine) fn start(&mut self, metrics: &WorkerMetrics) -> After {
        self.send_more(metrics);
        self.after(false)
    }

    /// Handles a completion. If `is_cancelled`, nothing more is sent.
    #[inline]
    pub(in crate::engine) fn complete(
        &mut self,
        cqe: &Cqe,
        is_cancelled: bool,
        metrics: &WorkerMetrics,
    ) -> After {
        let len = self.partial.outgoing.len();
        let is_complete = |sent| mutate!(ShortSendIsWhole, true, sent == len);
        if self.submission == Submission::Send && usize::try_from(cqe.result).is_ok_and(is_complete)
        {
            metrics.bytes_sent.add(len as u64);
            return self.partial.interest.step_when_sent();
        }
        self.complete_in_part(cqe, is_cancelled, metrics)
    }

    /// Handles a short send, an error, or a poll that reports room.
    #[cold]
    fn complete_in_part(
        &mut self,
        cqe: &Cqe,
        is_cancelled: bool,
        metrics: &WorkerMetrics,
    ) -> After {
        match (cqe.result(), self.submission) {
            // A multishot poll may complete until its cancellation takes effect.
            _ if self.has_ended() => {}
            (Ok(sent), Submission::Send) => {
                self.partial.sent = sent as usize;
                metrics.bytes_sent.add(sent.into());
            }
            (Err(error), Submission::Send) if is_transient(&error) => {}
            (Err(error), _) => self.error = Some(error),
            (Ok(_), _) if is_cancelled => {}
            (Ok(events), _) if events & SENDER_EVENTS == 0 => {
                mutate!(
                    AskForRoomAgain,
                    (),
                    self.submission = Submission::PollChanges
                );
            }
            (Ok(_), _) => self.send_more(metrics),
        }
        if is_cancelled && !self.has_ended() {
            self.error = Some(cancelled());
        }
        if self.submission == Submission::Send {
            self.submission = Submission::PollOnce;
        }
        self.after(cqe.more())
    }

    fn send_more(&mut self, metrics: &WorkerMetrics) {
        if let Poll::Ready(Err(error)) = self.partial.send_more(metrics) {
            self.error = Some(error);
        }
    }

    fn has_ended(&self) -> bool {
        self.error.is_some() || self.partial.is_complete()
    }

    /// The next step. `more`: the submission will complete again.
    fn after(&self, more: bool) -> After {
        match (self.has_ended(), more) {
            (false, false) => After::Resubmit,
            (false, true) => After::Wake,
            (true, true) => After::WakeAndCancel,
            (true, false) if self.error.is_some() => After::Wake,
            (true, false) => self.partial.interest.step_when_sent(),
        }
    }

    /// The outcome of a send that failed or was cancelled. Call it after the last completion.
    pub(in crate::engine) fn into_sent(self) -> Sent {
        let error = self
            .error
            .expect("a successful send is removed from the table");
        self.partial.into_sent(error)
    }
}

impl Interest {
    /// The next step when everything is sent.
    #[inline]
    fn step_when_sent(self) -> After {
        match self {
            Self::End => After::WakeAndForget,
            Self::Failure => After::Forget,
        }
    }
}

/// Whether an error of send(2) is transient, so that another attempt may succeed.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR))
}

/// The error of a cancelled send.
pub(in crate::engine) fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

#[cfg(feature = "mutants")]
impl super::Op {
    /// A planted fault: frees the bytes while the kernel uses them.
    pub(in crate::engine) fn free_bytes(&mut self) {
        match self {
            Self::Send(send) => send.partial.outgoing = Outgoing::Many(Vec::new()),
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

/// A send by system calls, and how much of it was sent.
#[derive(Debug)]
pub(in crate::engine) struct PartialSend {
    socket: Descriptor,
    outgoing: Outgoing,
    sent: usize,
    pub(in crate::engine) interest: Interest,
    then: Then,
}

impl PartialSend {
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

    /// Sends what the socket accepts now. Ready when everything is sent.
    ///
    /// # Errors
    /// Those of send(2) and sendfile(2); `UnexpectedEof` if the file has become too short.
    pub(in crate::engine) fn send_more(&mut self, metrics: &WorkerMetrics) -> Poll<io::Result<()>> {
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

    pub(in crate::engine) fn is_complete(&self) -> bool {
        self.sent == self.outgoing.len()
    }

    /// The outcome of a send that `error` stopped.
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
                // With `MSG_MORE` the span follows in the same segment.
                Some(head) if self.sent < head.len() => {
                    rustix::net::send(&self.socket, &head[self.sent..], flags | SendFlags::MORE)
                }
                _ => send_file(&self.socket, &file.span, self.sent - file.head_len()),
            },
        }
    }
}
