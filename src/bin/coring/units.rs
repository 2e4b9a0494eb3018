//! Times, sizes and numbers in the form that flags have: `500ms`, `2m`, `16k`, `4`. It does not
//! know which flags.

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::str::FromStr;

/// The time of a flag, in milliseconds. A parsed one is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Duration(pub(crate) u64);

/// The size of a flag, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl From<std::time::Duration> for Duration {
    fn from(time: std::time::Duration) -> Self {
        Self(time.as_millis().try_into().unwrap_or(u64::MAX))
    }
}

impl From<Duration> for std::time::Duration {
    fn from(time: Duration) -> Self {
        Self::from_millis(time.0)
    }
}

impl Duration {
    /// Parses a time of a flag where 0 means that there is no limit.
    ///
    /// # Errors
    /// If it is no time, or too long.
    pub(crate) fn unless_zero(text: &str) -> Result<Option<Self>, String> {
        match scaled(text, DURATION_UNITS, 1000) {
            Some(0) => Ok(None),
            Some(ms) if ms <= DURATION_MAX_MS => Ok(Some(Self(ms))),
            Some(_) => Err("must be at most a year (8760h)".to_owned()),
            None => Err("expected a time such as 500ms, 10s, 2m, 1h or 10 (seconds)".to_owned()),
        }
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::unless_zero(text)?.ok_or_else(|| {
            "must not be 0; to disable a limit, give a long time such as 24h".to_owned()
        })
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        scaled(text, SIZE_UNITS, 1).map(Self).ok_or_else(|| {
            "expected a number of bytes such as 4096, 16k, 16m or 1g (binary units)".to_owned()
        })
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Seconds below two minutes. Above, minutes or hours if the time is a whole number of them.
        match self.0 {
            ms if !ms.is_multiple_of(1000) => write!(f, "{ms}ms"),
            ms if ms < 120_000 || !ms.is_multiple_of(60_000) => write!(f, "{}s", ms / 1000),
            ms if !ms.is_multiple_of(3_600_000) => write!(f, "{}m", ms / 60_000),
            ms => write!(f, "{}h", ms / 3_600_000),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_UNITS
            .iter()
            .rev()
            .find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes));
        match unit {
            Some((name, bytes)) => write!(f, "{}{name}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

/// The units with their factors, from small to large.
type Units = &'static [(&'static str, u64)];

const DURATION_UNITS: Units = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
const SIZE_UNITS: Units = &[("k", 1 << 10), ("m", 1 << 20), ("g", 1 << 30)];
const DURATION_MAX_MS: u64 = 365 * 24 * 3_600_000;

/// A parser of whole numbers in `range`, for clap.
pub(crate) fn number<T>(
    range: impl RangeBounds<T> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + fmt::Display,
{
    move |text| {
        let parsed = text.parse().ok();
        let is_too_large =
            parsed.is_none() && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = parsed.filter(|number| range.contains(number));
        number.ok_or_else(|| match (range.start_bound(), range.end_bound()) {
            (Bound::Included(least), Bound::Included(most)) => {
                format!("expected a whole number from {least} to {most}")
            }
            (Bound::Included(least), _) if !is_too_large => {
                format!("expected a whole number, {least} or more")
            }
            _ => "the number is too large".to_owned(),
        })
    }
}

/// Parses a whole number with a unit. `bare` is the factor of a number without a unit.
fn scaled(text: &str, units: Units, bare: u64) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let worth = match unit {
        "" => bare,
        _ => {
            units
                .iter()
                .find(|(name, _)| unit.eq_ignore_ascii_case(name))?
                .1
        }
    };
    number.parse::<u64>().ok()?.checked_mul(worth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        let check = |text: &str, ms, written| {
            let read: Duration = text.parse().expect(text);
            assert_eq!((read.0, read.to_string().as_str()), (ms, written), "{text}");
        };
        check("500ms", 500, "500ms");
        check("10s", 10_000, "10s");
        check("10", 10_000, "10s");
        check("75S", 75_000, "75s");
        check("1500ms", 1500, "1500ms");
        check("2m", 120_000, "2m");
        check("90s", 90_000, "90s");
        check("60m", 3_600_000, "1h");
        check("8760h", DURATION_MAX_MS, "8760h");
    }

    #[test]
    fn durations_are_refused() {
        let overflow = format!("{}h", u64::MAX);
        let check = |text: &str, why| {
            let error = text.parse::<Duration>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        };
        for text in ["0", "0ms", "0h"] {
            check(text, "must not be 0");
        }
        check("8761h", "a year");
        for text in [
            "", "s", "-1s", "1.5s", "10 s", "10d", "ten", "+5", &overflow,
        ] {
            check(text, "expected a time");
        }
    }

    #[test]
    fn sizes_are_read_and_written() {
        let check = |text: &str, bytes, written| {
            let read: Size = text.parse().expect(text);
            assert_eq!(
                (read.0, read.to_string().as_str()),
                (bytes, written),
                "{text}"
            );
        };
        check("0", 0, "0");
        check("240", 240, "240");
        check("4096", 4096, "4k");
        check("16k", 16 << 10, "16k");
        check("16M", 16 << 20, "16m");
        check("3g", 3 << 30, "3g");
        check("1025k", 1025 << 10, "1025k");
    }

    #[test]
    fn sizes_are_refused() {
        let overflow = format!("{}g", u64::MAX);
        for text in ["", "k", "-1", "1.5m", "16 k", "16kb", "1t", &overflow] {
            let error = text.parse::<Size>().expect_err(text);
            assert!(error.contains("number of bytes"), "{text}: {error}");
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_explained() {
        let check = |parsed: Result<u32, String>, expected: Result<u32, &str>| {
            assert_eq!(
                parsed.as_ref().map_err(String::as_str),
                expected.as_ref().map_err(|e| *e)
            );
        };
        check(number(1..)("7"), Ok(7));
        check(number(0..)("0"), Ok(0));
        for text in ["0", "x", "", "-1", "1.5"] {
            check(number(1..)(text), Err("expected a whole number, 1 or more"));
        }
        check(number(1..)("4294967296"), Err("the number is too large"));
        for text in ["0", "257", "x", "99999999999"] {
            check(
                number(1..=256)(text),
                Err("expected a whole number from 1 to 256"),
            );
        }
    }
}
