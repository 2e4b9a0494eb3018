//! Every bound there is, with its default and its reason.

use std::time::Duration;

use crate::buf::BLOCK_BYTES;
use crate::http::h1;
use crate::net::SendLimits;

/// What a server lets its clients do. All limits are on by default.
///
/// `None` is no limit, in every field that has it. Zero is zero: a drain that waits for nothing, no
/// request bodies. Where zero would leave nothing to serve, the server does not start, and its
/// error says so. More fields may come, so set those that you need on the default:
///
/// ```
/// use std::time::Duration;
///
/// use coring::Limits;
///
/// let mut limits = Limits::default();
/// limits.head_timeout = Some(Duration::from_secs(5));
/// limits.body_bytes_max = None;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// A request's head must be there this long after the connection was accepted, or after the
    /// first byte of a later request: the whole head, so that a byte now and then does not hold a
    /// connection (slowloris). Default: 10 s.
    pub head_timeout: Option<Duration>,
    /// A request's body may make no progress for this long. Default: 30 s.
    pub body_timeout: Option<Duration>,
    /// A response may make no progress for this long: the peer acknowledges nothing, and the
    /// socket's buffer takes nothing. The server checks twice in that time, so a client that stops
    /// is cut a little later. Default: 30 s.
    pub write_timeout: Option<Duration>,
    /// A connection may be idle between two requests for this long. Default: 75 s, which exceeds
    /// the 60 s of common load balancers, so that they are the ones to close.
    pub idle_timeout: Option<Duration>,
    /// Bodies of requests and responses must move at least this fast on average, in bytes per
    /// second, after a grace of one timeout. For responses the bytes count that the socket's buffer
    /// has accepted, which may be some megabytes more than the peer has received. Default: 240.
    pub bytes_per_second_min: Option<u64>,
    /// A request's head, in bytes. At least [`Limits::HEAD_BYTES_MIN`]. Default: 16 KiB.
    pub head_bytes_max: u16,
    /// A request's target, in bytes; at least 1. Default: 8 KiB.
    pub target_bytes_max: u16,
    /// Field lines of a head, 1 to 256. Default: 100.
    pub fields_max: u16,
    /// A request's body, in bytes; with 0 every body that is not empty is refused. Default: 16 MiB.
    pub body_bytes_max: Option<u64>,
    /// Connections of the whole process; at least 1. Default: `None`.
    ///
    /// Any number is bounded by the limit of open files as it is when the server starts: all but
    /// its last 96 descriptors (three eighths of a limit below 256). A file that is being sent
    /// takes a descriptor as well. Of the connections beyond the limit, 32 at a time are answered
    /// 503; the others are closed.
    pub connections_max: Option<usize>,
    /// Memory of one worker for received bytes, wherever they are by then (in the connection, in
    /// the service, on their way back), for heads of responses and for the state of running
    /// exchanges, in bytes. At least [`Limits::RECEIVE_MEMORY_MIN`]. Default: 256 MiB.
    ///
    /// At the bound nothing is received ahead of its reader, and a response that sends a body on
    /// receives its next 4 KiB only when its client has taken everything before them. So TCP slows
    /// down the clients that do not read, and the others make progress. Beyond the bound, each
    /// connection may need up to 20 KiB for its running exchange. Not counted: a head longer than
    /// 4 KiB, which is kept in one piece, up to [`Limits::head_bytes_max`] for each connection (if
    /// unfinished heads waited for memory, they could wait for one another); and the bytes that a
    /// service copies.
    pub receive_memory_max: Option<usize>,
    /// Requests that run when a drain begins may go on for this long; with zero they are cut.
    /// Default: 30 s.
    pub drain_timeout: Option<Duration>,
    /// What a half-close of the client does to its call. Default: it is answered.
    pub half_close: HalfClose,
}

/// What a client's half-close (FIN) does to a call whose answer is not yet complete. A reset always
/// ends the call: the service's future, or the body of its answer, is dropped.
///
/// A client that closes its socket sends the same FIN as one that only says that it has no further
/// requests. It answers with a reset when something is sent to it, so a service that waits for long
/// before its first byte does not learn that its client is gone, unless a half-close tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
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
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        Self {
            head_timeout: seconds(10),
            body_timeout: seconds(30),
            write_timeout: seconds(30),
            idle_timeout: seconds(75),
            bytes_per_second_min: Some(240),
            head_bytes_max: h1.head_bytes_max,
            target_bytes_max: h1.target_bytes_max,
            fields_max: h1.fields_max,
            body_bytes_max: Some(h1.body_bytes_max),
            connections_max: None,
            receive_memory_max: Some(256 << 20),
            drain_timeout: seconds(30),
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

    /// Checks each limit that has invalid values, and makes the form that connections read. The
    /// error names the field and the cure.
    pub(crate) fn bounds(&self) -> Result<Bounds, String> {
        self.check_zeros()?;
        self.check_sizes()?;
        let bytes_per_second_min = self.bytes_per_second_min.unwrap_or(0);
        Ok(Bounds {
            head_timeout_ms: whole_ms(self.head_timeout),
            body_timeout_ms: whole_ms(self.body_timeout),
            idle_timeout_ms: whole_ms(self.idle_timeout),
            drain_timeout_ms: whole_ms(self.drain_timeout),
            bytes_per_second_min,
            connections_max: self.connections_max.map_or(u64::MAX, |max| max as u64),
            receive_blocks_max: self.receive_memory_max.unwrap_or(usize::MAX) / BLOCK_BYTES,
            h1: h1::Limits {
                head_bytes_max: self.head_bytes_max,
                target_bytes_max: self.target_bytes_max,
                fields_max: self.fields_max,
                body_bytes_max: self.body_bytes_max.unwrap_or(u64::MAX),
            },
            sends: SendLimits::new(whole_ms(self.write_timeout), bytes_per_second_min),
            half_close: self.half_close,
        })
    }

    fn check_zeros(&self) -> Result<(), String> {
        let is_zero = |time: Option<Duration>| time == Some(Duration::ZERO);
        let closes_all = "which would close every connection";
        let zeros = [
            ("head_timeout", is_zero(self.head_timeout), closes_all),
            ("body_timeout", is_zero(self.body_timeout), closes_all),
            ("write_timeout", is_zero(self.write_timeout), closes_all),
            ("idle_timeout", is_zero(self.idle_timeout), closes_all),
            (
                "connections_max",
                self.connections_max == Some(0),
                "which would refuse every connection",
            ),
            (
                "bytes_per_second_min",
                self.bytes_per_second_min == Some(0),
                "which limits nothing",
            ),
        ];
        match zeros.iter().find(|(_, is_zero, _)| *is_zero) {
            Some((name, _, effect)) => Err(format!(
                "{name} is 0, {effect}; raise it, or set None for no limit"
            )),
            None => Ok(()),
        }
    }

    fn check_sizes(&self) -> Result<(), String> {
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
                self.receive_memory_max.unwrap_or(usize::MAX),
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
}

/// Whole milliseconds, rounded up. No limit is a time that never comes.
fn whole_ms(time: Option<Duration>) -> u64 {
    time.map_or(u64::MAX, |time| {
        u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
    })
}

/// [`Limits`] that were checked, as plain numbers: what connections read at every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(super) head_timeout_ms: u64,
    pub(super) body_timeout_ms: u64,
    pub(super) idle_timeout_ms: u64,
    pub(super) drain_timeout_ms: u64,
    /// 0: any.
    pub(super) bytes_per_second_min: u64,
    pub(super) connections_max: u64,
    pub(super) receive_blocks_max: usize,
    /// Those that concern the protocol.
    pub(super) h1: h1::Limits,
    pub(super) sends: SendLimits,
    pub(super) half_close: HalfClose,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_no_limit() {
        let limits = Limits {
            head_timeout: None,
            bytes_per_second_min: None,
            body_bytes_max: None,
            receive_memory_max: None,
            ..Limits::default()
        };
        let bounds = limits.bounds().unwrap();
        assert_eq!(bounds.head_timeout_ms, u64::MAX);
        assert_eq!(bounds.bytes_per_second_min, 0);
        assert_eq!(bounds.connections_max, u64::MAX);
        assert_eq!(bounds.h1.body_bytes_max, u64::MAX);
        assert!(bounds.receive_blocks_max > 1 << 40);
    }

    #[test]
    fn times_are_rounded_up_to_milliseconds() {
        for (time, ms) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(1), 1),
            (Duration::from_micros(1001), 2),
            (Duration::MAX, u64::MAX),
        ] {
            assert_eq!(whole_ms(Some(time)), ms, "{time:?}");
        }
    }
}
