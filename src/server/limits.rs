//! Every bound there is, with its default and its reason.

use crate::http::h1;

/// What a server lets its clients do. All limits are on by default; a time of `u64::MAX` is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A request's head must be there this long after the connection was accepted, or after the
    /// first byte of a later request, in ms: the whole head, so that a byte now and then does
    /// not hold a connection (slowloris).
    pub head_timeout_ms: u64,
    /// A request's body may make no progress for this long, in ms.
    pub body_timeout_ms: u64,
    /// An answer may make no progress for this long, in ms: the peer acknowledges nothing, and the
    /// socket's buffer takes nothing. It is looked at twice in that time, so who stops is cut a
    /// little later.
    pub write_timeout_ms: u64,
    /// A connection may be idle between two requests for this long, in ms. The default exceeds
    /// the 60 s of common load balancers, so that they are the ones to close.
    pub idle_timeout_ms: u64,
    /// Bodies and answers must move at least so fast on average, in bytes per second, after a
    /// grace of one timeout; 0: no such limit. Of an answer, what the socket's buffer has taken
    /// counts, which may be some megabytes more than the peer has seen.
    pub bytes_per_second_min: u64,
    /// A request's head, in bytes. At least [`Limits::HEAD_BYTES_MIN`].
    pub head_bytes_max: u16,
    /// A request's target, in bytes; at least 1.
    pub target_bytes_max: u16,
    /// Field lines of a head, 1 to 256.
    pub fields_max: u16,
    /// A request's body, in bytes; 0: no limit.
    pub body_bytes_max: u64,
    /// Connections of the whole process; 0: as many as the limit of open files allows, which bounds
    /// any other number, too: all but its last 96 descriptors (three eighths of a limit below 256),
    /// as it is when the server starts. A file that is being sent takes a descriptor as well. Of
    /// the connections beyond the limit, 32 at a time are answered 503; the others are closed.
    pub connections_max: usize,
    /// Memory of one worker for received bytes, wherever they are by then (in the connection, in
    /// the service, on their way back), for heads of answers and for the state of running
    /// exchanges, in bytes. At least [`Limits::RECEIVE_MEMORY_MIN`].
    ///
    /// At the bound nothing is received ahead of its reader, and an answer that sends a body on
    /// receives its next 4 KiB only when its client has taken everything before them. So TCP slows
    /// down the clients that do not read, and the others make progress. Beyond the bound, each
    /// connection may need up to 20 KiB for its running exchange. Not counted: a head longer than
    /// 4 KiB, which is kept in one piece, up to [`Limits::head_bytes_max`] for each connection (if
    /// unfinished heads waited for memory, they could wait for one another); and the bytes that a
    /// service copies.
    pub receive_memory_max: usize,
    /// What runs when a drain begins may go on for this long, in ms.
    pub drain_timeout_ms: u64,
    /// What a half-close of the client does to its call.
    pub half_close: HalfClose,
}

/// What a client's half-close (FIN) does to a call whose answer is not yet complete. A reset always
/// ends the call: the service's future, or the body of its answer, is dropped.
///
/// A client that closes its socket sends the same FIN as one that only says that it has no further
/// requests. It answers with a reset when something is sent to it, so a service that waits for long
/// before its first byte does not learn that its client is gone, unless a half-close tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HalfClose {
    /// The call goes on, and its answer is sent: some clients end their side as soon as they have
    /// sent a request (`nc -N`, scripts).
    #[default]
    Serve,
    /// The call ends, and the connection with it once the answers to earlier requests are sent: for
    /// services that wait for long (long polls, event streams), where an absent client is more
    /// likely than one that half-closes.
    End,
}

impl Default for Limits {
    fn default() -> Self {
        let h1 = h1::Limits::default();
        Self {
            head_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
            idle_timeout_ms: 75_000,
            bytes_per_second_min: 240,
            head_bytes_max: h1.head_bytes_max,
            target_bytes_max: h1.target_bytes_max,
            fields_max: h1.fields_max,
            body_bytes_max: h1.body_bytes_max,
            connections_max: 0,
            receive_memory_max: 256 << 20,
            drain_timeout_ms: 30_000,
            half_close: HalfClose::Serve,
        }
    }
}

impl Limits {
    /// The least [`Limits::receive_memory_max`], in bytes: a full ring of provided buffers, and as
    /// much again.
    pub const RECEIVE_MEMORY_MIN: usize = 2 << 20;

    /// The least [`Limits::head_bytes_max`], in bytes: the shortest head there is, that of
    /// `GET / HTTP/1.0` without fields.
    pub const HEAD_BYTES_MIN: u16 = 18;

    /// Checks each limit that has invalid values. The error names the field and the cure.
    pub(super) fn check(&self) -> Result<(), String> {
        let times = [
            ("head_timeout_ms", self.head_timeout_ms),
            ("body_timeout_ms", self.body_timeout_ms),
            ("write_timeout_ms", self.write_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
        ];
        if let Some((name, _)) = times.iter().find(|(_, time_ms)| *time_ms == 0) {
            return Err(format!(
                "{name} is 0, which would close every connection; raise it"
            ));
        }
        let sizes = [
            (
                "head_bytes_max",
                usize::from(self.head_bytes_max),
                usize::from(Self::HEAD_BYTES_MIN),
            ),
            ("target_bytes_max", usize::from(self.target_bytes_max), 1),
            ("fields_max", usize::from(self.fields_max), 1),
            (
                "receive_memory_max",
                self.receive_memory_max,
                Self::RECEIVE_MEMORY_MIN,
            ),
        ];
        if let Some((name, value, least)) = sizes.iter().find(|(_, value, least)| value < least) {
            return Err(format!(
                "{name} is {value}, which is too little; raise it to {least} at least"
            ));
        }
        if usize::from(self.fields_max) > h1::FIELDS_MAX {
            return Err(format!(
                "fields_max is {}, which is too much; lower it to {} at most",
                self.fields_max,
                h1::FIELDS_MAX
            ));
        }
        Ok(())
    }

    /// Those of them that concern the protocol.
    pub(super) fn h1(&self) -> h1::Limits {
        h1::Limits {
            head_bytes_max: self.head_bytes_max,
            target_bytes_max: self.target_bytes_max,
            fields_max: self.fields_max,
            body_bytes_max: self.body_bytes_max,
        }
    }
}

/// The progress of one transfer: it must move within each timeout, and not too slowly on average.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    started_ms: u64,
    moved_ms: u64,
    bytes: u64,
}

impl Pace {
    pub(super) fn start(now_ms: u64) -> Self {
        Self {
            started_ms: now_ms,
            moved_ms: now_ms,
            bytes: 0,
        }
    }

    /// So many bytes have moved.
    pub(super) fn moved(&mut self, bytes: u32, now_ms: u64) {
        self.bytes = self.bytes.saturating_add(u64::from(bytes));
        self.moved_ms = now_ms;
    }

    /// For `pause_ms` nothing was asked for: that time does not count.
    pub(super) fn paused(&mut self, pause_ms: u64) {
        self.started_ms = self.started_ms.saturating_add(pause_ms);
        self.moved_ms = self.moved_ms.saturating_add(pause_ms);
    }

    /// When the transfer fails if nothing moves until then, in ms.
    #[inline]
    pub(super) fn deadline_ms(&self, timeout_ms: u64, bytes_per_second_min: u64) -> u64 {
        let stalled_ms = self.moved_ms.saturating_add(timeout_ms);
        match self
            .bytes
            .saturating_mul(1000)
            .checked_div(bytes_per_second_min)
        {
            Some(earned_ms) => {
                let grace_ms = self.started_ms.saturating_add(timeout_ms);
                stalled_ms.min(grace_ms.saturating_add(earned_ms))
            }
            None => stalled_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_must_move_and_not_only_trickle() {
        let mut pace = Pace::start(1000);
        assert_eq!(pace.deadline_ms(30_000, 240), 31_000);
        pace.moved(1_000_000, 2000);
        assert_eq!(
            pace.deadline_ms(30_000, 240),
            32_000,
            "a fast one may then stall"
        );
        let mut trickle = Pace::start(0);
        let mut now_ms = 0;
        while trickle.deadline_ms(30_000, 240) > now_ms + 10_000 {
            now_ms += 10_000;
            trickle.moved(100, now_ms);
        }
        assert!(now_ms < 60_000, "ten bytes a second are too few");
        assert_eq!(trickle.deadline_ms(30_000, 0), now_ms + 30_000);
    }

    #[test]
    fn a_pause_is_not_held_against_a_transfer() {
        let mut pace = Pace::start(1000);
        pace.moved(2400, 2000);
        pace.paused(50_000);
        assert_eq!(pace.deadline_ms(30_000, 240), 82_000);
        pace.moved(0, 80_000);
        assert_eq!(pace.deadline_ms(30_000, 240), 91_000, "earned: ten seconds");
    }

    #[test]
    fn a_limit_may_be_as_large_as_a_number() {
        let mut pace = Pace::start(1000);
        assert_eq!(pace.deadline_ms(u64::MAX, 240), u64::MAX);
        pace.bytes = u64::MAX;
        assert_eq!(pace.deadline_ms(u64::MAX, 1), u64::MAX);
        assert_eq!(pace.deadline_ms(30_000, u64::MAX), 31_000);
    }
}
