//! Parsing and formatting of HTTP dates (RFC 9110 §5.6.7). No clock is read: the caller passes the
//! time.

use std::io::Write as _;
use std::time::{Duration, UNIX_EPOCH};

/// Length of an IMF-fixdate in bytes (RFC 9110 §5.6.7).
pub const DATE_LEN: usize = 29;

/// The last second of the year 9999: an IMF-fixdate has a four-digit year.
const LAST_SECOND: u64 = 253_402_300_799;

/// Parses a date in any of the three formats (IMF-fixdate, RFC 850, asctime) to seconds since the
/// Unix epoch. `None` if the date is invalid or before the epoch.
#[must_use]
pub fn parse(value: &[u8]) -> Option<u64> {
    let time = httpdate::parse_http_date(str::from_utf8(value).ok()?).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// An IMF-fixdate, cached together with the second that it represents.
#[derive(Clone, Debug)]
pub struct DateCache {
    unix_seconds: u64,
    text: [u8; DATE_LEN],
}

impl DateCache {
    /// A cache that holds the date of the Unix epoch.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            unix_seconds: 0,
            text: *b"Thu, 01 Jan 1970 00:00:00 GMT",
        }
    }

    /// The date at `unix_seconds`, in seconds since the Unix epoch. It is formatted only if the
    /// second has changed. After the year 9999 the result stays at the last second of that year.
    #[inline]
    pub fn at(&mut self, unix_seconds: u64) -> &[u8; DATE_LEN] {
        if unix_seconds != self.unix_seconds {
            self.reformat(unix_seconds);
        }
        &self.text
    }

    #[cold]
    fn reformat(&mut self, unix_seconds: u64) {
        let time = UNIX_EPOCH + Duration::from_secs(unix_seconds.min(LAST_SECOND));
        let written = write!(&mut self.text[..], "{}", httpdate::HttpDate::from(time));
        debug_assert!(written.is_ok(), "an IMF-fixdate has {DATE_LEN} bytes");
        self.unix_seconds = unix_seconds;
    }
}

impl Default for DateCache {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{DateCache, parse};

    #[test]
    fn parses_the_dates_that_it_formats() {
        let mut cache = DateCache::new();
        for second in [0, 784_111_777, 951_782_400, 253_402_300_799] {
            assert_eq!(parse(cache.at(second)), Some(second));
        }
        for text in [
            "",
            "Wed, 31 Dec 1969 23:59:59 GMT",
            "Sun, 06 Nov 1994 08:49:37",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(b"\xff"), None);
    }

    #[test]
    fn formats_as_imf_fixdate() {
        let mut cache = DateCache::new();
        let mut check = |second, expected: &[u8; 29]| assert_eq!(cache.at(second), expected);
        check(0, b"Thu, 01 Jan 1970 00:00:00 GMT");
        check(784_111_777, b"Sun, 06 Nov 1994 08:49:37 GMT");
        check(784_111_777, b"Sun, 06 Nov 1994 08:49:37 GMT");
        check(784_111_778, b"Sun, 06 Nov 1994 08:49:38 GMT");
        check(951_782_400, b"Tue, 29 Feb 2000 00:00:00 GMT");
        check(u64::MAX, b"Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
