//! Addresses, sizes and durations as operators write them: the displayed form of a value parses as
//! the same value.

#[path = "../../../../src/bin/coring/units.rs"]
#[allow(dead_code, reason = "the program uses all of it")]
mod units;

use std::net::SocketAddr;

use coring::net::Address;

const YEAR_MS: u64 = 365 * 24 * 3_600_000;

pub(super) fn check(bytes: &[u8]) {
    if let Some(number) = bytes.first_chunk() {
        check_number(u64::from_le_bytes(*number));
    }
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    if let Ok(duration) = text.parse::<units::Duration>() {
        assert!(duration.0 > 0, "{text:?}");
        assert_eq!(duration.to_string().parse(), Ok(duration), "{text:?}");
    }
    if let Ok(size) = text.parse::<units::Size>() {
        assert_eq!(size.to_string().parse(), Ok(size), "{text:?}");
    }
    if !is_looked_up(text)
        && let Ok(address) = text.parse::<Address>()
    {
        let again: Address = address.to_string().parse().expect("an address as shown");
        assert_eq!(address, again, "{text:?}");
    }
}

fn check_number(number: u64) {
    for number in [number, number >> 20, number & !0xffff, number << 30] {
        let size = units::Size(number);
        assert_eq!(size.to_string().parse(), Ok(size));
        let ms = number % YEAR_MS + 1;
        for ms in [ms, ms.next_multiple_of(1000), ms.next_multiple_of(60_000)] {
            let duration = units::Duration(ms);
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}

/// Whether parsing the text may send a query to a name server.
fn is_looked_up(text: &str) -> bool {
    let host = text.rsplit_once(':').map_or("", |(host, _)| host);
    let is_name = !host.is_empty() && !host.contains([':', '/']);
    let is_known = text.starts_with("unix:") || host.eq_ignore_ascii_case("localhost");
    is_name && !is_known && text.parse::<SocketAddr>().is_err()
}
