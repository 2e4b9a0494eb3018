//! Dates: a parsed date can be written and parsed again, with the same result.

use coring::parts::date::{DateCache, parse};

/// The last second of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

pub(super) fn check(bytes: &[u8]) {
    if let Some(second) = parse(bytes) {
        round_trip(second);
    }
    if let Some(number) = bytes.first_chunk() {
        let number = u64::from_le_bytes(*number);
        for shift in [0, 16, 24, 30] {
            round_trip(number >> shift);
        }
    }
}

fn round_trip(second: u64) {
    let mut cache = DateCache::new();
    let text = *cache.at(second);
    assert_eq!(parse(&text), Some(second.min(LAST_SECOND)));
    // The cache holds one second, so these two calls replace it.
    let other = *cache.at(second ^ 1);
    assert_eq!(parse(&other), Some((second ^ 1).min(LAST_SECOND)));
    assert_eq!(*cache.at(second), text);
}
