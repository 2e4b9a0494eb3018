//! Sending: one submission for all that is owed (send(2), sendmsg(2)).

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

/// One send; it owns what is sent until the kernel is done.
#[derive(Debug)]
pub(in crate::engine) struct Send {
    socket: Descriptor,
    outgoing: Outgoing,
    /// The gathering form's description of `outgoing`, while several parts go out at once.
    gather: Option<Rc<Gather>>,
    /// How it ended, if not with everything sent.
    trouble: Option<io::Result<u32>>,
    pub(in crate::engine) interest: Interest,
    then: Then,
}

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
    /// So many bytes went out, or none and this is why; and here is what was to be sent.
    Part(Outgoing, io::Result<u32>),
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
            socket,
            outgoing,
            gather: None,
            trouble: None,
            interest: Interest::End,
            then,
        }
    }

    /// The kernel goes on until everything is sent (`MSG_WAITALL`): a slow peer costs one
    /// completion, not one per window. What it reports may still be less, after a reset or a
    /// cancellation.
    #[inline]
    pub(in crate::engine) fn sqe(&mut self) -> Sqe {
        let (fd, then) = (self.socket.raw(), self.then);
        match &self.outgoing {
            Outgoing::One(chunk) => {
                let len = u32::try_from(chunk.len()).expect("a chunk is smaller than a block");
                Sqe::Send {
                    fd,
                    from: chunk.as_ptr(),
                    len,
                    then,
                }
            }
            Outgoing::File(..) => unreachable!("a file goes out by another operation"),
            Outgoing::Many(parts) => {
                let gather = self.gather.insert(Gather::new(parts));
                Sqe::SendMsg {
                    fd,
                    header: &raw const gather.header,
                    then,
                }
            }
        }
    }

    /// Whether it carries nothing but a block of ours.
    #[inline]
    pub(in crate::engine) fn is_plain(&self) -> bool {
        matches!(self.outgoing, Outgoing::One(_))
    }

    pub(in crate::engine) fn complete(&mut self, cqe: &Cqe) -> After {
        let result = cqe.result();
        let is_all = mutate!(
            ShortSendIsWhole,
            result.is_ok(),
            matches!(result, Ok(sent) if sent as usize == self.outgoing.len())
        );
        match self.interest {
            Interest::End if is_all => After::WakeAndForget,
            Interest::Trouble if is_all => After::Forget,
            _ => {
                self.trouble = Some(result);
                After::Wake
            }
        }
    }

    /// How it ended. To be called after the completion.
    pub(in crate::engine) fn into_sent(self) -> Sent {
        let trouble = self.trouble.expect("a send that went well is forgotten");
        Sent::Part(self.outgoing, trouble)
    }
}

#[cfg(feature = "mutants")]
impl super::Op {
    /// What must not happen while the kernel has the operation.
    pub(in crate::engine) fn free_bytes(&mut self) {
        if let Self::Send(send) = self {
            send.outgoing = Outgoing::Many(Vec::new());
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

    /// How it ended, when it was not with everything sent: with `error`, or cancelled.
    pub(in crate::engine) fn into_sent(self, error: io::Error) -> Sent {
        let sent = u32::try_from(self.sent).expect("a send has its bound");
        Sent::Part(self.outgoing, if sent == 0 { Err(error) } else { Ok(sent) })
    }

    fn try_once(&self) -> Result<usize, Errno> {
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
