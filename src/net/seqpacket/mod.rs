//! Unix sockets that preserve message boundaries and pass descriptors (`SOCK_SEQPACKET`, unix(7)).

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

use crate::buf::Part;
use crate::engine::{DESCRIPTORS_MAX, Descriptor, Message, MessageReceiver, MessageSender};

/// A connected Unix socket for messages. Each message is received whole, as it was sent, with the
/// descriptors that it carries. The typical use is between a program and its child processes.
///
/// ```
/// use coring::net::UnixSeqpacket;
///
/// # fn main() -> std::io::Result<()> {
/// coring::run(async {
///     let (mut near, far) = UnixSeqpacket::pair()?;
///     // A program would pass this end to a child process.
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
    /// The maximum number of descriptors in one message.
    pub const DESCRIPTORS_MAX: usize = DESCRIPTORS_MAX;

    /// Makes a connected pair: a socket for this process, and the descriptor of the other end.
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
    /// `InvalidInput` if the socket has another type. Otherwise those of getsockopt(2).
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

    /// Receives the next message into the capacity of `buffer`, whose contents are discarded.
    /// Returns `None` after the peer has ended its side.
    ///
    /// If the future is dropped, the receive continues with the same buffer, and the next call
    /// returns its message. So no message is lost.
    ///
    /// # Errors
    /// `InvalidData` if the message was longer than the buffer's capacity, or carried more
    /// descriptors than [`UnixSeqpacket::DESCRIPTORS_MAX`] or than this process may open. The
    /// message is then lost, and its descriptors are closed. Otherwise those of recvmsg(2).
    pub async fn recv(&mut self, buffer: Vec<u8>) -> io::Result<Option<Message>> {
        self.receiver.recv(buffer).await
    }

    /// As [`UnixSeqpacket::recv`], without waiting.
    ///
    /// # Errors
    /// `WouldBlock` if no message has arrived. `ResourceBusy` after a [`UnixSeqpacket::recv`] whose
    /// future was dropped, until another call of it has returned that message. Otherwise those of
    /// [`UnixSeqpacket::recv`].
    pub fn try_recv(&mut self, buffer: Vec<u8>) -> io::Result<Option<Message>> {
        self.receiver.try_recv(buffer)
    }

    /// Sends a message with `descriptors`, which are closed in this process once they are sent. If
    /// the future is dropped, the message is sent before all later ones, or not at all.
    ///
    /// # Errors
    /// `InvalidInput` if the message carries more descriptors than
    /// [`UnixSeqpacket::DESCRIPTORS_MAX`], or is empty: the peer could not tell an empty message
    /// from the end of the stream. Otherwise those of sendmsg(2), for example `EMSGSIZE` for a
    /// message that is longer than the socket's buffer. In all these cases it is not sent.
    pub async fn send(
        &mut self,
        bytes: impl Into<Part>,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<()> {
        self.sender.send(bytes, descriptors).await
    }

    /// Splits the socket into its two directions, for two coroutines.
    pub fn split(self) -> (SeqpacketReceiver, SeqpacketSender) {
        (self.receiver, self.sender)
    }
}

impl fmt::Debug for UnixSeqpacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixSeqpacket").finish_non_exhaustive()
    }
}

/// The receiving half of a [`UnixSeqpacket`]. The socket is closed when both halves are dropped.
#[derive(Debug)]
pub struct SeqpacketReceiver(MessageReceiver);

impl SeqpacketReceiver {
    /// As [`UnixSeqpacket::recv`].
    ///
    /// # Errors
    /// Those of [`UnixSeqpacket::recv`].
    pub async fn recv(&mut self, buffer: Vec<u8>) -> io::Result<Option<Message>> {
        self.0.start(buffer);
        poll_fn(|context| self.0.poll_end(context)).await
    }

    /// As [`UnixSeqpacket::try_recv`].
    ///
    /// # Errors
    /// Those of [`UnixSeqpacket::try_recv`].
    pub fn try_recv(&mut self, buffer: Vec<u8>) -> io::Result<Option<Message>> {
        self.0.receive_now(buffer)
    }
}

/// The sending half of a [`UnixSeqpacket`].
#[derive(Debug)]
pub struct SeqpacketSender(MessageSender);

impl SeqpacketSender {
    /// As [`UnixSeqpacket::send`].
    ///
    /// # Errors
    /// Those of [`UnixSeqpacket::send`].
    pub async fn send(
        &mut self,
        bytes: impl Into<Part>,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Err(invalid(
                "a message must not be empty: the peer would take it for the end of the stream",
            ));
        }
        if descriptors.len() > DESCRIPTORS_MAX {
            return Err(invalid("a message carries at most 16 descriptors"));
        }
        // First finishes a message whose future was dropped. Its outcome is ignored.
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
