//! The two deadlines of a transport, and the timer that stands at the earlier one.

use std::rc::Rc;
use std::task::Context;

use super::TransportError;
use super::pace::Pace;
use crate::net::Stream;
use crate::rt::{Timer, peer_now_ms};

/// How slow a peer may be to take what is sent.
#[derive(Debug, Clone, Copy)]
pub struct SendLimits {
    timeout_ms: u64,
    /// How long after its start, or the last look at it, a send is looked at.
    look_ms: u64,
    bytes_per_second_min: u64,
}

impl SendLimits {
    /// A send must make progress within each `timeout_ms` (`u64::MAX`: at any time), and move
    /// at `bytes_per_second_min` on average (0: at any rate) after a grace of one timeout.
    pub fn new(timeout_ms: u64, bytes_per_second_min: u64) -> Self {
        Self {
            timeout_ms,
            look_ms: match timeout_ms {
                Deadlines::NEVER_MS => Deadlines::NEVER_MS,
                // The next look is never due at once.
                timeout_ms => (timeout_ms / 2).max(1),
            },
            bytes_per_second_min,
        }
    }
}

/// Until when the peer must have sent something, and taken something. Times are on the clock by
/// which peers are judged.
#[derive(Debug)]
pub(super) struct Deadlines {
    timer: Timer,
    limits: Rc<SendLimits>,
    /// The time by which the awaited bytes of the peer must have come.
    pub(super) recv_ms: u64,
    /// When the send in flight is to be looked at; never if nothing is being sent.
    send_ms: u64,
    pace: Pace,
    /// What the peer had not acknowledged when we last looked, in bytes.
    unacknowledged: u32,
}

impl Deadlines {
    /// A deadline that does not come.
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

    /// Has the caller woken at the earlier deadline. True: the receive is overdue, which the caller
    /// has to tell if it receives; it is woken at the other deadline then.
    pub(super) fn arm(&mut self, stream: &Stream, context: &Context<'_>) -> bool {
        let mut next_ms = self.recv_ms.min(self.send_ms);
        let is_overdue = peer_now_ms() >= next_ms && self.arrive(stream, &mut next_ms);
        self.timer.wake_for_peer(next_ms, context);
        is_overdue
    }

    /// A deadline has come: sets the next one. True: it was the receive's.
    #[cold]
    fn arrive(&mut self, stream: &Stream, next_ms: &mut u64) -> bool {
        let now_ms = peer_now_ms();
        if now_ms >= self.send_ms {
            self.look_at_send(stream, now_ms);
        }
        *next_ms = self.send_ms;
        if now_ms >= self.recv_ms {
            return true;
        }
        *next_ms = self.send_ms.min(self.recv_ms);
        false
    }

    /// A send starts. If it `continues` the one before, their rate is that of both together.
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

    /// Nothing is left to be sent.
    #[inline]
    pub(super) fn nothing_to_send(&mut self) {
        self.send_ms = Self::NEVER_MS;
    }

    /// A send has ended, with so many bytes `sent`. Fails if that was too slow and more follows.
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

    /// The send in flight has not ended for half a timeout or more. The kernel reports room only
    /// when a third of the socket's buffer is free, so a slow peer's progress is seen in what it
    /// acknowledges. Without any since we last looked, the send is cancelled at the deadline: how
    /// far it came, and so whether it was fast enough, is what its last completion tells. (So it is
    /// seen even if the socket is as full again as it was: then some of this very send is in it.)
    fn look_at_send(&mut self, stream: &Stream, now_ms: u64) {
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

    /// Sets the time to look at the send in flight: half a timeout from now, or the deadline.
    #[inline]
    fn move_send_deadline(&mut self, now_ms: u64) {
        let SendLimits {
            timeout_ms,
            look_ms,
            bytes_per_second_min,
        } = *self.limits;
        let deadline_ms = self.pace.deadline_ms(timeout_ms, bytes_per_second_min);
        self.send_ms = deadline_ms.min(now_ms.saturating_add(look_ms));
    }
}
