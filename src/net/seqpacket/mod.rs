//! Unix sockets that keep the bounds of messages and carry descriptors (`SOCK_SEQPACKET`, unix(7)).

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

use crate::buf::Part;
use crate::engine::{DESCRIPTORS_MAX, Descriptor, Message, MessageReceiver, MessageSender};

/// A connected Unix socket of messages: each is received as it was sent, whole, with the
/// descriptors that it carries. It connects processes of one machine, a program and its children
/// mostly.
///
/// ```
/// use coring::net::UnixSeqpacket;
///
/// # fn main() -> std::io::Result<()> {
/// coring::run(async {
///     let (mut near, far) = UnixSeqpacket::pair()?;
///     // The other end is a child's, say.
///     let mut far = UnixSeqpacket::new(far)?;
///     let file = std::fs::File::open("Cargo.toml")?;
///     near.send("read this", vec![file.into()]).await?;
///     let message = far.recv(Vec::with_capacity(100)).await?.expect("a message");
///     assert_eq!(message.bytes, b"read this");
///     assert_eq!(message.descriptors.len(), 1);
///     Ok(())
/// })
/// # }
/// ```
pub struct UnixSeqpacket {
    receiver: SeqpacketReceiver,
    sender: SeqpacketSender,
}

impl UnixSeqpacket {
    /// Descriptors that one message may carry.
    pub const DESCRIPTORS_MAX: usize = DESCRIPTORS_MAX;

    /// A socket, and the other end of it to be given away.
    ///
    /// # Errors
    /// Those of socketpair(2).
    ///
    /// # Panics
    /// Outside a worker.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (near, far) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
        Ok((Self::of(near), far))
    }

    /// Takes over a connected socket.
    ///
    /// # Errors
    /// When it is of another type.
    ///
    /// # Panics
    /// Outside a worker.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let is_unix = sockopt::socket_domain(&socket)? == AddressFamily::UNIX;
        if is_unix && sockopt::socket_type(&socket)? == SocketType::SEQPACKET {
            return Ok(Self::of(socket));
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the socket is not a Unix socket of the type SOCK_SEQPACKET",
        ))
    }

    fn of(socket: OwnedFd) -> Self {
        let socket = Descriptor::new(socket);
        Self {
            receiver: SeqpacketReceiver(MessageReceiver::new(socket.clone())),
            sender: SeqpacketSender(MessageSender::new(socket)),
        }
    }

    /// The next message; none when the peer will send no more. It is received into the capacity of
    /// `buffer`; what the buffer contains is dropped.
    ///
    /// If the future is dropped, the receive goes on, and the next call gets what it brings, in the
    /// buffer that was given to it: no message is lost.
    ///
    /// # Errors
    /// `InvalidData` if the message was longer than the buffer, or carried more descriptors than
    /// [`UnixSeqpacket::DESCRIPTORS_MAX`] or than this process may open; the message is lost then,
    /// and its descriptors are closed. Else those of recvmsg(2).
    pub async fn recv(&mut self, buffer: Vec<u8>) -> io::Result<Option<Message>> {
        self.receiver.recv(buffer).await
    }

    /// As [`UnixSeqpacket::recv`], if a message waits.
    ///
    /// # Errors
    /// `WouldBlock` if no message waits; `ResourceBusy` after a [`UnixSeqpacket::recv`] whose
    /// future was dropped, until another one has got its message.
    pub fn try_recv(&mut self, buffer: Vec<u8>) -> io::Result<Option<Message>> {
        self.receiver.try_recv(buffer)
    }

    /// Sends a message with `descriptors`, which are closed here when they are on their way. If the
    /// future is dropped, the message is sent before any other one, or not at all.
    ///
    /// # Errors
    /// `InvalidInput` if the message is empty, which would be taken for the end, or carries more
    /// descriptors than [`UnixSeqpacket::DESCRIPTORS_MAX`]. Else those of sendmsg(2), such as
    /// `EMSGSIZE` for a message that is longer than the socket's buffer. It is not sent then.
    pub async fn send(
        &mut self,
        bytes: impl Into<Part>,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<()> {
        self.sender.send(bytes, descriptors).await
    }

    /// Both directions apart, for two coroutines.
    pub fn split(self) -> (SeqpacketReceiver, SeqpacketSender) {
        (self.receiver, self.sender)
    }
}

impl fmt::Debug for UnixSeqpacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixSeqpacket").finish_non_exhaustive()
    }
}

/// The incoming side of a [`UnixSeqpacket`]; the socket is closed when both sides are dropped.
#[derive(Debug)]
pub struct SeqpacketReceiver(MessageReceiver);

impl SeqpacketReceiver {
    /// As [`UnixSeqpacket::recv`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv(&mut self, buffer: Vec<u8>) -> io::Result<Option<Message>> {
        self.0.start(buffer);
        poll_fn(|context| self.0.poll_end(context)).await
    }

    /// As [`UnixSeqpacket::try_recv`].
    ///
    /// # Errors
    /// As there.
    pub fn try_recv(&mut self, buffer: Vec<u8>) -> io::Result<Option<Message>> {
        self.0.receive_now(buffer)
    }
}

/// The outgoing side of a [`UnixSeqpacket`].
#[derive(Debug)]
pub struct SeqpacketSender(MessageSender);

impl SeqpacketSender {
    /// As [`UnixSeqpacket::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(
        &mut self,
        bytes: impl Into<Part>,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Err(invalid("an empty message would be taken for the end"));
        }
        if descriptors.len() > DESCRIPTORS_MAX {
            return Err(invalid("a message carries at most 16 descriptors"));
        }
        // How a message ended that was given up is nobody's any more.
        let _ = poll_fn(|context| self.0.poll_end(context)).await;
        self.0.start(bytes, descriptors);
        poll_fn(|context| self.0.poll_end(context)).await
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

#[cfg(test)]
mod tests;
