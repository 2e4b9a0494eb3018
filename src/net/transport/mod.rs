//! The bytes of one connection, in both directions: [`Transport`].

mod deadlines;
mod pace;

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::io::Errno;

use self::deadlines::Deadlines;
pub use self::deadlines::SendLimits;
pub use self::pace::Pace;
use super::stream::Stream;
use crate::buf::{Outgoing, RecvBuf, SendQueue};
use crate::engine::{Interest, Peer, Sent, Then};
use crate::sys::mutants::mutate;

/// The most bytes in one send. A send ends within a bounded time then, so that the progress of a
/// slow peer shows.
const SEND_BYTES_MAX: usize = 256 << 10;

/// How often the kernel is asked for the bytes of an overdue peer, while each call brings some.
const LOOKS_MAX: u32 = 8;

/// A stream with what was received and not yet used, and what is queued and not yet sent. It knows
/// no protocol.
///
/// It alone has the bytes of a send that was short: a caller queues bytes once, and the transport
/// sends all of them in order or fails.
///
/// Each of the `poll_` functions that leaves its caller waiting has armed the timer for the earlier
/// deadline: the one of the receive ([`Transport::set_recv_deadline`]) or that of the send in
/// flight ([`SendLimits`]). Nothing else starts a send. So a caller that returns `Pending` after
/// any of them is woken in time.
///
/// A TLS session will be one more field, `Option<Box<Session>>`. `fill` gives it the ciphertext,
/// and puts its plaintext into `recv_buf`. `start_send` seals what it takes from `send_queue`, with
/// a close_notify behind the last of it, as does `shutdown_write`. `keep_rest` leaves ciphertext
/// with the session, to be sent before anything else, and puts nothing back into the queue. The
/// deadlines count ciphertext then, because they count what is handed to the stream.
#[derive(Debug)]
pub struct Transport {
    stream: Stream,
    /// Received and not yet used.
    pub recv_buf: RecvBuf,
    /// Queued and not yet sent.
    pub send_queue: SendQueue,
    /// None: every wait takes as long as it takes.
    deadlines: Option<Deadlines>,
    write_side: WriteSide,
    /// The peer will send no more (FIN).
    has_fin: bool,
    /// The last send ended in a span of a file.
    sends_file: bool,
    /// The size of the last send.
    send_bytes: u32,
}

/// Our side of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteSide {
    Open,
    /// The queued bytes are the last, and the close of the socket follows them.
    Finishing,
    /// The peer was told that no more will come, with everything sent.
    Ended,
    /// A send has failed, or bytes were given up. The peer misses them, so nothing may follow.
    Cut,
}

/// How a receive ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// So many bytes are there now that were not before.
    Bytes(usize),
    /// The peer will send no more (FIN).
    Fin,
    /// Nothing came until the deadline of the receive, and nothing waits in the kernel.
    Overdue,
}

/// Why a transport cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportError {
    /// The connection is broken: the peer has reset it (RST), or cannot be reached any more.
    Broken(Errno),
    /// The peer was too slow to take what was sent.
    SendTimeout,
    /// A span of a file in the queue could not be read.
    Unreadable,
}

impl From<TransportError> for io::Error {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Broken(errno) => errno.into(),
            TransportError::SendTimeout => io::ErrorKind::TimedOut.into(),
            TransportError::Unreadable => io::ErrorKind::UnexpectedEof.into(),
        }
    }
}

impl Transport {
    /// A transport that waits for its peer as long as it takes.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            recv_buf: RecvBuf::new(),
            send_queue: SendQueue::new(),
            deadlines: None,
            write_side: WriteSide::Open,
            has_fin: false,
            sends_file: false,
            send_bytes: 0,
        }
    }

    /// A transport whose waits have deadlines, on the clock by which peers are judged.
    pub fn with_deadlines(stream: Stream, limits: Rc<SendLimits>) -> Self {
        Self {
            deadlines: Some(Deadlines::new(limits)),
            ..Self::new(stream)
        }
    }

    /// The socket, for what concerns it as a whole.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The awaited bytes of the peer must come until `deadline_ms`.
    #[inline]
    pub fn set_recv_deadline(&mut self, deadline_ms: u64) {
        let deadlines = self.deadlines.as_mut();
        debug_assert!(deadlines.is_some(), "made without deadlines");
        if let Some(deadlines) = deadlines {
            deadlines.recv_ms = deadline_ms;
        }
    }

    /// Nothing is awaited from the peer.
    #[inline]
    pub fn clear_recv_deadline(&mut self) {
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.recv_ms = Deadlines::NEVER_MS;
        }
    }

    /// Receives a piece into `recv_buf`.
    #[inline(always)]
    pub fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<Filled, TransportError>> {
        let filled = self.fill(context);
        if filled.is_pending() && self.arm(context) {
            return Poll::Ready(self.fill_overdue(context));
        }
        filled
    }

    /// Receives a piece into `recv_buf`, and sends what is queued meanwhile. The caller does not
    /// wait for the end of the send: it is woken only if that cannot go on by itself.
    #[inline(always)]
    pub fn poll_fill_and_send(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Filled, TransportError>> {
        if let Poll::Ready(Err(error)) = self.poll_send(context, Interest::Trouble) {
            return Poll::Ready(Err(error));
        }
        self.poll_fill(context)
    }

    /// Ready when everything is sent.
    #[inline]
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let sent = self.poll_send(context, Interest::End);
        if sent.is_pending() {
            self.arm(context);
        }
        sent
    }

    /// As [`Transport::poll_flush`], of the last bytes: the caller closes the socket then, or tells
    /// the peer by [`Transport::shutdown_write`] that no more will come. The end of the stream can
    /// share the last packet.
    pub fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.write_side == WriteSide::Open {
            self.write_side = WriteSide::Finishing;
        }
        self.poll_flush(context)
    }

    /// Tells whether the peer is still there, while nothing is received from it. The caller is
    /// woken when that may have changed.
    pub fn poll_peer(&mut self, context: &mut Context<'_>) -> Peer {
        let peer = self.stream.poll_peer(context);
        if peer != Peer::Gone {
            self.arm(context);
        }
        peer
    }

    /// Whether the peer has told that it will send no more (FIN), with everything before that
    /// received.
    pub fn has_fin(&self) -> bool {
        self.has_fin
    }

    /// Whether more is known to have arrived than is in `recv_buf`.
    pub fn has_more(&self) -> bool {
        self.stream.has_more()
    }

    /// Whether a send has failed. The peer misses bytes then, and nothing can follow.
    pub fn is_cut(&self) -> bool {
        self.write_side == WriteSide::Cut
    }

    /// Whether the kernel has not taken all that was queued, as far as is known by now.
    pub fn has_unsent(&self) -> bool {
        self.is_cut() || !self.send_queue.is_empty() || self.stream.has_unsent()
    }

    /// Bytes that are queued, and all bytes of a span of a file that is being sent. Before a span
    /// is queued, its caller checks that its content is in the kernel's memory. Counting the span
    /// until it is out lets this be checked late for the next one.
    pub fn unsent_bytes(&self) -> usize {
        let span_bytes = match self.sends_file && self.stream.is_sending() {
            true => self.send_bytes as usize,
            false => 0,
        };
        self.send_queue.len() + span_bytes
    }

    /// Tells the peer that no more will come (FIN); receiving goes on. A peer that does not get
    /// everything must not take this for the end: if bytes are unsent, or the thread panics, which
    /// mostly was about to send more, the connection is reset instead.
    pub fn shutdown_write(&mut self) {
        if self.write_side == WriteSide::Ended {
            return;
        }
        if self.has_unsent() || std::thread::panicking() {
            self.write_side = WriteSide::Cut;
            self.stream.reset();
        } else {
            self.write_side = WriteSide::Ended;
            self.stream.shutdown_write();
        }
    }

    /// Lets the close of the socket break the connection off (RST), unless the peer got everything
    /// and was told so.
    pub fn reset_unless_ended(&self) {
        let has_ended = self.write_side == WriteSide::Ended;
        if !has_ended && (self.has_unsent() || std::thread::panicking()) {
            self.stream.reset_on_close();
        }
    }

    /// Arms the timer: each poll that leaves its caller waiting does. True: the receive is overdue,
    /// and only the other deadline is armed.
    #[inline]
    fn arm(&mut self, context: &Context<'_>) -> bool {
        match &mut self.deadlines {
            Some(deadlines) => deadlines.arm(&self.stream, context),
            None => false,
        }
    }

    #[inline]
    fn fill(&mut self, context: &Context<'_>) -> Poll<Result<Filled, TransportError>> {
        if self.has_fin {
            return Poll::Ready(Ok(Filled::Fin));
        }
        match self.stream.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(chunk))) => {
                let len = chunk.len();
                self.recv_buf.push(chunk);
                Poll::Ready(Ok(Filled::Bytes(len)))
            }
            Poll::Ready(Ok(None)) => {
                self.has_fin = true;
                Poll::Ready(Ok(Filled::Fin))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(broken(&error))),
        }
    }

    /// The peer seems to be overdue. Its bytes may still wait in the kernel: then they are
    /// received.
    #[cold]
    fn fill_overdue(&mut self, context: &Context<'_>) -> Result<Filled, TransportError> {
        for _ in 0..mutate!(JudgeUnheard, 0, LOOKS_MAX) {
            let has_come = self.stream.look();
            if let Poll::Ready(filled) = self.fill(context) {
                return filled;
            }
            // What came may be of others, and have ended this receive unheard.
            if !has_come {
                break;
            }
        }
        Ok(Filled::Overdue)
    }

    /// Ready when everything is sent. If less than everything is handed to the stream, the caller
    /// is woken for the end of the send whatever its `interest` is, to hand over more.
    fn poll_send(
        &mut self,
        context: &Context<'_>,
        interest: Interest,
    ) -> Poll<Result<(), TransportError>> {
        loop {
            let is_first = !self.stream.is_sending();
            if mutate!(
                SecondSend,
                is_first || !self.send_queue.is_empty(),
                is_first
            ) && !self.start_send()?
            {
                return Poll::Ready(Ok(()));
            }
            let interest = if self.send_queue.is_empty() {
                interest
            } else {
                Interest::End
            };
            match self.stream.poll_sent(context, interest) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Sent::All) => {
                    if let Some(deadlines) = &mut self.deadlines {
                        deadlines.sent(self.send_bytes, !self.send_queue.is_empty())?;
                    }
                }
                Poll::Ready(Sent::Part {
                    outgoing,
                    sent,
                    error,
                }) => self.keep_rest(outgoing, sent, &error)?,
            }
        }
    }

    /// Hands over what is queued. False: nothing is.
    #[inline]
    fn start_send(&mut self) -> Result<bool, TransportError> {
        if self.is_cut() {
            return Err(self.cut(TransportError::Broken(Errno::PIPE)));
        }
        // The common case apart: what is known to be one block is moved in pieces that fit.
        if let Some(chunk) = self.send_queue.take_one(SEND_BYTES_MAX) {
            self.start_send_of(Outgoing::One(chunk));
            return Ok(true);
        }
        match self.send_queue.take(SEND_BYTES_MAX) {
            Some(outgoing) => {
                self.start_send_of(outgoing);
                Ok(true)
            }
            None => {
                if let Some(deadlines) = &mut self.deadlines {
                    deadlines.nothing_to_send();
                }
                Ok(false)
            }
        }
    }

    #[inline(always)]
    fn start_send_of(&mut self, outgoing: Outgoing) {
        let continues =
            self.sends_file && matches!(&outgoing, Outgoing::File(file) if file.head.is_none());
        self.sends_file = matches!(outgoing, Outgoing::File(_));
        self.send_bytes = u32::try_from(outgoing.len()).expect("a send has its bound");
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.send_started(continues);
        }
        let is_last = self.write_side == WriteSide::Finishing && self.send_queue.is_empty();
        let then = if is_last { Then::Close } else { Then::GoOn };
        self.stream.start_send(outgoing, then);
    }

    /// A send has ended before all of `outgoing` was sent: keeps the rest if only that send was
    /// cancelled.
    #[cold]
    fn keep_rest(
        &mut self,
        outgoing: Outgoing,
        sent: usize,
        error: &io::Error,
    ) -> Result<(), TransportError> {
        match error.raw_os_error() {
            Some(libc::ECANCELED) => {}
            // The content of a file that was to be sent cannot be had.
            Some(libc::EIO) | None => return Err(self.cut(TransportError::Unreadable)),
            Some(_) => return Err(self.cut(broken(error))),
        }
        self.send_queue.put_back(outgoing, sent);
        match &mut self.deadlines {
            Some(deadlines) => {
                let sent = u32::try_from(sent).expect("a send has its bound");
                deadlines.sent(sent, !self.send_queue.is_empty())
            }
            None => Ok(()),
        }
    }

    /// Sends nothing any more.
    #[cold]
    fn cut(&mut self, error: TransportError) -> TransportError {
        self.write_side = WriteSide::Cut;
        self.send_queue = SendQueue::new();
        error
    }
}

fn broken(error: &io::Error) -> TransportError {
    TransportError::Broken(Errno::from_io_error(error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests;
