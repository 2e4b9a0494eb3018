//! Parses what a Python worker sends. A worker runs code that coring does not know, so nothing in
//! its messages is trusted: each length is checked, and the head of a response is validated by the
//! same rules as any other head.
//!
//! A message is a header of 16 bytes, little endian, and a payload:
//!
//! ```text
//! kind u8 │ flags u8 │ status u16 │ size u32 │ id 8 bytes │ payload
//! ```

use std::fmt;

use ::http::{HeaderValue, StatusCode};

use crate::http::{FieldLines, InvalidField};
use crate::sys::mutants::mutate;

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 16;
/// The longest head of a response, in bytes.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most body bytes that one message carries.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;
/// The longest message.
pub(super) const MESSAGE_BYTES_MAX: usize = HEADER_BYTES + HEAD_BYTES_MAX + BODY_BYTES_MAX;

/// The number of a request. A worker cannot guess the numbers of requests that it was not given.
pub(super) type Id = [u8; 8];

/// One message of a worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// A response begins. If `is_whole`, `body` is all of its body.
    Head {
        id: Id,
        status: u16,
        head: &'a [u8],
        body: &'a [u8],
        is_whole: bool,
    },
    /// The body continues. If `is_last`, it ends with `body`.
    Body {
        id: Id,
        body: &'a [u8],
        is_last: bool,
    },
    /// The application failed after the head was sent.
    Abort { id: Id },
    /// The request's deadline was over before the application was called. It was not called.
    Expired { id: Id },
    /// A fence was received; `id` is the fence's own.
    Fenced { id: Id },
    /// The worker has room for `size` more bytes of the request's body.
    Want { id: Id, size: u32 },
    /// The request had waited for `size` microseconds when the worker called the application. Sent
    /// for the access log only.
    Begun { id: Id, size: u32 },
}

impl Message<'_> {
    /// The number of the request or fence that it is about.
    pub(super) fn id(&self) -> Id {
        match *self {
            Self::Head { id, .. }
            | Self::Body { id, .. }
            | Self::Abort { id }
            | Self::Expired { id }
            | Self::Fenced { id }
            | Self::Want { id, .. }
            | Self::Begun { id, .. } => id,
        }
    }
}

/// A worker has sent bytes that are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Parses one message, which is all of `bytes`.
///
/// # Errors
/// When it is not a message of this version of the protocol.
pub(super) fn parse(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let (header, payload) = bytes
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(Malformed("it is shorter than a header"))?;
    let [kind, flags, status @ ..] = header;
    let status = u16::from_le_bytes([status[0], status[1]]);
    let size = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let mut id = Id::default();
    id.copy_from_slice(&header[8..]);
    let is_last = match flags {
        0 => false,
        1 => true,
        _ => return Err(Malformed("it has an unknown flag")),
    };
    let empty = |message| match payload {
        [] => Ok(message),
        _ => Err(Malformed("it has a payload where there is none")),
    };
    match kind {
        1 => {
            let (head, body) = usize::try_from(size)
                .ok()
                .and_then(|size| payload.split_at_checked(size))
                .ok_or(Malformed("its head is longer than the message"))?;
            if head.len() > HEAD_BYTES_MAX || body.len() > BODY_BYTES_MAX {
                return Err(Malformed("it is longer than messages may be"));
            }
            Ok(Message::Head {
                id,
                status,
                head,
                body,
                is_whole: is_last,
            })
        }
        2 if payload.len() <= BODY_BYTES_MAX => Ok(Message::Body {
            id,
            body: payload,
            is_last,
        }),
        2 => Err(Malformed("it is longer than messages may be")),
        3 => empty(Message::Abort { id }),
        4 => empty(Message::Expired { id }),
        5 => empty(Message::Fenced { id }),
        6 => empty(Message::Want { id, size }),
        7 => empty(Message::Begun { id, size }),
        _ => Err(Malformed("it is of an unknown kind")),
    }
}

/// The head of a response, validated.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    /// The reason phrase, unless it is the usual one of the status or empty.
    pub(super) reason: Option<HeaderValue>,
    /// All fields except Content-Length and those that belong to the connection.
    pub(super) lines: FieldLines,
    /// Content-Length.
    pub(super) length: Option<u64>,
}

/// The application has made a head that no response may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InvalidHead {
    Status(u16),
    Reason,
    Line,
    Field(InvalidField),
    Length,
}

impl fmt::Display for InvalidHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "its status is {status}"),
            Self::Reason => f.write_str("its reason phrase has a control character"),
            Self::Line => f.write_str("a field has no colon"),
            Self::Field(error) => error.fmt(f),
            Self::Length => f.write_str("its Content-Length is not one number"),
        }
    }
}

/// Validates a head: the reason phrase, then for each field a line feed, the name, a colon and the
/// value.
///
/// # Errors
/// When the status is not one of a final response, a name or a value is invalid, or there are
/// several lengths.
pub(super) fn parse_head(status: u16, head: &[u8]) -> Result<ResponseHead, InvalidHead> {
    let status = StatusCode::from_u16(status)
        .ok()
        .filter(|status| mutate!(TrustHead, true, (200..600).contains(&status.as_u16())))
        .ok_or(InvalidHead::Status(status))?;
    let mut lines = head.split(|&byte| byte == b'\n');
    let reason = lines.next().unwrap_or_default();
    let usual = status.canonical_reason().unwrap_or_default();
    let reason = match reason {
        b"" => None,
        reason if reason == usual.as_bytes() => None,
        reason => Some(HeaderValue::from_bytes(reason).map_err(|_| InvalidHead::Reason)?),
    };
    let (mut fields, mut length) = (Vec::with_capacity(16), None);
    for line in lines {
        let colon = line.iter().position(|&byte| byte == b':');
        let (name, value) = line.split_at(colon.ok_or(InvalidHead::Line)?);
        let value = &value[1..];
        if name.eq_ignore_ascii_case(b"content-length") {
            let stated = decimal(value.trim_ascii()).ok_or(InvalidHead::Length)?;
            if length.is_some_and(|length| length != stated) {
                return Err(InvalidHead::Length);
            }
            length = Some(stated);
        } else {
            fields.push((name, value));
        }
    }
    Ok(ResponseHead {
        status,
        reason,
        lines: FieldLines::from_bytes(fields).map_err(InvalidHead::Field)?,
        length,
    })
}

/// A number of digits alone: `u64::from_str` would take a sign.
fn decimal(text: &[u8]) -> Option<u64> {
    let is_decimal = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text)
        .ok()
        .filter(|_| is_decimal)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = *b"12345678";

    fn message(kind: u8, flags: u8, status: u16, size: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, flags];
        bytes.extend_from_slice(&status.to_le_bytes());
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&ID);
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn each_kind_is_parsed() {
        let head = message(1, 1, 200, 4, b"\nA:bbody");
        let expected = Message::Head {
            id: ID,
            status: 200,
            head: b"\nA:b",
            body: b"body",
            is_whole: true,
        };
        assert_eq!(parse(&head), Ok(expected));
        let body = message(2, 0, 0, 0, b"more");
        let expected = Message::Body {
            id: ID,
            body: b"more",
            is_last: false,
        };
        assert_eq!(parse(&body), Ok(expected));
        for (kind, expected) in [
            (3, Message::Abort { id: ID }),
            (4, Message::Expired { id: ID }),
            (5, Message::Fenced { id: ID }),
            (6, Message::Want { id: ID, size: 9 }),
            (7, Message::Begun { id: ID, size: 9 }),
        ] {
            assert_eq!(parse(&message(kind, 0, 0, 9, b"")), Ok(expected));
            assert!(parse(&message(kind, 0, 0, 9, b"x")).is_err(), "{kind}");
        }
    }

    #[test]
    fn what_is_not_a_message_is_refused() {
        let whole = message(1, 1, 200, 4, b"\nA:bbody");
        for len in 0..HEADER_BYTES + 4 {
            assert!(parse(&whole[..len]).is_err(), "{len} bytes");
        }
        for (kind, flags, size, len) in [
            (0, 0, 0, 0),
            (8, 0, 0, 0),
            (255, 0, 0, 0),
            (1, 2, 0, 0),
            (1, 0, 5, 4),
            (1, 0, u32::MAX, 4),
            (1, 0, 65_537, 65_537),
            (1, 0, 0, 65_537),
            (2, 0, 0, 65_537),
        ] {
            let bytes = message(kind, flags, 200, size, &vec![0; len]);
            assert!(parse(&bytes).is_err(), "{kind} {flags} {size} {len}");
        }
    }

    #[test]
    fn heads_are_held_to_the_rules_of_http() {
        let head = |status, head: &str| parse_head(status, head.as_bytes());
        let valid = head(200, "\nX-A: 1\nContent-Length: 5\nX-B:2").expect("a valid head");
        assert_eq!((valid.length, valid.lines.fields().len()), (Some(5), 2));
        assert!(valid.reason.is_none());
        assert!(head(200, "OK\n").is_err(), "an empty line is not a field");
        let reason = head(404, "Gone Fishing")
            .expect("a reason of its own")
            .reason;
        assert_eq!(reason.expect("a reason"), "Gone Fishing");
        for status in [0, 99, 100, 103, 199, 600, 999, 1000, u16::MAX] {
            assert_eq!(head(status, "").unwrap_err(), InvalidHead::Status(status));
        }
        for text in [
            "a\x07b",
            "\nno colon",
            "\n: no name",
            "\nA B: x",
            "\nA: x\ry",
            "\nA: x\0y",
            "\nContent-Length: 5\nContent-Length: 6",
            "\nContent-Length: +5",
            "\nContent-Length: ",
            "\nContent-Length: 5, 5",
            "\nContent-Length: 99999999999999999999999",
        ] {
            assert!(head(200, text).is_err(), "{text:?}");
        }
        let twice = head(200, "\nContent-Length: 5\nContent-Length:5");
        assert_eq!(twice.expect("the same length").length, Some(5));
    }

    /// Fields that belong to the connection are the server's.
    #[test]
    fn fields_of_the_connection_are_left_out() {
        let text = "\nConnection: close\nTransfer-Encoding: gzip\nKeep-Alive: 5\nUpgrade: x\nA: b";
        let head = parse_head(200, text.as_bytes()).expect("a valid head");
        let names: Vec<&str> = head
            .lines
            .fields()
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["a"]);
        assert!(head.lines.wants_close());
    }
}
