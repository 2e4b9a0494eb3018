//! The two deadlines of a transport, and the timer that is armed for the earlier one.

use std::rc::Rc;
use std::task::Context;

use super::TransportError;
use super::pace::Pace;
use crate::net::Stream;
use crate::rt::{Timer, peer_now_ms};

/// How slowly a peer may accept sent bytes.
#[derive(Debug, Clone, Copy)]
pub struct SendLimits {
    timeout_ms: u64,
    /// The time from a send's start, or from its last check, until its next check, in ms.
    check_ms: u64,
    bytes_per_second_min: u64,
}

impl SendLimits {
    /// A send must make progress within each `timeout_ms` (`u64::MAX`: no limit). After a grace
    /// period of one timeout it must average `bytes_per_second_min` (0: no limit).
    pub fn new(timeout_ms: u64, bytes_per_second_min: u64) -> Self {
        Self {
            timeout_ms,
            check_ms: match timeout_ms {
                Deadlines::NEVER_MS => Deadlines::NEVER_MS,
                // At least 1, so that the next check is not due at once.
                timeout_ms => (timeout_ms / 2).max(1),
            },
            bytes_per_second_min,
        }
    }
}

/// When the peer must have sent bytes, and when it must have accepted some. Times are on the peer
/// clock ([`peer_now_ms`]).
#[derive(Debug)]
pub(super) struct Deadlines {
    timer: Timer,
    limits: Rc<SendLimits>,
    /// When the awaited bytes of the peer must have arrived; `NEVER_MS` if none are awaited.
    pub(super) recv_ms: u64,
    /// When the send in flight is checked next; `NEVER_MS` if nothing is being sent.
    send_ms: u64,
    pace: Pace,
    /// The bytes that the peer had not acknowledged at the last check.
    unacknowledged: u32,
}

impl Deadlines {
    /// A deadline that never comes.
    pub(super) const NEVER_MS: u64 = u64::MAX;

    pub(super) fn new(limits: Rc<SendLimits>) -> Self {
        Self {
            timer: Timer::new(),
            limits,
            recv_ms: Self::NEVER_MS,
            send_ms: Self::NEVER_MS,
            pace: Pace::start(0),
            unacknowledged: 0,
        }
    }

    /// Arranges for the caller to be woken at the earlier deadline. Returns true if the receive is
    /// overdue. The caller then reports that if it receives, and is woken only at the send's
    /// deadline.
    pub(super) fn arm(&mut self, stream: &Stream, context: &Context<'_>) -> bool {
        let mut next_ms = self.recv_ms.min(self.send_ms);
        let is_overdue = peer_now_ms() >= next_ms && self.pass(stream, &mut next_ms);
        self.timer.wake_for_peer(next_ms, context);
        is_overdue
    }

    /// A deadline has come: handles it, and sets the next one. Returns whether the receive is
    /// overdue.
    #[cold]
    fn pass(&mut self, stream: &Stream, next_ms: &mut u64) -> bool {
        let now_ms = peer_now_ms();
        if now_ms >= self.send_ms {
            self.check_send(stream, now_ms);
        }
        *next_ms = self.send_ms;
        if now_ms >= self.recv_ms {
            return true;
        }
        *next_ms = self.send_ms.min(self.recv_ms);
        false
    }

    /// Notes the start of a send. If it `continues` the send before it, the two count as one
    /// transfer.
    #[inline(always)]
    pub(super) fn send_started(&mut self, continues: bool) {
        let now_ms = peer_now_ms();
        if self.send_ms == Self::NEVER_MS {
            if continues {
                self.pace.paused_until(now_ms);
            } else {
                self.pace = Pace::start(now_ms);
            }
            self.unacknowledged = 0;
        }
        self.move_send_deadline(now_ms);
    }

    /// Notes that nothing is left to be sent.
    #[inline]
    pub(super) fn nothing_to_send(&mut self) {
        self.send_ms = Self::NEVER_MS;
    }

    /// Notes that a send has ended with `sent` bytes. Fails if that was too slow and more bytes
    /// follow.
    #[inline]
    pub(super) fn sent(&mut self, sent: u32, more_follows: bool) -> Result<(), TransportError> {
        let now_ms = peer_now_ms();
        if sent > 0 {
            self.pace.moved(sent, now_ms);
        }
        if more_follows {
            self.move_send_deadline(now_ms);
            if now_ms >= self.send_ms {
                return Err(TransportError::SendTimeout);
            }
        }
        Ok(())
    }

    /// Checks a send that has been in flight for half a timeout or more. The kernel reports room
    /// only when a third of the socket buffer is free, so the progress of a slow peer shows earlier
    /// in the bytes that it acknowledges. If it acknowledges none, the send is cancelled at the
    /// deadline. The last completion of the send then says how many bytes were sent, and so whether
    /// the peer was fast enough. (This also counts bytes that refilled the socket buffer, where the
    /// number of unacknowledged bytes shows no progress.)
    fn check_send(&mut self, stream: &Stream, now_ms: u64) {
        let unacknowledged = stream.unacknowledged().unwrap_or(u32::MAX);
        if unacknowledged < self.unacknowledged {
            self.pace.moved(0, now_ms);
        }
        self.unacknowledged = unacknowledged;
        self.move_send_deadline(now_ms);
        if now_ms >= self.send_ms {
            stream.cancel_send();
            self.send_ms = Self::NEVER_MS;
        }
    }

    /// Schedules the next check of the send in flight: after half a timeout, or at the deadline if
    /// that is earlier.
    #[inline]
    fn move_send_deadline(&mut self, now_ms: u64) {
        let SendLimits {
            timeout_ms,
            check_ms,
            bytes_per_second_min,
        } = *self.limits;
        let deadline_ms = self.pace.deadline_ms(timeout_ms, bytes_per_second_min);
        self.send_ms = deadline_ms.min(now_ms.saturating_add(check_ms));
    }
}
