//! Messages with descriptors on a socket that keeps their bounds (sendmsg(2), recvmsg(2);
//! `IORING_OP_SENDMSG` and `IORING_OP_RECVMSG`, Linux 5.3). Each moves one whole message or none.
//!
//! A receive that nobody waits for any more may still bring descriptors: they are taken in as if
//! somebody did, and closed with the operation.

use std::io;
use std::os::fd::OwnedFd;

use super::After;
use super::envelope::Envelope;
use crate::buf::Part;
use crate::engine::descriptor::Descriptor;
use crate::engine::uring::{Cqe, Sqe};

/// A message that was received.
#[derive(Debug)]
pub struct Message {
    /// What it says.
    pub bytes: Vec<u8>,
    /// What came with it, closed when a program is executed (`FD_CLOEXEC`).
    pub descriptors: Vec<OwnedFd>,
}

/// The receive of one message; it owns the memory until the kernel is done.
#[derive(Debug)]
pub(in crate::engine) struct RecvMessage {
    socket: Descriptor,
    /// The message goes to its capacity.
    buffer: Vec<u8>,
    envelope: Envelope,
    /// How it ended, until that is asked for; none at the end of what the peer sends.
    pub(in crate::engine) result: Option<io::Result<Option<Message>>>,
}

impl RecvMessage {
    pub(in crate::engine) fn new(socket: Descriptor, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self {
            socket,
            buffer,
            envelope: Envelope::new(),
            result: None,
        }
    }

    pub(in crate::engine) fn sqe(&mut self) -> Sqe {
        Sqe::RecvMsg {
            fd: self.socket.raw(),
            header: self.prepare(),
        }
    }

    pub(in crate::engine) fn complete(&mut self, cqe: &Cqe) -> After {
        self.result = match cqe.result() {
            Ok(len) => Some(self.received(len as usize)),
            Err(error) if is_passing(&error) => None,
            Err(error) => Some(Err(error)),
        };
        After::Wake
    }

    /// The same without the ring, and without waiting.
    ///
    /// # Errors
    /// Those of recvmsg(2); `WouldBlock` if there is no message.
    pub(in crate::engine) fn receive_now(&mut self) -> io::Result<Option<Message>> {
        let (fd, header) = (self.socket.raw(), self.prepare());
        loop {
            let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
            // SAFETY: the header names memory of ours, which outlives the call.
            let len = unsafe { libc::recvmsg(fd, header, flags) };
            match usize::try_from(len) {
                Ok(len) => return self.received(len),
                Err(_) => interrupted_or(io::Error::last_os_error())?,
            }
        }
    }

    fn prepare(&mut self) -> *mut libc::msghdr {
        self.envelope
            .receive(self.buffer.as_mut_ptr(), self.buffer.capacity())
    }

    /// The message of `len` bytes that the kernel has put where it was told to.
    fn received(&mut self, len: usize) -> io::Result<Option<Message>> {
        let (descriptors, flags) = self.envelope.open();
        if flags & libc::MSG_TRUNC != 0 {
            return Err(cut_off("a message is longer than its buffer"));
        }
        if flags & libc::MSG_CTRUNC != 0 {
            return Err(cut_off(
                "a message carries more descriptors than can be received",
            ));
        }
        if len == 0 && descriptors.is_empty() {
            return Ok(None);
        }
        assert!(len <= self.buffer.capacity(), "it fits");
        // SAFETY: the kernel has written so many bytes, for which there is room.
        unsafe { self.buffer.set_len(len) };
        let bytes = std::mem::take(&mut self.buffer);
        Ok(Some(Message { bytes, descriptors }))
    }
}

/// The send of one message; it owns the bytes and the descriptors until the kernel is done.
#[derive(Debug)]
pub(in crate::engine) struct SendMessage {
    socket: Descriptor,
    bytes: Part,
    descriptors: Vec<OwnedFd>,
    envelope: Envelope,
    /// How it ended, until that is asked for.
    pub(in crate::engine) result: Option<io::Result<()>>,
}

impl SendMessage {
    pub(in crate::engine) fn new(
        socket: Descriptor,
        bytes: Part,
        descriptors: Vec<OwnedFd>,
    ) -> Self {
        Self {
            socket,
            bytes,
            descriptors,
            envelope: Envelope::new(),
            result: None,
        }
    }

    pub(in crate::engine) fn sqe(&mut self) -> Sqe {
        Sqe::SendMsg {
            fd: self.socket.raw(),
            header: self.prepare(),
            then: super::Then::GoOn,
        }
    }

    pub(in crate::engine) fn complete(&mut self, cqe: &Cqe) -> After {
        self.result = match cqe.result() {
            Ok(_) => Some(Ok(())),
            Err(error) if is_passing(&error) => None,
            Err(error) => Some(Err(error)),
        };
        After::Wake
    }

    /// The same without the ring, and without waiting.
    ///
    /// # Errors
    /// Those of sendmsg(2); `WouldBlock` if there is no room.
    pub(in crate::engine) fn send_now(&mut self) -> io::Result<()> {
        let (fd, header) = (self.socket.raw(), self.prepare());
        loop {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: the header names memory of ours, which outlives the call.
            if unsafe { libc::sendmsg(fd, header, flags) } >= 0 {
                return Ok(());
            }
            interrupted_or(io::Error::last_os_error())?;
        }
    }

    fn prepare(&mut self) -> *const libc::msghdr {
        self.envelope
            .send(self.bytes.as_ptr(), self.bytes.len(), &self.descriptors)
    }
}

#[cfg(feature = "mutants")]
impl SendMessage {
    /// What must not happen while the kernel has the operation.
    pub(in crate::engine) fn free_bytes(&mut self) {
        self.bytes = Part::Static(&[]);
    }
}

/// Whether an error only ends the attempt; a task that still waits begins another one.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECANCELED))
}

fn interrupted_or(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}

fn cut_off(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
