//! The limits of a client, with their defaults and the reasons for them.

use std::rc::Rc;
use std::time::Duration;

use crate::http::h1;
use crate::net::SendLimits;
use crate::rt::{ceil_ms, peer_after_ms};

/// The limits that a client holds its servers to, and those of the connections that it keeps.
///
/// `None` means no limit. Times have a resolution of 1 ms. New fields may be added, so start from
/// the default:
///
/// ```
/// use std::time::Duration;
///
/// use coring::client::Limits;
///
/// let mut limits = Limits::default();
/// limits.head_timeout = Some(Duration::from_secs(5));
/// limits.idle_per_host_max = 8;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The time to resolve a name and to connect. Default: 10 s.
    pub connect_timeout: Option<Duration>,
    /// The time from the end of the request to the end of the response's head. Interim responses
    /// do not extend it. Default: 30 s.
    pub head_timeout: Option<Duration>,
    /// How long a body may make no progress: the server accepts nothing of the request's, or sends
    /// nothing of the response's while that is read. Default: 30 s.
    pub body_timeout: Option<Duration>,
    /// The time for the whole exchange, from the call of
    /// [`Client::send`](super::Client::send) to the end of the response's body. Default: `None`,
    /// because a stream of events may last for days.
    pub total_timeout: Option<Duration>,
    /// How long a request with `Expect: 100-continue` waits for the server before it sends its body
    /// (RFC 9110 §10.1.1). Default: 1 s.
    pub continue_timeout: Duration,
    /// How long a connection is kept without a request. Default: 15 s. A longer time than the
    /// server's makes requests meet a close, and be sent again.
    pub idle_timeout: Duration,
    /// The most connections that are kept for one host and port. Default: 64.
    pub idle_per_host_max: usize,
    /// The most connections that are kept for all hosts together. Default: 256.
    pub idle_max: usize,
    /// The longest head of a response in bytes, and the longest trailer section. Default: 32 KiB.
    pub head_bytes_max: u16,
    /// The most field lines of a head, and of a trailer section; never more than 256. Default: 256.
    pub fields_max: u16,
    /// The largest body of a response. Default: `None`, because a body is read part by part, and
    /// [`Body::read`](crate::Body::read) has a limit of its own.
    pub body_bytes_max: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        Self {
            connect_timeout: seconds(10),
            head_timeout: seconds(30),
            body_timeout: seconds(30),
            total_timeout: None,
            continue_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(15),
            idle_per_host_max: 64,
            idle_max: 256,
            head_bytes_max: 32 << 10,
            fields_max: 256,
            body_bytes_max: None,
        }
    }
}

/// [`Limits`] in the form in which they are used. Times are in ms; `u64::MAX` means no limit.
#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) connect_timeout: Duration,
    pub(super) head_timeout_ms: u64,
    pub(super) body_timeout_ms: u64,
    total_timeout_ms: u64,
    pub(super) continue_timeout_ms: u64,
    pub(super) idle_timeout_ms: u64,
    pub(super) idle_per_host_max: usize,
    pub(super) idle_max: usize,
    pub(super) h1: h1::MessageLimits,
    pub(super) send: Rc<SendLimits>,
}

impl Bounds {
    pub(super) fn new(limits: Limits) -> Self {
        let ms = |time: Option<Duration>| time.map_or(u64::MAX, ceil_ms);
        let body_timeout_ms = ms(limits.body_timeout);
        Self {
            connect_timeout: limits.connect_timeout.unwrap_or(Duration::MAX),
            // At least 1: a deadline that is moved must be in the future.
            head_timeout_ms: ms(limits.head_timeout).max(1),
            body_timeout_ms,
            total_timeout_ms: ms(limits.total_timeout),
            continue_timeout_ms: ceil_ms(limits.continue_timeout),
            idle_timeout_ms: ceil_ms(limits.idle_timeout),
            idle_per_host_max: limits.idle_per_host_max,
            idle_max: limits.idle_max,
            h1: h1::MessageLimits {
                head_bytes_max: limits.head_bytes_max,
                target_bytes_max: u16::MAX,
                fields_max: limits.fields_max,
                body_bytes_max: limits.body_bytes_max.unwrap_or(u64::MAX),
            },
            send: Rc::new(SendLimits::new(body_timeout_ms, 0)),
        }
    }

    /// When an exchange that begins now must have ended, on the peer clock.
    pub(super) fn total_deadline_ms(&self) -> u64 {
        peer_after_ms(self.total_timeout_ms)
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}
