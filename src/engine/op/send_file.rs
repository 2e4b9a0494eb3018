//! Sending a span of a file without reading it (sendfile(2)).
//!
//! io_uring has no such operation, and its splice always goes to a thread of the kernel's. So the
//! call is made here, at once and with the same form on either engine, until the socket takes no
//! more; the ring only says when it takes something again (poll(2) by `IORING_OP_POLL_ADD`). Asking
//! before would wait for a third of the socket's buffer to be free where a span has room already.
//! What has to come from the disk would block the call: whoever queues a span has made sure that it
//! is in memory.

use std::io;
use std::task::Poll;

use rustix::fs::sendfile;
use rustix::io::Errno;

use super::After;
use super::send::{Interest, PartSent, Sent, Then};
use crate::buf::{FileSpan, Outgoing};
use crate::engine::descriptor::Descriptor;
use crate::engine::uring::{Cqe, Sqe};
use crate::metrics::WorkerMetrics;

/// One send of a span and what comes before it, on a ring.
#[derive(Debug)]
pub(in crate::engine) struct SendFile {
    socket: Descriptor,
    part: PartSent,
    trouble: Option<io::Error>,
}

impl SendFile {
    pub(in crate::engine) fn new(socket: Descriptor, outgoing: Outgoing) -> Self {
        Self {
            part: PartSent::new(socket.clone(), outgoing, Then::GoOn),
            socket,
            trouble: None,
        }
    }

    pub(in crate::engine) fn set_interest(&mut self, interest: Interest) {
        self.part.interest = interest;
    }

    pub(in crate::engine) fn sqe(&self) -> Sqe {
        Sqe::PollOut {
            fd: self.socket.raw(),
        }
    }

    /// Sends what the socket takes. `Resubmit`: it is to be asked when it takes more.
    pub(in crate::engine) fn go_on(&mut self, metrics: &WorkerMetrics) -> After {
        match self.part.go_on(metrics) {
            Poll::Pending => After::Resubmit,
            Poll::Ready(Ok(())) if self.part.interest == Interest::Trouble => After::Forget,
            Poll::Ready(Ok(())) => After::WakeAndForget,
            Poll::Ready(Err(error)) => self.fail(error),
        }
    }

    /// The socket takes something, or it was asked in vain. One that is `cancelled` goes no
    /// further.
    pub(in crate::engine) fn complete(
        &mut self,
        cqe: &Cqe,
        cancelled: bool,
        metrics: &WorkerMetrics,
    ) -> After {
        match cqe.result() {
            Err(error) => self.fail(error),
            Ok(_) if cancelled => self.fail(io::Error::from_raw_os_error(libc::ECANCELED)),
            Ok(_) => self.go_on(metrics),
        }
    }

    fn fail(&mut self, error: io::Error) -> After {
        self.trouble = Some(error);
        After::Wake
    }

    /// How it ended. To be called after the last completion.
    pub(in crate::engine) fn into_sent(self) -> Sent {
        let trouble = self.trouble.expect("a send that went well is forgotten");
        self.part.into_sent(trouble)
    }
}

/// Sends what the socket takes of `span` but its first `sent` bytes; 0 at the end of the file.
///
/// Only `O_NONBLOCK` keeps sendfile(2) from waiting for room. It stays set: the ring's sends and
/// receives wait by poll(2) all the same, for they ask the socket, not the file.
pub(super) fn send_file(socket: &Descriptor, span: &FileSpan, sent: usize) -> Result<usize, Errno> {
    let mut offset = span.offset() + sent as u64;
    socket.set_nonblocking()?;
    sendfile(socket, span, Some(&mut offset), span.len() - sent)
}
