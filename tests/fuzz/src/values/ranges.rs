//! The `Range` field of a request, for a representation of a given length.

use coring::parts::range::{ContentRange, Requested};

use crate::input::{Input, exact};

pub(super) fn check(mut input: Input<'_>) {
    let length = input.span();
    let value = exact(input.rest());
    let requested = Requested::of(&value, length);
    let expected = naive(&value, length).unwrap_or(Requested::Whole);
    assert_eq!(requested, expected, "{} of {length}", value.escape_ascii());
    if let Requested::Part(part) = requested {
        assert!(part.start < part.end && part.end <= length);
        let text = format!("bytes {}-{}/{length}", part.start, part.end - 1);
        let part = Some(part);
        assert_eq!(ContentRange { part, length }.to_string(), text);
    }
}

/// Parses the field with string functions. `None` if it is not exactly one range of bytes.
fn naive(value: &[u8], length: u64) -> Option<Requested> {
    let value = str::from_utf8(value).ok()?;
    let (unit, set) = value.split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case("bytes=") {
        return None;
    }
    let trimmed = set.split(',').map(|range| range.trim_matches([' ', '\t']));
    let ranges: Vec<&str> = trimmed.filter(|range| !range.is_empty()).collect();
    let &[range] = &ranges[..] else { return None };
    let from = |first: u64, end: u64| {
        if first < length {
            Requested::Part(first..end.min(length))
        } else {
            Requested::Unsatisfiable
        }
    };
    Some(match range.split_once('-')? {
        ("", last) => match number(last)? {
            0 => Requested::Unsatisfiable,
            _ if length == 0 => Requested::Whole,
            last => Requested::Part(length.saturating_sub(last)..length),
        },
        (first, "") => from(number(first)?, length),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            from(first, last.saturating_add(1))
        }
    })
}

/// A number that consists of digits. A number beyond `u64` counts as `u64::MAX`.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = text.trim_start_matches('0');
    Some(match significant {
        "" => 0,
        digits => digits.parse().unwrap_or(u64::MAX),
    })
}
