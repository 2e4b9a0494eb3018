//! The bytes of one connection, in both directions, with their deadlines: [`Transport`].

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

/// The maximum size of one send from memory, in bytes. With this bound, each send ends soon enough
/// to show the progress of a slow peer.
const SEND_BYTES_MAX: usize = 256 << 10;

/// How often completions are processed to find bytes of an overdue peer, while there are any.
const FETCHES_MAX: u32 = 8;

/// A stream with its received bytes and its queued bytes, independent of any protocol.
///
/// A caller queues bytes once. The transport sends all of them in order, including the rest of a
/// short send, or it fails.
///
/// Each `poll_` function that leaves its caller waiting has armed the timer for the earlier of two
/// deadlines: that of the receive ([`Transport::set_recv_deadline`]) and that of the send in flight
/// ([`SendLimits`]). No other function starts a send. So a caller that returns `Pending` after any
/// of them is woken in time.
///
/// TLS is planned as one more field, `Option<Box<Session>>`. `recv` will give it the ciphertext and
/// put the plaintext into `recv_buf`. `start_send` will encrypt the bytes from `send_queue`, and
/// append a close_notify to the last of them; so will `shutdown_write`. `keep_rest` will leave
/// unsent ciphertext in the session, which sends it first, and put nothing back into the queue. The
/// deadlines will count ciphertext, because they count the bytes that the stream gets.
#[derive(Debug)]
pub struct Transport {
    stream: Stream,
    /// Received bytes that were not used yet.
    pub recv_buf: RecvBuf,
    /// Queued bytes that were not sent yet.
    pub send_queue: SendQueue,
    /// `None`: no wait has a deadline.
    deadlines: Option<Deadlines>,
    write_side: WriteSide,
    /// A FIN of the peer was received.
    has_fin: bool,
    /// The last send contains a span of a file, at its end.
    sends_file: bool,
    /// The size of the last send, in bytes.
    send_bytes: u32,
    /// The number of bytes of all sends that have ended, as far as they were sent.
    sent: u64,
}

/// The state of our side of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteSide {
    Open,
    /// The queued bytes are the last. The end of the stream follows them.
    Finishing,
    /// Everything was sent, and then a FIN.
    Ended,
    /// A send has failed, or unsent bytes were discarded. The peer misses bytes, so no others may
    /// follow.
    Broken,
}

/// The outcome of a receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecvOutcome {
    /// This number of bytes was received into `recv_buf`.
    Bytes(usize),
    /// The peer has sent a FIN.
    Fin,
    /// Nothing arrived before the receive deadline, and nothing waits in the kernel.
    Overdue,
}

/// Why a transport has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportError {
    /// The connection is broken: the peer has reset it (RST), or is unreachable.
    Broken(Errno),
    /// The peer accepted the sent bytes too slowly.
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
    /// Makes a transport without deadlines.
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
            sent: 0,
        }
    }

    /// Makes a transport with deadlines, which are on the peer clock.
    pub fn with_deadlines(stream: Stream, limits: Rc<SendLimits>) -> Self {
        Self {
            deadlines: Some(Deadlines::new(limits)),
            ..Self::new(stream)
        }
    }

    /// The underlying stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Sets the deadline for the awaited bytes of the peer, in ms on the peer clock.
    #[inline]
    pub fn set_recv_deadline(&mut self, deadline_ms: u64) {
        let deadlines = self.deadlines.as_mut();
        debug_assert!(deadlines.is_some(), "this transport has no deadlines");
        if let Some(deadlines) = deadlines {
            deadlines.recv_ms = deadline_ms;
        }
    }

    /// Removes the receive deadline, when no bytes of the peer are awaited.
    #[inline]
    pub fn clear_recv_deadline(&mut self) {
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.recv_ms = Deadlines::NEVER_MS;
        }
    }

    /// Receives a chunk into `recv_buf`.
    #[inline(always)]
    pub fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<RecvOutcome, TransportError>> {
        let received = self.recv(context);
        if received.is_pending() && self.arm(context) {
            return Poll::Ready(self.recv_overdue(context));
        }
        received
    }

    /// Receives a chunk into `recv_buf`, and sends queued bytes meanwhile. `interest` selects the
    /// ends of the last send that wake the caller.
    #[inline(always)]
    pub fn poll_recv_and_send(
        &mut self,
        interest: Interest,
        context: &mut Context<'_>,
    ) -> Poll<Result<RecvOutcome, TransportError>> {
        if let Poll::Ready(Err(error)) = self.poll_send(context, interest) {
            return Poll::Ready(Err(error));
        }
        self.poll_recv(context)
    }

    /// Ready when all queued bytes are sent.
    #[inline]
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let sent = self.poll_send(context, Interest::End);
        if sent.is_pending() {
            self.arm(context);
        }
        sent
    }

    /// Starts to send queued bytes, unless a send is in flight. The caller is woken if that fails.
    pub fn start_to_send(&mut self, context: &Context<'_>) -> Result<(), TransportError> {
        match self.poll_send(context, Interest::Failure) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(()),
        }
    }

    /// As [`Transport::poll_flush`], for the last bytes: the caller then closes the socket or calls
    /// [`Transport::shutdown_write`]. So the end of the stream can share the last packet.
    pub fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.write_side == WriteSide::Open {
            self.write_side = WriteSide::Finishing;
        }
        self.poll_flush(context)
    }

    /// The state of the peer, for a caller that does not receive from it meanwhile. The caller is
    /// woken when the state may have changed.
    pub fn poll_peer(&mut self, context: &mut Context<'_>) -> Peer {
        let peer = self.stream.poll_peer(context);
        if peer != Peer::Gone {
            self.arm(context);
        }
        peer
    }

    /// Whether the peer's FIN was received, and everything before it.
    pub fn has_fin(&self) -> bool {
        self.has_fin
    }

    /// Whether bytes are known to have arrived that are not yet in `recv_buf`.
    pub fn has_more(&self) -> bool {
        self.stream.has_more()
    }

    /// Whether a send has failed, or unsent bytes were discarded. Then nothing can be sent any
    /// more.
    pub fn is_broken(&self) -> bool {
        self.write_side == WriteSide::Broken
    }

    /// Whether the kernel has not taken all queued bytes, as far as is known.
    pub fn has_unsent(&self) -> bool {
        self.is_broken() || !self.send_queue.is_empty() || self.stream.has_unsent()
    }

    /// The number of queued bytes, plus the bytes of a file span that is being sent. A caller that
    /// limits this number queues the next span late. It checks only then that the content of that
    /// span is in the page cache, shortly before it is sent.
    pub fn unsent_bytes(&self) -> usize {
        let span_bytes = match self.sends_file && self.stream.is_sending() {
            true => self.send_bytes as usize,
            false => 0,
        };
        self.send_queue.len() + span_bytes
    }

    /// The number of bytes that the kernel has taken since the connection began, as far as that is
    /// known.
    pub fn sent_bytes(&self) -> u64 {
        match self.stream.is_sending() && !self.stream.has_unsent() {
            true => self.sent + u64::from(self.send_bytes),
            false => self.sent,
        }
    }

    /// The number of bytes that were queued since the connection began. Not to be called after a
    /// failure, which discards queued bytes.
    pub fn queued_bytes(&self) -> u64 {
        let in_flight = match self.stream.is_sending() {
            true => self.send_bytes,
            false => 0,
        };
        self.sent + u64::from(in_flight) + self.send_queue.len() as u64
    }

    /// Ends our side of the stream (FIN). Receiving continues. If bytes are unsent, the connection
    /// is reset instead, so that the peer does not mistake a truncated stream for a complete one.
    /// The same holds if the thread panics, because the task was probably about to send more.
    pub fn shutdown_write(&mut self) {
        if self.write_side == WriteSide::Ended {
            return;
        }
        if self.has_unsent() || std::thread::panicking() {
            self.write_side = WriteSide::Broken;
            self.stream.reset();
        } else {
            self.write_side = WriteSide::Ended;
            self.stream.shutdown_write();
        }
    }

    /// Makes the close of the socket reset the connection (RST) if bytes are unsent or the thread
    /// panics. Does nothing after [`Transport::shutdown_write`] has sent a FIN.
    pub fn reset_unless_ended(&self) {
        let has_ended = self.write_side == WriteSide::Ended;
        if !has_ended && (self.has_unsent() || std::thread::panicking()) {
            self.stream.reset_on_close();
        }
    }

    /// Arms the timer; each poll that leaves its caller waiting calls this. Returns true if the
    /// receive is overdue; then only the send's deadline is armed.
    #[inline]
    fn arm(&mut self, context: &Context<'_>) -> bool {
        match &mut self.deadlines {
            Some(deadlines) => deadlines.arm(&self.stream, context),
            None => false,
        }
    }

    #[inline]
    fn recv(&mut self, context: &Context<'_>) -> Poll<Result<RecvOutcome, TransportError>> {
        if self.has_fin {
            return Poll::Ready(Ok(RecvOutcome::Fin));
        }
        match self.stream.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(chunk))) => {
                let len = chunk.len();
                self.recv_buf.push(chunk);
                Poll::Ready(Ok(RecvOutcome::Bytes(len)))
            }
            Poll::Ready(Ok(None)) => {
                self.has_fin = true;
                Poll::Ready(Ok(RecvOutcome::Fin))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(broken(&error))),
        }
    }

    /// The receive deadline has come. Bytes of the peer may still wait in the kernel: if so,
    /// receives them.
    #[cold]
    fn recv_overdue(&mut self, context: &Context<'_>) -> Result<RecvOutcome, TransportError> {
        for _ in 0..mutate!(EnforceEarly, 0, FETCHES_MAX) {
            let any_completed = self.stream.fetch_completions();
            if let Poll::Ready(received) = self.recv(context) {
                return received;
            }
            // The completions may be those of other streams, or may have ended this receive without
            // bytes. `recv` has armed it again, so another try can succeed.
            if !any_completed {
                break;
            }
        }
        Ok(RecvOutcome::Overdue)
    }

    /// Ready when all queued bytes are sent. While bytes are left in the queue, the end of a send
    /// wakes the caller whatever its `interest` is, because the next send must be started.
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
                    self.sent += u64::from(self.send_bytes);
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

    /// Starts to send queued bytes. Returns false if there are none.
    #[inline]
    fn start_send(&mut self) -> Result<bool, TransportError> {
        if self.is_broken() {
            return Err(self.cut(TransportError::Broken(Errno::PIPE)));
        }
        // The common case is separate for speed: moving a single chunk takes few instructions.
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
        // A span without a head continues the file of the send before it.
        let continues =
            self.sends_file && matches!(&outgoing, Outgoing::File(file) if file.head.is_none());
        self.sends_file = matches!(outgoing, Outgoing::File(_));
        debug_assert!(outgoing.len() > 0, "nothing to send");
        self.send_bytes = u32::try_from(outgoing.len()).expect("a send is smaller than 4 GiB");
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.send_started(continues);
        }
        let is_last = self.write_side == WriteSide::Finishing && self.send_queue.is_empty();
        let then = if is_last { Then::Close } else { Then::KeepOpen };
        self.stream.start_send(outgoing, then);
    }

    /// A send has ended before all of `outgoing` was sent. If it was cancelled, puts the rest back
    /// into the queue; after any other error, fails.
    #[cold]
    fn keep_rest(
        &mut self,
        outgoing: Outgoing,
        sent: usize,
        error: &io::Error,
    ) -> Result<(), TransportError> {
        self.sent += sent as u64;
        match error.raw_os_error() {
            Some(libc::ECANCELED) => {}
            // A span's file could not be read, or has become shorter.
            Some(libc::EIO) | None => return Err(self.cut(TransportError::Unreadable)),
            Some(_) => return Err(self.cut(broken(error))),
        }
        self.send_queue.put_back(outgoing, sent);
        match &mut self.deadlines {
            Some(deadlines) => {
                let sent = u32::try_from(sent).expect("a send is smaller than 4 GiB");
                deadlines.sent(sent, !self.send_queue.is_empty())
            }
            None => Ok(()),
        }
    }

    /// Discards the queued bytes, and prevents further sends.
    #[cold]
    fn cut(&mut self, error: TransportError) -> TransportError {
        self.write_side = WriteSide::Broken;
        self.send_queue = SendQueue::new();
        error
    }
}

fn broken(error: &io::Error) -> TransportError {
    TransportError::Broken(Errno::from_io_error(error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests;
