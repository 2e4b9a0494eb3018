//! Parses response heads, as strictly as request heads are parsed: nothing is repaired, because a
//! response that two readers frame differently can be split (RFC 9112 §11.1).

use std::mem::MaybeUninit;

use ::http::StatusCode;

use super::connection_options::ConnectionOptions;
use super::encode::ResponseFraming;
use super::parse::{FIELDS_MAX, MessageLimits, has_empty_line, read_length};
use crate::http::field::Fields;
use crate::http::{Fault, Span, Version};

/// A response's head, as spans of the bytes that it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedHead {
    /// The status.
    pub status: StatusCode,
    /// The HTTP version.
    pub version: Version,
    fields: Span,
}

impl ReceivedHead {
    /// The field lines in `bytes`, which the head was parsed from.
    #[must_use]
    pub fn fields(self, bytes: &[u8]) -> Fields<'_> {
        Fields::new(self.fields.of(bytes))
    }
}

/// A parsed head with what it says about the connection and the body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parsed {
    pub(super) head: ReceivedHead,
    /// The length of the head in bytes, with its empty line.
    pub(super) len: usize,
    pub(super) framing: ResponseFraming,
    /// Whether the connection may persist after this response (RFC 9112 §9.3).
    pub(super) keeps_alive: bool,
}

/// Parses the head at the start of `bytes`; `None` while it is incomplete. `scanned` is as for
/// [`parse`](super::parse). `is_head`: the request was HEAD, so the response has no body.
///
/// # Errors
/// Any fault of a head. Those behind the version are reported when the head is complete, so the
/// fault does not depend on how the bytes were split.
pub(super) fn parse(
    bytes: &[u8],
    scanned: &mut u32,
    limits: &MessageLimits,
    is_head: bool,
) -> Result<Option<Parsed>, Fault> {
    let max = usize::from(limits.head_bytes_max);
    let window = &bytes[..bytes.len().min(max)];
    check_version(window)?;
    let before = (*scanned as usize).min(window.len());
    if has_empty_line(window, before.saturating_sub(3)) {
        *scanned = 0;
        return parse_whole(window, limits, is_head).map(Some);
    }
    if window.len() == max {
        return Err(Fault::HeadTooLarge);
    }
    *scanned = u32::try_from(window.len()).unwrap_or(u32::MAX);
    Ok(None)
}

/// Refuses bytes that cannot become the version of a response, such as the greeting of another
/// protocol, before their head is complete: it might never be.
fn check_version(bytes: &[u8]) -> Result<(), Fault> {
    const VERSION: &[u8] = b"HTTP/1.";
    let differs = |(byte, expected)| byte != expected;
    match bytes.iter().zip(VERSION).position(differs) {
        None => match bytes.get(VERSION.len()..) {
            Some([] | [b'0' | b'1'] | [b'0' | b'1', b' ', ..]) | None => Ok(()),
            Some([b'2'..=b'9', ..]) => Err(Fault::UnsupportedVersion),
            Some(_) => Err(Fault::BadStatusLine),
        },
        // `HTTP/2` and the like.
        Some(at) if at == VERSION.len() - 2 && bytes[at].is_ascii_digit() => {
            Err(Fault::UnsupportedVersion)
        }
        Some(_) => Err(Fault::BadStatusLine),
    }
}

/// Parses a head that is complete within `window`.
fn parse_whole(window: &[u8], limits: &MessageLimits, is_head: bool) -> Result<Parsed, Fault> {
    let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let fields_max = usize::from(limits.fields_max).min(FIELDS_MAX);
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        window,
        &mut slots[..fields_max],
    );
    let len = match parsed {
        Ok(httparse::Status::Complete(len)) => len,
        // An empty line exists, so only an LF without CR can make the parser look further.
        Ok(httparse::Status::Partial) => return Err(Fault::BareLineFeed),
        Err(error) => return Err(fault_of(error)),
    };
    let (Some(minor), Some(code)) = (response.version, response.code) else {
        return Err(Fault::BadStatusLine);
    };
    let status = StatusCode::from_u16(code).map_err(|_| Fault::BadStatusLine)?;
    let version = match minor {
        0 => Version::Http10,
        _ => Version::Http11,
    };
    let mut line_end = 0;
    for (at, _) in window[..len]
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
    {
        if at == 0 || window[at - 1] != b'\r' {
            return Err(Fault::BareLineFeed);
        }
        if line_end == 0 {
            line_end = at + 1;
        }
    }
    let mut summary = Summary::default();
    for field in response.headers.iter() {
        summary.add(field.name, field.value)?;
    }
    let has_no_body = is_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let framing = match has_no_body {
        true => ResponseFraming::None,
        false => summary.framing(version, limits)?,
    };
    Ok(Parsed {
        head: ReceivedHead {
            status,
            version,
            fields: Span::new(line_end, len - 2),
        },
        len,
        framing,
        keeps_alive: summary.connection.keeps_alive(version),
    })
}

#[cold]
fn fault_of(error: httparse::Error) -> Fault {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => Fault::TooManyFields,
        Error::HeaderName | Error::HeaderValue => Fault::BadField,
        Error::Version | Error::NewLine | Error::Status | Error::Token => Fault::BadStatusLine,
    }
}

/// The fields of a head that matter for framing and persistence.
#[derive(Default)]
struct Summary {
    length: Option<u64>,
    has_coding: bool,
    connection: ConnectionOptions,
}

impl Summary {
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), Fault> {
        if name.eq_ignore_ascii_case("connection") {
            self.connection.add(value);
        } else if name.eq_ignore_ascii_case("content-length") {
            let first = self.length.replace(read_length(value)?);
            if first.is_some() {
                return Err(Fault::BadContentLength);
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            let is_second = std::mem::replace(&mut self.has_coding, true);
            if is_second || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::UnsupportedTransferCoding);
            }
        }
        Ok(())
    }

    /// The framing of a body (RFC 9112 §6.3). Every doubtful case is refused.
    fn framing(&self, version: Version, limits: &MessageLimits) -> Result<ResponseFraming, Fault> {
        match (self.has_coding, self.length) {
            (true, Some(_)) => Err(Fault::ConflictingFraming),
            (true, None) if version == Version::Http10 => Err(Fault::ConflictingFraming),
            (true, None) => Ok(ResponseFraming::Chunked),
            (false, None) => Ok(ResponseFraming::UntilClose),
            (false, Some(0)) => Ok(ResponseFraming::None),
            (false, Some(length)) if limits.is_body_too_large(length) => Err(Fault::BodyTooLarge),
            (false, Some(length)) => Ok(ResponseFraming::Length(length)),
        }
    }
}
