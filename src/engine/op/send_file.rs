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

use rustix::buffer::spare_capacity;
use rustix::fs::sendfile;
use rustix::io::{Errno, pread};
use rustix::net::{SendFlags, send};

use super::After;
use super::send::{Interest, PartSent, Sent, Then};
use crate::buf::{FileSpan, Outgoing};
use crate::engine::descriptor::Descriptor;
use crate::engine::uring::{Cqe, Sqe};
use crate::metrics::WorkerMetrics;

/// Bytes that are read at a time where the file itself cannot be sent.
const READ_BYTES_MAX: usize = 64 << 10;

/// One send of a span and what comes before it, on a ring.
#[derive(Debug)]
pub(in crate::engine) struct SendFile {
    socket: Descriptor,
    part: PartSent,
    trouble: Option<io::Error>,
    /// The peer sends no more, which the ring's poll tells at once whenever it is asked: so it is
    /// asked once, for changes, until all is sent.
    by_edge: bool,
}

/// What concerns a sender, of what a poll tells (poll(2)).
const NEWS: u32 = (libc::POLLOUT | libc::POLLERR | libc::POLLHUP).unsigned_abs() as u32;

impl SendFile {
    pub(in crate::engine) fn new(socket: Descriptor, outgoing: Outgoing) -> Self {
        Self {
            part: PartSent::new(socket.clone(), outgoing, Then::GoOn),
            socket,
            trouble: None,
            by_edge: false,
        }
    }

    pub(in crate::engine) fn set_interest(&mut self, interest: Interest) {
        self.part.interest = interest;
    }

    pub(in crate::engine) fn sqe(&self) -> Sqe {
        Sqe::PollOut {
            fd: self.socket.raw(),
            edges: self.by_edge,
        }
    }

    /// Sends what the socket takes at first. `Resubmit`: it is to be asked when it takes more.
    pub(in crate::engine) fn start(&mut self, metrics: &WorkerMetrics) -> After {
        self.go_on(metrics);
        self.after(false)
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
            _ if self.is_over() => {}
            Err(error) => self.trouble = Some(error),
            Ok(_) if cancelled => {
                self.trouble = Some(io::Error::from_raw_os_error(libc::ECANCELED));
            }
            Ok(events) if events & NEWS == 0 => self.by_edge = true,
            Ok(_) => self.go_on(metrics),
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

    /// What is to be done when the socket goes on telling, or does not.
    fn after(&self, goes_on: bool) -> After {
        match (self.is_over(), goes_on) {
            (false, false) => After::Resubmit,
            (false, true) => After::Wake,
            (true, true) => After::WakeAndCancel,
            (true, false) if self.trouble.is_some() => After::Wake,
            (true, false) if self.part.interest == Interest::Trouble => After::Forget,
            (true, false) => After::WakeAndForget,
        }
    }

    /// How it ended. To be called after the last completion.
    pub(in crate::engine) fn into_sent(self) -> Sent {
        let trouble = self.trouble.expect("a send that went well is forgotten");
        self.part.into_sent(trouble)
    }
}

/// Sends what the socket takes of `span` but its first `sent` bytes; 0 at the end of the file.
///
/// Only `O_NONBLOCK` keeps sendfile(2) from waiting for room. It stays set until something else is
/// sent: mostly the next answer is a file, too.
pub(super) fn send_file(socket: &Descriptor, span: &FileSpan, sent: usize) -> Result<usize, Errno> {
    let mut offset = span.offset() + sent as u64;
    socket.set_nonblocking(true)?;
    match sendfile(socket, span, Some(&mut offset), span.len() - sent) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => read_and_send(socket, span, sent),
        result => result,
    }
}

/// The same where sendfile(2) is not to be had: some file systems do without it, some filters
/// forbid it. What the socket does not take is read again.
#[cold]
fn read_and_send(socket: &Descriptor, span: &FileSpan, sent: usize) -> Result<usize, Errno> {
    let mut bytes = Vec::with_capacity((span.len() - sent).min(READ_BYTES_MAX));
    let offset = span.offset() + sent as u64;
    match pread(span, spare_capacity(&mut bytes), offset)? {
        0 => Ok(0),
        _ => {
            // There may have been more room than was asked for.
            bytes.truncate(span.len() - sent);
            send(socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        }
    }
}
