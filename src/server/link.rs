//! A connection's bytes and deadlines: what came in, what is owed, and until when.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use super::close_reason::CloseReason;
use super::limits::{Bounds, HalfClose, Pace};
use crate::buf::{Outgoing, RecvBuf, SendQueue};
use crate::http::h1;
use crate::net::{Interest, Peer, Sent, Stream, Then};
use crate::rt::{Timer, peer_after_ms, peer_now_ms};
use crate::sys::mutants::mutate;

/// The most bytes in one send: at its deadline we want to see whether it moved.
const SEND_BYTES_MAX: usize = 256 << 10;

/// After an answer to a request that was not read to its end, or that more had followed: the peer
/// may go on sending for this long without a pause, and in all, in ms. A close with bytes unread
/// would reset the connection and could take the answer with it.
const LINGER_PAUSE_MS: u64 = 2_000;
const LINGER_MS: u64 = 10_000;

/// As long as it goes on, so many bytes are received for the sake of the last answer: a client that
/// reads only once it has sent everything may have a whole body of the default limit left to send.
const LINGER_BYTES_MAX: usize = 16 << 20;

/// How often the kernel is asked for the bytes of an overdue peer, while each call brings some.
const LOOKS_MAX: u32 = 8;

/// A deadline that does not come.
const NEVER_MS: u64 = u64::MAX;

/// The stream with its two buffers. There is one timer; it stands at the earlier deadline. All
/// times here are on the clock by which peers are judged.
#[derive(Debug)]
pub(super) struct Link {
    stream: Stream,
    /// Received and not yet understood.
    pub(super) inbox: RecvBuf,
    /// Owed and not yet sent.
    pub(super) outbox: SendQueue,
    timer: Timer,
    recv_deadline_ms: u64,
    send_deadline_ms: u64,
    send_pace: Pace,
    /// The size of the send in flight.
    send_bytes: u32,
    /// What is in flight ends in a span of a file.
    sends_file: bool,
    /// A send has failed: the peer misses what was owed then, and nothing can follow.
    pub(super) is_cut: bool,
    /// When a span of a file was out and nothing more was owed as yet, in ms.
    span_ended_ms: u64,
    /// What the peer had not acknowledged when we last looked, in bytes.
    unacknowledged: u32,
    /// The peer will send no more.
    pub(super) eof: bool,
    /// When nothing is owed any more, our side of the connection ends at once.
    pub(super) ends_then: bool,
}

impl Link {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            inbox: RecvBuf::new(),
            outbox: SendQueue::new(),
            timer: Timer::new(),
            recv_deadline_ms: NEVER_MS,
            send_deadline_ms: NEVER_MS,
            send_pace: Pace::start(0),
            send_bytes: 0,
            sends_file: false,
            is_cut: false,
            span_ended_ms: 0,
            unacknowledged: 0,
            eof: false,
            ends_then: false,
        }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// What is awaited from the peer must come until `deadline_ms`.
    #[inline]
    pub(super) fn set_recv_deadline(&mut self, deadline_ms: u64) {
        self.recv_deadline_ms = deadline_ms;
    }

    /// Nothing is awaited from the peer.
    #[inline]
    pub(super) fn clear_recv_deadline(&mut self) {
        self.recv_deadline_ms = NEVER_MS;
    }

    /// Whether what is awaited from the peer is overdue.
    #[inline]
    pub(super) fn is_overdue(&self) -> bool {
        peer_now_ms() >= self.recv_deadline_ms
    }

    /// To be called before a poll ends as pending: the caller is woken by the earlier of the two
    /// deadlines.
    #[inline]
    pub(super) fn wait(&self, context: &mut Context<'_>) {
        self.timer
            .set_for_peer(self.recv_deadline_ms.min(self.send_deadline_ms));
        if self.timer.poll_expired(context).is_ready() {
            // It was set to this very moment.
            context.waker().wake_by_ref();
        }
    }

    /// Receives a piece into the inbox: how many bytes, 0 at the end.
    #[inline]
    pub(super) fn poll_fill(&mut self, context: &Context<'_>) -> Poll<Result<usize, CloseReason>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        match self.stream.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(chunk))) => {
                let len = chunk.len();
                self.inbox.push(chunk);
                Poll::Ready(Ok(len))
            }
            Poll::Ready(Ok(None)) => {
                self.eof = true;
                Poll::Ready(Ok(0))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(CloseReason::Reset)),
        }
    }

    /// The peer seems to be overdue. Its bytes may still wait in the kernel: then they are
    /// received. Otherwise it fails for `reason`.
    #[cold]
    pub(super) fn fill_overdue(
        &mut self,
        context: &Context<'_>,
        reason: CloseReason,
    ) -> Result<usize, CloseReason> {
        for _ in 0..mutate!(JudgeUnheard, 0, LOOKS_MAX) {
            let has_come = self.stream.look();
            if let Poll::Ready(filled) = self.poll_fill(context) {
                return filled;
            }
            // What came may be of others, and have ended this receive unheard.
            if !has_come {
                break;
            }
        }
        Err(reason)
    }

    /// Fails when the peer is gone, or has half-closed the connection and that ends a call; takes
    /// nothing in.
    pub(super) fn check_peer(
        &self,
        context: &Context<'_>,
        half_close: HalfClose,
    ) -> Result<(), CloseReason> {
        match (self.stream.poll_peer(context), half_close) {
            (Peer::Gone, _) => Err(CloseReason::Reset),
            (Peer::HalfClosed, HalfClose::End) => Err(CloseReason::HalfClosed),
            (Peer::HalfClosed, HalfClose::Serve) | (Peer::Present, _) => Ok(()),
        }
    }

    /// Whether anything is unread but empty lines.
    pub(super) fn has_unread(&self) -> bool {
        !h1::is_blank(self.inbox.unread())
    }

    /// Whether the peer is known to have sent something that was not looked at.
    pub(super) fn more_has_come(&self) -> bool {
        self.has_unread() || self.stream.has_more()
    }

    /// Says that no more will come, and receives until the peer has said the same.
    pub(super) async fn linger(&mut self) {
        self.stream.shutdown_write();
        let end_ms = peer_after_ms(LINGER_MS);
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            self.set_recv_deadline(end_ms.min(peer_after_ms(LINGER_PAUSE_MS)));
            let unread = self.inbox.unread().len();
            self.inbox.consume(unread);
            let received = poll_fn(|context| match self.poll_fill(context) {
                Poll::Pending if self.is_overdue() => Poll::Ready(Ok(0)),
                Poll::Pending => {
                    self.wait(context);
                    Poll::Pending
                }
                filled => filled,
            });
            match received.await {
                Ok(0) | Err(_) => break,
                Ok(received) => left = left.saturating_sub(received),
            }
        }
    }

    /// Ready when nothing is owed and nothing is on its way.
    #[inline]
    pub(super) fn poll_flush(
        &mut self,
        context: &mut Context<'_>,
        limits: &Bounds,
    ) -> Poll<Result<(), CloseReason>> {
        self.poll_send(context, limits, Interest::End)
    }

    /// Sends what is owed, but does not wait: the caller is woken only if it cannot go on.
    #[inline]
    pub(super) fn send_on(
        &mut self,
        context: &mut Context<'_>,
        limits: &Bounds,
    ) -> Result<(), CloseReason> {
        match self.poll_send(context, limits, Interest::Trouble) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(()),
        }
    }

    /// Whether something is owed, or on its way, or lost.
    pub(super) fn owes(&self) -> bool {
        self.is_cut || self.stream.is_sending() || !self.outbox.is_empty()
    }

    /// Bytes owed, and all bytes of a span of a file that is being sent. Before a span is queued,
    /// its caller checks that its content is in the kernel's memory. Counting the span until it is
    /// out lets this be checked late for the next one.
    pub(super) fn owed_bytes(&self) -> usize {
        let span_bytes = match self.sends_file && self.stream.is_sending() {
            true => self.send_bytes as usize,
            false => 0,
        };
        self.outbox.len() + span_bytes
    }

    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        limits: &Bounds,
        interest: Interest,
    ) -> Poll<Result<(), CloseReason>> {
        loop {
            let is_first = !self.stream.is_sending();
            if mutate!(SecondSend, is_first || !self.outbox.is_empty(), is_first)
                && !self.start_send(limits)
            {
                return Poll::Ready(Ok(()));
            }
            // Who has more to send wants to know when.
            let interest = if self.outbox.is_empty() {
                interest
            } else {
                Interest::End
            };
            match self.stream.poll_sent(context, interest) {
                Poll::Pending => {
                    if peer_now_ms() >= self.send_deadline_ms {
                        self.look_at_send(limits);
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Sent::All) => self.note_sent(self.send_bytes, limits)?,
                Poll::Ready(Sent::Part {
                    outgoing,
                    sent,
                    error,
                }) => {
                    if let Some(reason) = fault(&error) {
                        self.is_cut = true;
                        return Poll::Ready(Err(reason));
                    }
                    self.outbox.put_back(outgoing, sent);
                    let sent = u32::try_from(sent).expect("a send has its bound");
                    self.note_sent(sent, limits)?;
                }
            }
        }
    }

    /// Hands over what is owed. False: nothing is.
    #[inline]
    fn start_send(&mut self, limits: &Bounds) -> bool {
        // The common case apart: what is known to be one block is moved in pieces that fit.
        if let Some(chunk) = self.outbox.take_one(SEND_BYTES_MAX) {
            self.start_send_of(Outgoing::One(chunk), limits);
            return true;
        }
        match self.outbox.take(SEND_BYTES_MAX) {
            Some(outgoing) => self.start_send_of(outgoing, limits),
            None => {
                if self.sends_file && self.send_deadline_ms != NEVER_MS {
                    self.span_ended_ms = peer_now_ms();
                }
                self.send_deadline_ms = NEVER_MS;
                return false;
            }
        }
        true
    }

    #[inline(always)]
    fn start_send_of(&mut self, outgoing: Outgoing, limits: &Bounds) {
        let goes_on = matches!(&outgoing, Outgoing::File(file) if file.head.is_none());
        if self.send_deadline_ms == NEVER_MS {
            if goes_on && self.sends_file {
                // One span after the other: the rate is that of all of them.
                self.send_pace.paused(peer_now_ms() - self.span_ended_ms);
            } else {
                self.send_pace = Pace::start(peer_now_ms());
            }
            self.unacknowledged = 0;
        }
        self.move_send_deadline(limits);
        self.send_bytes = u32::try_from(outgoing.len()).expect("a send has its bound");
        self.sends_file = matches!(outgoing, Outgoing::File(_));
        // Only what is the last of all is followed by the close.
        let is_last = self.ends_then && self.outbox.is_empty();
        let then = if is_last { Then::Close } else { Then::GoOn };
        self.stream.start_send(outgoing, then);
    }

    /// A send has ended: on with the rest, unless it came too slowly.
    fn note_sent(&mut self, sent: u32, limits: &Bounds) -> Result<(), CloseReason> {
        let now_ms = peer_now_ms();
        if sent > 0 {
            self.send_pace.moved(sent, now_ms);
        }
        if !self.outbox.is_empty() {
            self.move_send_deadline(limits);
            if now_ms >= self.send_deadline_ms {
                return Err(CloseReason::WriteTimeout);
            }
        }
        Ok(())
    }

    /// The send in flight has not ended for half a timeout or more. The kernel reports room only
    /// when a third of the socket's buffer is free, so a slow peer's progress is seen in what it
    /// acknowledges. Without any since we last looked, the send is cancelled at the deadline: how
    /// far it came, and so whether it was fast enough, is what its last completion tells. (So it is
    /// seen even if the socket is as full again as it was: then some of this very send is in it.)
    fn look_at_send(&mut self, limits: &Bounds) {
        let unacknowledged = self.stream.unacknowledged().unwrap_or(u32::MAX);
        if unacknowledged < self.unacknowledged {
            self.send_pace.moved(0, peer_now_ms());
        }
        self.unacknowledged = unacknowledged;
        self.move_send_deadline(limits);
        if peer_now_ms() >= self.send_deadline_ms {
            self.stream.cancel_send();
            self.send_deadline_ms = NEVER_MS;
        }
    }

    /// Sets the time to look at the send in flight: half a timeout from now, or the deadline.
    fn move_send_deadline(&mut self, limits: &Bounds) {
        let rate = limits.bytes_per_second_min;
        let deadline_ms = self.send_pace.deadline_ms(limits.write_timeout_ms, rate);
        self.send_deadline_ms = deadline_ms.min(peer_after_ms(limits.write_timeout_ms / 2));
    }
}

/// Why a send failed; none if it was only cancelled.
fn fault(error: &io::Error) -> Option<CloseReason> {
    match error.raw_os_error() {
        Some(libc::ECANCELED) => None,
        // What was to be sent of a file cannot be had.
        Some(libc::EIO) | None => Some(CloseReason::ServiceFailed),
        Some(_) => Some(CloseReason::Reset),
    }
}
