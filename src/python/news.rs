//! The messages by which the supervisor tells a core of workers that are ready or have ended.

use super::link::Dispatch;

pub(super) fn join_message(number: u32, threads: u32, dispatch: Dispatch) -> Vec<u8> {
    let mut message = vec![b'J', u8::from(dispatch == Dispatch::Each)];
    message.extend_from_slice(&number.to_ne_bytes());
    message.extend_from_slice(&threads.to_ne_bytes());
    message
}

pub(super) fn leave_message(number: u32) -> Vec<u8> {
    let mut message = vec![b'L', 0];
    message.extend_from_slice(&number.to_ne_bytes());
    message
}

/// What the supervisor tells a core.
#[derive(Debug)]
pub(super) enum News {
    Joined {
        number: u32,
        threads: u32,
        dispatch: Dispatch,
    },
    Left(u32),
}

/// Reads a message of the supervisor; none if it is not one.
pub(super) fn parse_news(message: &[u8]) -> Option<News> {
    let number = |at: usize| Some(u32::from_ne_bytes(*message.get(at..)?.first_chunk()?));
    Some(match message {
        [b'J', is_each, ..] => News::Joined {
            number: number(2)?,
            threads: number(6)?,
            dispatch: match is_each {
                0 => Dispatch::Shared,
                _ => Dispatch::Each,
            },
        },
        [b'L', ..] => News::Left(number(2)?),
        _ => return None,
    })
}
