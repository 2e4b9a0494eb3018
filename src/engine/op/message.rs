//! Messages with descriptors, on sockets that preserve message boundaries (sendmsg(2), recvmsg(2);
//! `IORING_OP_SENDMSG` and `IORING_OP_RECVMSG`, Linux 5.3). Each operation transfers one whole
//! message or none.
//!
//! A receive may bring descriptors after its owner is gone. The operation takes them all the same,
//! and closes them when it is dropped.

use std::io;
use std::os::fd::OwnedFd;

use super::After;
use super::msg_header::MsgHeader;
use crate::buf::Part;
use crate::engine::descriptor::Descriptor;
use crate::engine::uring::{Cqe, Sqe};

/// A received message.
#[derive(Debug)]
pub struct Message {
    /// The content of the message.
    pub bytes: Vec<u8>,
    /// The descriptors that came with it, with `FD_CLOEXEC` set.
    pub descriptors: Vec<OwnedFd>,
}

/// The receive of one message. It owns the buffer until the kernel has finished with it.
#[derive(Debug)]
pub(in crate::engine) struct RecvMessage {
    socket: Descriptor,
    /// The kernel writes the message into its capacity.
    buffer: Vec<u8>,
    header: MsgHeader,
    /// The result, until the task takes it. `Ok(None)` at the end of the stream.
    pub(in crate::engine) result: Option<io::Result<Option<Message>>>,
}

impl RecvMessage {
    pub(in crate::engine) fn new(socket: Descriptor, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self {
            socket,
            buffer,
            header: MsgHeader::new(),
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
            Err(error) if is_transient(&error) => None,
            Err(error) => Some(Err(error)),
        };
        After::Wake
    }

    /// Receives by a system call, without waiting.
    ///
    /// # Errors
    /// Those of recvmsg(2); `WouldBlock` if there is no message. `InvalidData` if it was truncated.
    pub(in crate::engine) fn receive_now(&mut self) -> io::Result<Option<Message>> {
        let (fd, header) = (self.socket.raw(), self.prepare());
        loop {
            let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
            // SAFETY: the header points to memory of this operation, which outlives the call.
            let len = unsafe { libc::recvmsg(fd, header, flags) };
            match usize::try_from(len) {
                Ok(len) => return self.received(len),
                Err(_) => interrupted_or(io::Error::last_os_error())?,
            }
        }
    }

    fn prepare(&mut self) -> *mut libc::msghdr {
        self.header
            .prepare_receive(self.buffer.as_mut_ptr(), self.buffer.capacity())
    }

    /// The message, after the kernel has written `len` bytes of it into the buffer.
    fn received(&mut self, len: usize) -> io::Result<Option<Message>> {
        let (descriptors, flags) = self.header.take_received();
        if flags & libc::MSG_TRUNC != 0 {
            return Err(truncated("a message is longer than its buffer"));
        }
        if flags & libc::MSG_CTRUNC != 0 {
            return Err(truncated(
                "a message carries more descriptors than can be received",
            ));
        }
        if len == 0 && descriptors.is_empty() {
            return Ok(None);
        }
        assert!(
            len <= self.buffer.capacity(),
            "the kernel stays within the capacity"
        );
        // SAFETY: the kernel has written `len` bytes, and they fit into the capacity.
        unsafe { self.buffer.set_len(len) };
        let bytes = std::mem::take(&mut self.buffer);
        Ok(Some(Message { bytes, descriptors }))
    }
}

/// The send of one message. It owns the bytes and descriptors until the kernel has finished.
#[derive(Debug)]
pub(in crate::engine) struct SendMessage {
    socket: Descriptor,
    bytes: Part,
    descriptors: Vec<OwnedFd>,
    header: MsgHeader,
    /// The result, until the task takes it.
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
            header: MsgHeader::new(),
            result: None,
        }
    }

    pub(in crate::engine) fn sqe(&mut self) -> Sqe {
        Sqe::SendMsg {
            fd: self.socket.raw(),
            header: self.prepare(),
            then: super::Then::KeepOpen,
        }
    }

    pub(in crate::engine) fn complete(&mut self, cqe: &Cqe) -> After {
        self.result = match cqe.result() {
            Ok(_) => Some(Ok(())),
            Err(error) if is_transient(&error) => None,
            Err(error) => Some(Err(error)),
        };
        After::Wake
    }

    /// Sends by a system call, without waiting.
    ///
    /// # Errors
    /// Those of sendmsg(2); `WouldBlock` if the socket has no room.
    pub(in crate::engine) fn send_now(&mut self) -> io::Result<()> {
        let (fd, header) = (self.socket.raw(), self.prepare());
        loop {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: the header points to memory of this operation, which outlives the call.
            if unsafe { libc::sendmsg(fd, header, flags) } >= 0 {
                return Ok(());
            }
            interrupted_or(io::Error::last_os_error())?;
        }
    }

    fn prepare(&mut self) -> *const libc::msghdr {
        self.header
            .prepare_send(self.bytes.as_ptr(), self.bytes.len(), &self.descriptors)
    }
}

#[cfg(feature = "mutants")]
impl SendMessage {
    /// A planted fault: frees the bytes while the kernel uses them.
    pub(in crate::engine) fn free_bytes(&mut self) {
        self.bytes = Part::Static(&[]);
    }
}

/// Whether an error is transient: a task that still waits tries again.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECANCELED))
}

fn interrupted_or(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}

fn truncated(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
