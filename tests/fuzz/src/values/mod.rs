//! Values as clients and operators write them, against naive readers of the same grammar.

mod conditions;
mod dates;
mod fields;
mod flags;
mod paths;
mod ranges;
mod targets;

use coring::parts::Head;
use coring::parts::h1::{Connection, Event, Limits};

use crate::input::{Input, exact};

/// Reads one value; the first byte says of which kind.
///
/// # Panics
/// When the real reader and the naive one differ.
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

/// Lets `look` see the head of a request, if `bytes` are one.
fn with_head<R>(bytes: &[u8], look: impl FnOnce(&Head, &[u8]) -> R) -> Option<R> {
    let mut head = Head::new();
    let bytes = exact(bytes);
    let event = Connection::server().next_event(&bytes, &Limits::default(), &mut head);
    let Ok((used, Event::Request(_))) = event else {
        return None;
    };
    Some(look(&head, &bytes[..used]))
}
