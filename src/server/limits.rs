//! The limits of a server, with their defaults and the reasons for them.

use std::time::Duration;

use crate::buf::BLOCK_BYTES;
use crate::http::h1;
use crate::net::SendLimits;
use crate::rt::ceil_ms;

/// The limits that a server holds its clients to.
///
/// `None` means no limit. Zero means zero: a `drain_timeout` of zero waits for nothing, and a
/// `body_bytes_max` of zero refuses every body. A server does not start with a zero that would
/// refuse everything; the error names the field. New fields may be added, so start from the
/// default:
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
    /// The time for a whole request head, from accept or from the first byte of a later request. A
    /// client cannot extend it by sending a byte now and then (slowloris). Default: 10 s.
    pub head_timeout: Option<Duration>,
    /// How long a request's body may make no progress while the service reads it. Default: 30 s.
    pub body_timeout: Option<Duration>,
    /// How long a response may make no progress: the peer acknowledges nothing, and the socket
    /// buffer takes nothing. The server checks twice in that time, so it closes a connection that
    /// stalls a little later. Default: 30 s.
    pub write_timeout: Option<Duration>,
    /// How long a connection may be idle between two requests. Default: 75 s, more than the 60 s of
    /// common load balancers, so that they close first.
    pub idle_timeout: Option<Duration>,
    /// The minimum average rate of request and response bodies, in bytes per second, after a grace
    /// of one timeout. For responses, bytes that the socket buffer has accepted count, which may be
    /// several megabytes ahead of what the peer has received. Default: 240.
    pub bytes_per_second_min: Option<u64>,
    /// The longest request head, in bytes, at least [`Limits::HEAD_BYTES_MIN`]. A longer one gets a
    /// 431. Default: 16 KiB.
    pub head_bytes_max: u16,
    /// The longest request target, in bytes, at least 1. A longer one gets a 414. Default: 8 KiB.
    pub target_bytes_max: u16,
    /// The most field lines of a request head, 1 to 256. More get a 431. Default: 100.
    pub fields_max: u16,
    /// The largest request body, in bytes. A larger one gets a 413. Default: 16 MiB.
    pub body_bytes_max: Option<u64>,
    /// The most open connections of the whole process, at least 1. Default: `None`.
    ///
    /// The limit of open files, read when the server starts, bounds the connections, too: 96
    /// descriptors are reserved (three eighths of a limit below 256). A file that is being sent
    /// also takes a descriptor. Of the connections beyond the limit, up to 32 at a time get a 503;
    /// the others are closed.
    pub connections_max: Option<usize>,
    /// The memory of one worker, in bytes, for received data until it is consumed or sent on, for
    /// response heads, and for the state of running exchanges. At least
    /// [`Limits::RECEIVE_MEMORY_MIN`]. Default: 256 MiB.
    ///
    /// At the limit, a connection receives nothing before its reader asks for it. A response that
    /// sends a request's body back receives the next 4 KiB only when its client has taken all that
    /// was sent. So TCP slows down the clients that do not read, and the others make progress.
    ///
    /// Beyond the limit, each connection may need up to 20 KiB for its running exchange. Two things
    /// are not counted: bytes that a service copies, and heads of more than 4 KiB, up to
    /// [`Limits::head_bytes_max`] for each connection. Such a head is kept in one piece; incomplete
    /// heads that waited for memory could wait for one another.
    pub receive_memory_max: Option<usize>,
    /// How long running requests may continue after a drain has closed the idle connections; zero
    /// aborts them then. Default: 30 s.
    pub drain_timeout: Option<Duration>,
    /// Whether a half-close by the client ends its request. Default: the request is answered.
    pub half_close: HalfClose,
}

/// What happens to a request if its client half-closes the connection (FIN) before the response is
/// complete. A reset always ends the request: the service's future, or the response's body, is
/// dropped.
///
/// A client that closes its socket sends the same FIN as a client that only has no further
/// requests. The server gets a reset when it sends something to a closed socket. So a service that
/// waits for long before its first byte does not notice that its client is gone, unless a
/// half-close ends the request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HalfClose {
    /// The request is answered. Some clients half-close the connection as soon as they have sent a
    /// request (`nc -N`, scripts).
    #[default]
    Serve,
    /// The request ends, and the connection once the responses to earlier requests are sent. For
    /// services that wait for long (long polls, event streams): their client is more likely gone
    /// than half-closed.
    End,
}

impl Default for Limits {
    fn default() -> Self {
        let h1 = h1::MessageLimits::default();
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
    /// The longest method, in bytes. A longer one gets a 501.
    pub const METHOD_BYTES_MAX: usize = h1::MessageLimits::METHOD_BYTES_MAX;

    /// How many bytes of chunk extensions, and of zeros before chunk sizes, a request's body may
    /// always have. Above that, it may have three of them for each byte of content, and more get a
    /// 400.
    pub const FRAMING_BYTES_FREE: u32 = h1::MessageLimits::FRAMING_BYTES_FREE;

    /// The most bytes of a request's body that the server receives and drops if the service does
    /// not read them. If more follow, the connection ends after the response.
    pub const DISCARD_BYTES_MAX: u32 = 64 << 10;

    /// After the last response of a connection: the most bytes that are received from a client that
    /// is still sending. It may read the response only after it has sent its whole body, which may
    /// have this size by default.
    pub const LINGER_BYTES_MAX: usize = 16 << 20;

    /// After the last response of a connection: how long the client may continue to send.
    pub const LINGER_TIME: Duration = Duration::from_secs(30);

    /// After the last response of a connection: how long the client may pause.
    pub const LINGER_PAUSE: Duration = Duration::from_secs(2);

    /// The minimum of [`Limits::receive_memory_max`], in bytes: twice the ring of provided buffers.
    pub const RECEIVE_MEMORY_MIN: usize = 2 << 20;

    /// The minimum of [`Limits::head_bytes_max`], in bytes: the length of the shortest head,
    /// `GET / HTTP/1.0` without fields.
    pub const HEAD_BYTES_MIN: u16 = 18;

    /// Checks the limits, and converts them to the form that connections read. The error names the
    /// field and the cure.
    pub(crate) fn bounds(&self) -> Result<Bounds, String> {
        self.check_zeros()?;
        self.check_sizes()?;
        let bytes_per_second_min = self.bytes_per_second_min.unwrap_or(0);
        let ms = |time: Option<Duration>| time.map_or(u64::MAX, ceil_ms);
        Ok(Bounds {
            head_timeout_ms: ms(self.head_timeout),
            body_timeout_ms: ms(self.body_timeout),
            idle_timeout_ms: ms(self.idle_timeout),
            drain_timeout_ms: ms(self.drain_timeout),
            bytes_per_second_min,
            connections_max: self.connections_max.map_or(u64::MAX, |max| max as u64),
            receive_blocks_max: self.receive_memory_max.unwrap_or(usize::MAX) / BLOCK_BYTES,
            h1: h1::MessageLimits {
                head_bytes_max: self.head_bytes_max,
                target_bytes_max: self.target_bytes_max,
                fields_max: self.fields_max,
                body_bytes_max: self.body_bytes_max.unwrap_or(u64::MAX),
            },
            sends: SendLimits::new(ms(self.write_timeout), bytes_per_second_min),
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
            return Err(format!("{name} is {value}; it must be at least {least}"));
        }
        if usize::from(self.fields_max) > h1::FIELDS_MAX {
            return Err(format!(
                "fields_max is {}; it must be at most {}",
                self.fields_max,
                h1::FIELDS_MAX
            ));
        }
        Ok(())
    }
}

/// The checked [`Limits`] as plain numbers, which connections read for every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(super) head_timeout_ms: u64,
    pub(super) body_timeout_ms: u64,
    pub(super) idle_timeout_ms: u64,
    pub(super) drain_timeout_ms: u64,
    /// 0: no minimum.
    pub(super) bytes_per_second_min: u64,
    pub(super) connections_max: u64,
    pub(super) receive_blocks_max: usize,
    /// The limits of the protocol.
    pub(super) h1: h1::MessageLimits,
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
}
