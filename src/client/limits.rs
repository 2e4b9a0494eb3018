//! The limits of a client, with their defaults and the reasons for them.

use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use super::error::Error;
use crate::http::h1;
use crate::net::SendLimits;
use crate::rt::{ceil_ms, peer_after_ms};

/// The limits that a client holds its servers to, and those of the connections that it keeps.
///
/// `None` means no limit. Times have a resolution of 1 ms. Limits within which no request could
/// succeed are an error, which names the field. New fields may be added, so start from the default:
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
    /// The longest head of a response in bytes, at least [`Limits::HEAD_BYTES_MIN`], and the
    /// longest trailer section. Default: 32 KiB.
    pub head_bytes_max: u16,
    /// The most field lines of a head, and of a trailer section, 1 to 256. Default: 256.
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

impl Limits {
    /// The minimum of [`Limits::head_bytes_max`], in bytes: the length of the shortest head, a
    /// status line without a reason phrase or fields.
    pub const HEAD_BYTES_MIN: u16 = 17;

    /// Checks the limits, and converts them to the form in which they are used.
    pub(super) fn bounds(self) -> Result<Bounds, Error> {
        self.check().map_err(Error::InvalidLimits)?;
        let ms = |time: Option<Duration>| time.map_or(u64::MAX, ceil_ms);
        let body_timeout_ms = ms(self.body_timeout);
        Ok(Bounds {
            connect_timeout: self.connect_timeout.unwrap_or(Duration::MAX),
            head_timeout_ms: ms(self.head_timeout),
            body_timeout_ms,
            total_timeout_ms: ms(self.total_timeout),
            continue_timeout_ms: ceil_ms(self.continue_timeout),
            idle_timeout_ms: ceil_ms(self.idle_timeout),
            idle_per_host_max: self.idle_per_host_max,
            idle_max: self.idle_max,
            h1: h1::MessageLimits {
                head_bytes_max: self.head_bytes_max,
                target_bytes_max: u16::MAX,
                fields_max: self.fields_max,
                body_bytes_max: self.body_bytes_max.unwrap_or(u64::MAX),
            },
            send: Rc::new(SendLimits::new(body_timeout_ms, 0)),
        })
    }

    fn check(&self) -> Result<(), String> {
        let times = [
            ("connect_timeout", self.connect_timeout),
            ("head_timeout", self.head_timeout),
            ("body_timeout", self.body_timeout),
            ("total_timeout", self.total_timeout),
        ];
        let is_zero = |time: Option<Duration>| time == Some(Duration::ZERO);
        if let Some((name, _)) = times.iter().find(|(_, time)| is_zero(*time)) {
            return Err(format!(
                "{name} is 0, with which every request would fail; raise it, or set None for no \
                 limit"
            ));
        }
        let (least, most) = (usize::from(Self::HEAD_BYTES_MIN), usize::from(u16::MAX));
        let sizes = [
            ("head_bytes_max", self.head_bytes_max, least..=most),
            ("fields_max", self.fields_max, 1..=h1::FIELDS_MAX),
        ];
        let is_outside = |(_, value, range): &&(_, u16, RangeInclusive<usize>)| {
            !range.contains(&usize::from(*value))
        };
        match sizes.iter().find(is_outside) {
            Some((name, value, range)) => Err(format!(
                "{name} is {value}; it must be from {} to {}",
                range.start(),
                range.end()
            )),
            None => Ok(()),
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
    /// When an exchange that begins now must have ended, on the peer clock.
    pub(super) fn total_deadline_ms(&self) -> u64 {
        peer_after_ms(self.total_timeout_ms)
    }
}

impl Default for Bounds {
    fn default() -> Self {
        let limits = Limits::default();
        limits.bounds().expect("the defaults are valid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_within_which_no_request_could_succeed_are_refused() {
        let zero = Some(Duration::ZERO);
        let changes: [fn(&mut Limits, Option<Duration>); 4] = [
            |limits, time| limits.connect_timeout = time,
            |limits, time| limits.head_timeout = time,
            |limits, time| limits.body_timeout = time,
            |limits, time| limits.total_timeout = time,
        ];
        for (change, name) in changes.iter().zip(["connect", "head", "body", "total"]) {
            let mut limits = Limits::default();
            for time in [Some(Duration::from_nanos(1)), None] {
                change(&mut limits, time);
                assert!(limits.clone().bounds().is_ok(), "{name}");
            }
            change(&mut limits, zero);
            let error = limits.bounds().expect_err(name).to_string();
            let expected = format!("invalid limits: {name}_timeout is 0, with");
            assert!(error.starts_with(&expected), "{error}");
        }
        for (head_bytes_max, fields_max, expected) in [
            (17, 1, None),
            (u16::MAX, 256, None),
            (
                0,
                1,
                Some("head_bytes_max is 0; it must be from 17 to 65535"),
            ),
            (
                16,
                1,
                Some("head_bytes_max is 16; it must be from 17 to 65535"),
            ),
            (17, 0, Some("fields_max is 0; it must be from 1 to 256")),
            (17, 257, Some("fields_max is 257; it must be from 1 to 256")),
        ] {
            let limits = Limits {
                head_bytes_max,
                fields_max,
                ..Limits::default()
            };
            let error = limits.bounds().err().map(|error| error.to_string());
            let expected = expected.map(|text| format!("invalid limits: {text}"));
            assert_eq!(error, expected);
        }
    }
}
