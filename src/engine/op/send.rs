//! Sending: one submission for all that is owed (send(2), sendmsg(2)).

use std::fmt;
use std::io;

use super::super::descriptor::Descriptor;
use super::super::uring::{Cqe, Sqe};
use super::{Progress, progress};
use crate::buf::{Outgoing, Part};

/// One send; it owns what is sent until the kernel is done.
#[derive(Debug)]
pub(in crate::engine) struct Send {
    socket: Descriptor,
    outgoing: Outgoing,
    /// The gathering form's description of `outgoing`, while several parts go out at once.
    gather: Option<Box<Gather>>,
    /// How it ended: bytes sent, of all that was to be sent.
    pub(in crate::engine) done: Option<io::Result<usize>>,
}

/// `struct msghdr` with its vectors, at an address that does not change.
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
    pub(in crate::engine) fn new(socket: Descriptor, outgoing: Outgoing) -> Self {
        Self {
            socket,
            outgoing,
            gather: None,
            done: None,
        }
    }

    /// The kernel goes on until everything is sent (`MSG_WAITALL`): a slow peer costs one
    /// completion, not one per window. What it reports may still be less, after a reset or a
    /// cancellation.
    #[inline]
    pub(in crate::engine) fn sqe(&mut self) -> Sqe {
        let fd = self.socket.raw();
        match &self.outgoing {
            Outgoing::One(chunk) => {
                let len = u32::try_from(chunk.len()).expect("a chunk is smaller than a block");
                Sqe::Send {
                    fd,
                    from: chunk.as_ptr(),
                    len,
                }
            }
            Outgoing::Many(parts) => {
                let gather = self.gather.insert(Gather::new(parts));
                Sqe::SendMsg {
                    fd,
                    header: &raw const gather.header,
                }
            }
        }
    }

    pub(in crate::engine) fn complete(&mut self, cqe: &Cqe) -> Progress {
        self.done = Some(cqe.result().map(|sent| sent as usize));
        progress(cqe)
    }

    /// What was sent, and how it ended. To be called after the completion.
    pub(in crate::engine) fn into_result(self) -> (Outgoing, io::Result<usize>) {
        (
            self.outgoing,
            self.done.expect("the kernel has reported on this send"),
        )
    }
}

impl Gather {
    fn new(parts: &[Part]) -> Box<Self> {
        let vector = |part: &Part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        };
        // SAFETY: all fields of `msghdr` are integers or pointers, for which zero is valid.
        let header = unsafe { std::mem::zeroed::<libc::msghdr>() };
        let mut gather = Box::new(Self {
            header,
            vectors: parts.iter().map(vector).collect(),
        });
        gather.header.msg_iov = gather.vectors.as_mut_ptr();
        gather.header.msg_iovlen = gather.vectors.len() as _;
        gather
    }
}
