//! Byte ranges (RFC 9110 §14): which bytes of a representation a Range field requests. If-Range is
//! evaluated in `conditional`.
//!
//! Only a single range is supported. A request for several ranges gets the whole representation,
//! which RFC 9110 §14.2 allows: many small ranges of a file cost more than they save, and clients
//! that resume a download or seek request a single range.

use std::fmt;
use std::ops::Range;

use super::field::tokens;

/// The part of a representation to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requested {
    /// All of it: the Range field is malformed or not supported, or there is none.
    Whole,
    /// These bytes; never an empty range.
    Part(Range<u64>),
    /// The representation has none of the requested bytes: respond 416.
    Unsatisfiable,
}

impl Requested {
    /// Evaluates the `value` of a Range field for a representation of `length` bytes.
    #[must_use]
    pub fn of(value: &[u8], length: u64) -> Self {
        match single(value) {
            Some(Spec::From(first)) if first < length => Self::Part(first..length),
            Some(Spec::Within(first, last)) if first < length => {
                Self::Part(first..last.saturating_add(1).min(length))
            }
            // A Content-Range cannot express an empty range: send the whole, which is empty.
            Some(Spec::Last(count)) if count > 0 && length == 0 => Self::Whole,
            Some(Spec::Last(count)) if count > 0 => {
                Self::Part(length.saturating_sub(count)..length)
            }
            Some(_) => Self::Unsatisfiable,
            None => Self::Whole,
        }
    }
}

/// The value of a Content-Range field (RFC 9110 §14.4).
#[derive(Clone, Debug)]
pub struct ContentRange {
    /// The bytes in the response; `None` if its status is 416.
    pub part: Option<Range<u64>>,
    /// The length of the whole representation in bytes.
    pub length: u64,
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Some(part) => write!(f, "bytes {}-{}/{}", part.start, part.end - 1, self.length),
            None => write!(f, "bytes */{}", self.length),
        }
    }
}

/// A range as it is written in the field.
enum Spec {
    /// `first-`
    From(u64),
    /// `first-last`, both included.
    Within(u64, u64),
    /// `-count`
    Last(u64),
}

/// Parses `value` if it is a single well-formed range in bytes.
fn single(value: &[u8]) -> Option<Spec> {
    let (unit, set) = value.split_at_checked("bytes=".len())?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let mut specs = tokens(set);
    let (spec, None) = (specs.next()?, specs.next()) else {
        return None;
    };
    let dash = spec.iter().position(|&byte| byte == b'-')?;
    match (&spec[..dash], &spec[dash + 1..]) {
        ([], count) => Some(Spec::Last(number(count)?)),
        (first, []) => Some(Spec::From(number(first)?)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::Within(first, last))
        }
    }
}

/// Parses a decimal number. One that does not fit 64 bits becomes `u64::MAX`.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &byte| {
        let digit = char::from(byte).to_digit(10)?;
        Some(number.saturating_mul(10).saturating_add(digit.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::{ContentRange, Requested};

    #[track_caller]
    fn check(value: &str, length: u64, expected: Requested) {
        assert_eq!(
            Requested::of(value.as_bytes(), length),
            expected,
            "{value} of {length}"
        );
    }

    #[test]
    fn a_single_range_is_accepted() {
        for (value, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-99", 0..100),
            ("bytes=10-19", 10..20),
            ("bytes=90-1000", 90..100),
            ("bytes=99-", 99..100),
            ("bytes=0-", 0..100),
            ("bytes=-1", 99..100),
            ("bytes=-100", 0..100),
            ("bytes=-101", 0..100),
            ("BYTES=1-2", 1..3),
            ("bytes= , 1-2 ,", 1..3),
            ("bytes=00000000000000000000000001-02", 1..3),
        ] {
            check(value, 100, Requested::Part(part));
        }
    }

    #[test]
    fn sizes_have_64_bits_and_do_not_overflow() {
        let five_gib = 5 << 30;
        check(
            "bytes=5368709119-",
            five_gib,
            Requested::Part(five_gib - 1..five_gib),
        );
        check(
            "bytes=-4294967297",
            five_gib,
            Requested::Part((1 << 30) - 1..five_gib),
        );
        let most = u64::MAX;
        check(&format!("bytes=1-{most}"), most, Requested::Part(1..most));
        check(&format!("bytes=1-{most}0"), most, Requested::Part(1..most));
        check(&format!("bytes=-{most}0"), 7, Requested::Part(0..7));
        check(&format!("bytes={most}-"), most, Requested::Unsatisfiable);
        check(&format!("bytes={most}9-"), most, Requested::Unsatisfiable);
    }

    #[test]
    fn ranges_without_any_existing_byte_are_unsatisfiable() {
        for value in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            check(value, 100, Requested::Unsatisfiable);
        }
        check("bytes=0-", 0, Requested::Unsatisfiable);
        check("bytes=-0", 0, Requested::Unsatisfiable);
        check("bytes=-5", 0, Requested::Whole);
    }

    #[test]
    fn several_ranges_other_units_and_malformed_ranges_are_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=--1",
            "bytes=1",
            "bytes=a-b",
            "bytes=1-2-3",
            "bytes=0x1-2",
            "bytes=+1-2",
            "bytes=5-4",
            "bytes=1 -2",
            "bytes 1-2",
            "bytes =1-2",
            "items=1-2",
            "bytes=0-1,3-4",
            "bytes=0-0,-1",
            "bytes=1-2, bytes=3-4",
            "bytes=\u{e9}-",
        ] {
            check(value, 100, Requested::Whole);
        }
    }

    #[test]
    fn content_ranges_are_formatted() {
        let range = |part, length| ContentRange { part, length }.to_string();
        assert_eq!(range(Some(0..1), 100), "bytes 0-0/100");
        assert_eq!(
            range(Some(1..u64::MAX), u64::MAX),
            format!("bytes 1-{}/{}", u64::MAX - 1, u64::MAX)
        );
        assert_eq!(range(None, 0), "bytes */0");
    }
}
