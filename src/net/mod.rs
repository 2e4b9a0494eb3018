//! Listeners, streams and other sockets for coroutines, the same on both engines.
//!
//! All of this needs a worker: call it from a service, or from a coroutine of
//! [`run`](crate::run).
//!
//! The streams and their halves have `poll_read`, `poll_write` and `poll_flush` for hand-written
//! futures. With the feature `tokio-io` they have tokio's `AsyncRead` and `AsyncWrite`, with
//! `futures-io` those of the crate futures-io, so TLS and clients that are built on these traits
//! work over them. Methods such as `read` mean coring's own on such a stream; write
//! `AsyncReadExt::read(&mut stream, &mut bytes)` for the other.

mod address;
mod bind;
mod duplex;
#[cfg(any(feature = "futures-io", feature = "tokio-io"))]
mod io_traits;
mod listener;
mod polling;
mod race;
mod reading;
mod resolve;
mod seqpacket;
mod stream;
mod tcp;
mod transport;
mod udp;
mod unix;

pub use address::Address;
pub(crate) use bind::{Bound, SocketFile, bind_all};
pub use duplex::{ReadHalf, WriteHalf};
pub(crate) use listener::Listener;
pub use polling::Polling;
pub(crate) use race::connect_tcp;
pub use resolve::{ToAddresses, lookup_host};
pub use seqpacket::{SeqpacketReceiver, SeqpacketSender, UnixSeqpacket};
pub(crate) use stream::{Remote, Stream};
pub use tcp::{TcpListener, TcpStream};
pub(crate) use transport::{Pace, RecvOutcome, SendLimits, Transport, TransportError};
pub use udp::UdpSocket;
pub use unix::{UnixListener, UnixStream};

#[cfg(test)]
pub(crate) use race::tests::FullListener;

pub(crate) use crate::engine::Peer;
pub use crate::engine::{Events, Message};

#[cfg(test)]
mod tests;
