//! Parsers of values that clients and operators write, compared with naive parsers.

mod conditions;
mod dates;
mod fields;
mod flags;
mod paths;
mod ranges;
mod targets;

use coring::parts::Head;
use coring::parts::h1::{Codec, Event, MessageLimits};

use crate::input::{Input, exact};

/// Parses one value. The first byte of the input selects its kind.
///
/// # Panics
/// If the real parser and the naive one differ.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(8) {
        0 => paths::check(&exact(input.rest())),
        1 => ranges::check(input),
        2 => conditions::check(input),
        3 => dates::check(&exact(input.rest())),
        4 => fields::check(input),
        5 => flags::check(&exact(input.rest())),
        6 => targets::check_host(&exact(input.rest())),
        _ => targets::check(&exact(input.rest())),
    }
}

/// Calls `inspect` with the parsed head. Returns `None` if `bytes` are not a valid request head.
fn with_head<R>(bytes: &[u8], inspect: impl FnOnce(&Head, &[u8]) -> R) -> Option<R> {
    let mut head = Head::new();
    let bytes = exact(bytes);
    let event = Codec::server().next_event(&bytes, &MessageLimits::default(), &mut head);
    let Ok((used, Event::Request(_))) = event else {
        return None;
    };
    Some(inspect(&head, &bytes[..used]))
}
