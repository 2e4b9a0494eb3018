//! Parses request heads. httparse splits a head into tokens; a strict pass of ours follows, because
//! requests can be smuggled where two servers in a chain read the same bytes differently (RFC 9112
//! §11.2). Nothing is repaired: a head is valid, or it is a [`Fault`].

use std::mem::MaybeUninit;

use ::http::Method;

use super::codings::Codings;
use super::connection_options::ConnectionOptions;
use super::request_line::{check_request_line, read_method, split_line};
use crate::http::field::{find, is_host, tokens};
use crate::http::target::is_host_value;
use crate::http::{Fault, Head, Span, Version};

/// The limits of a message. A message that exceeds one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// The length of a head in bytes, including its empty line; also of a trailer section. It has
    /// 16 bits, as the offsets of a `Span` do.
    pub head_bytes_max: u16,
    /// The length of a request target, in bytes; a response has none.
    pub target_bytes_max: u16,
    /// The number of field lines in a head, and in a trailer section. In a head it is never more
    /// than [`FIELDS_MAX`].
    pub fields_max: u16,
    /// The length of a body in bytes, without chunked framing; `u64::MAX` means no limit.
    pub body_bytes_max: u64,
}

/// The largest effective value of [`MessageLimits::fields_max`].
pub const FIELDS_MAX: usize = 256;

impl MessageLimits {
    /// The longest accepted method, in bytes. The longest registered method has 17.
    pub const METHOD_BYTES_MAX: usize = 32;

    /// How many bytes of chunk extensions and of zeros before chunk sizes a body may always have.
    /// Above that, it may have three for each byte of data.
    pub const FRAMING_BYTES_FREE: u32 = 100 * 1024;

    /// Whether a body of `len` bytes exceeds its limit.
    pub(super) const fn is_body_too_large(&self, len: u64) -> bool {
        len > self.body_bytes_max
    }
}

impl Default for MessageLimits {
    fn default() -> Self {
        Self {
            head_bytes_max: 16 * 1024,
            target_bytes_max: 8 * 1024,
            fields_max: 100,
            body_bytes_max: 16 * 1024 * 1024,
        }
    }
}

/// How the end of a request's body is found (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, or it has `Content-Length: 0`.
    None,
    /// The body has this many bytes.
    Length(u64),
    /// The body is chunked.
    Chunked,
}

/// The properties of a request that concern the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestFlags {
    /// Whether the connection may persist after this request (RFC 9112 §9.3).
    pub(super) keeps_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
}

/// Parses a head at the start of `bytes` into `head`. Returns its length, including empty lines
/// before it, and the framing of the body. Returns `None` while the head is incomplete.
///
/// `scanned` is the number of bytes that earlier calls have searched for the end of the head. It
/// must be 0 for a new head; this function updates it. So a head that arrives byte by byte takes
/// linear time instead of quadratic.
///
/// # Errors
/// Any fault of a head. It does not depend on how the bytes were split: a fault of the request line
/// is reported as soon as that line has arrived, or a byte that no request line has, or too long a
/// target; a fault of a field when the whole head has arrived. A head that is too long has no
/// other fault than this and those of its request line.
#[inline(always)]
pub(super) fn parse(
    bytes: &[u8],
    scanned: &mut u32,
    limits: &MessageLimits,
    head: &mut Head,
    flags: &mut RequestFlags,
) -> Result<Option<(usize, Framing)>, Fault> {
    let max = usize::from(limits.head_bytes_max);
    let window = &bytes[..bytes.len().min(max)];
    let before = (*scanned as usize).min(window.len());
    if let Some(blank) = leading_blank(window)? {
        let may_be_whole =
            before == 0 || has_empty_line(window, before.saturating_sub(3).max(blank));
        let mut found = None;
        if may_be_whole {
            match parse_request(window, blank, limits, head, flags) {
                Ok(Some(parsed)) => {
                    *scanned = 0;
                    return Ok(Some(parsed));
                }
                Ok(None) => {}
                Err(fault) => found = Some(fault),
            }
        }
        check_incomplete(window, blank, before, limits, found)?;
    }
    if window.len() == max {
        return Err(Fault::HeadTooLarge);
    }
    *scanned = u32::try_from(window.len()).unwrap_or(u32::MAX);
    Ok(None)
}

/// Empty lines before a request line are ignored (RFC 9112 §2.2), up to this many bytes.
const LEADING_BLANK_MAX: usize = 8;

/// Whether `bytes` are only empty lines, which belong to no request (RFC 9112 §2.2). Some clients
/// send one after a body.
#[must_use]
pub fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

/// Counts the bytes of empty lines at the start of `bytes`; `None` while nothing follows them.
fn leading_blank(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let mut blank = 0;
    loop {
        match &bytes[blank..] {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] if blank < LEADING_BLANK_MAX => blank += 2,
            [b'\n', ..] => return Err(Fault::BareLineFeed),
            [b'\r', ..] => return Err(Fault::BadRequestLine),
            _ => return Ok(Some(blank)),
        }
    }
}

/// Whether a line end at or after `from` is followed by an empty line, with or without CR.
pub(super) fn has_empty_line(bytes: &[u8], from: usize) -> bool {
    let mut rest = &bytes[from..];
    while let Some(at) = find(rest, b'\n') {
        rest = &rest[at + 1..];
        if matches!(rest, [b'\n', ..] | [b'\r', b'\n', ..]) {
            return true;
        }
    }
    false
}

/// Decides the fault of a head that begins at offset `blank` and was not parsed, because it is
/// incomplete or because of `found`. Earlier calls have checked the first `before` bytes.
#[cold]
fn check_incomplete(
    window: &[u8],
    blank: usize,
    before: usize,
    limits: &MessageLimits,
    found: Option<Fault>,
) -> Result<(), Fault> {
    check_request_line(&window[blank..], before.saturating_sub(blank), limits)?;
    match found {
        Some(fault) if has_empty_line(window, blank) => Err(fault),
        _ => Ok(()),
    }
}

/// Parses the head that begins at offset `blank` of `window`; `None` while it is incomplete.
#[inline(always)]
fn parse_request(
    window: &[u8],
    blank: usize,
    limits: &MessageLimits,
    head: &mut Head,
    flags: &mut RequestFlags,
) -> Result<Option<(usize, Framing)>, Fault> {
    let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let fields_max = usize::from(limits.fields_max).min(FIELDS_MAX);
    let mut request = httparse::Request::new(&mut []);
    let bytes = &window[blank..];
    let len = match request.parse_with_uninit_headers(bytes, &mut slots[..fields_max]) {
        Ok(httparse::Status::Complete(len)) => blank + len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::Version) => {
            return parse_later_minor(window, blank, limits, head, flags);
        }
        Err(error) => return Err(fault_of_fields(error)),
    };
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(Fault::BadRequestLine);
    };

    let version = match request.version {
        Some(0) => Version::Http10,
        _ => Version::Http11,
    };
    let line = (blank, method, target, version);
    finish(window, line, len, request.headers, limits, head, flags)
}

/// Checks the parts of a head of `len` bytes, and writes them into `head`. The request line, which
/// begins at the given offset, is `method SP target SP HTTP/1.x`, so its end can be computed.
#[inline(always)]
fn finish(
    window: &[u8],
    (blank, method, target, version): (usize, &str, &str, Version),
    len: usize,
    fields: &[httparse::Header<'_>],
    limits: &MessageLimits,
    head: &mut Head,
    flags: &mut RequestFlags,
) -> Result<Option<(usize, Framing)>, Fault> {
    let start = blank + method.len() + 1;
    let target = Span::new(start, start + target.len());
    let line_end = target.start() + target.len() + " HTTP/1.x".len();
    if target.len() > usize::from(limits.target_bytes_max) {
        return Err(Fault::TargetTooLong);
    }
    require_crlf(window, line_end, len, fields)?;

    if method == "GET" {
        head.method = Method::GET;
    } else {
        head.method = read_method(method)?;
    }
    head.parts.read(window, target, &head.method)?;
    let mut summary = HeadSummary::default();
    for field in fields {
        summary.add(window, field, version)?;
    }
    summary.check_host(window, version)?;
    let framing = summary.framing(version, limits)?;
    // Assigned one by one, because a complete `Head` value would have to be copied.
    head.version = version;
    head.target = target;
    head.fields = Span::new(line_end + 2, len - 2);
    head.host = summary.host;
    flags.keeps_alive = summary.connection.keeps_alive(version);
    flags.expects_continue = summary.expects_continue;
    Ok(Some((len, framing)))
}

/// As [`parse_request`], for a version that httparse does not know. HTTP/1.2 to 1.9 would be
/// compatible with HTTP/1.1, and so are read as that (RFC 9110 §2.5).
#[cold]
fn parse_later_minor(
    window: &[u8],
    blank: usize,
    limits: &MessageLimits,
    head: &mut Head,
    flags: &mut RequestFlags,
) -> Result<Option<(usize, Framing)>, Fault> {
    let Some(line_feed) = find(&window[blank..], b'\n').map(|at| blank + at) else {
        return Ok(None);
    };
    let (method, target) = split_line(&window[blank..=line_feed])?;
    let mut slots = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let fields_max = usize::from(limits.fields_max).min(FIELDS_MAX);
    let start = line_feed + 1;
    match httparse::parse_headers(&window[start..], &mut slots[..fields_max]) {
        Ok(httparse::Status::Complete((len, fields))) => {
            let line = (blank, method, target, Version::Http11);
            finish(window, line, start + len, fields, limits, head, flags)
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(fault_of_fields(error)),
    }
}

/// Checks that every line ends in CR LF. httparse also accepts LF alone, but not CR alone, so it is
/// enough to check the byte before each LF.
fn require_crlf(
    window: &[u8],
    line_end: usize,
    len: usize,
    fields: &[httparse::Header<'_>],
) -> Result<(), Fault> {
    let ends_before = |next: usize| window.get(next.wrapping_sub(2)) == Some(&b'\r');
    let lines = fields
        .iter()
        .all(|field| ends_before(offset(window, field.name.as_bytes())));
    // The last field's line and the empty line, or the request line and the empty line.
    if lines && window[line_end] == b'\r' && window[..len].ends_with(b"\r\n\r\n") {
        Ok(())
    } else {
        Err(Fault::BareLineFeed)
    }
}

/// The offset of `part` in `whole`, of which it is a slice.
#[inline]
fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

/// Converts an error of httparse in the fields of a head. Those in a request line have been
/// reported before its head was complete.
#[cold]
fn fault_of_fields(error: httparse::Error) -> Fault {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => Fault::TooManyFields,
        // `NewLine` is a CR without LF where a field or the empty line should begin.
        Error::HeaderName | Error::HeaderValue | Error::NewLine => Fault::BadField,
        Error::Token | Error::Version | Error::Status => Fault::BadRequestLine,
    }
}

/// The fields of a head that matter for framing, persistence and Host.
#[derive(Default)]
struct HeadSummary {
    host: Option<Span>,
    length: Option<u64>,
    codings: Codings,
    has_content_type: bool,
    expects_continue: bool,
    connection: ConnectionOptions,
}

impl HeadSummary {
    /// Records one field. Each length has at most one name to compare with.
    #[inline]
    fn add(
        &mut self,
        window: &[u8],
        field: &httparse::Header<'_>,
        version: Version,
    ) -> Result<(), Fault> {
        let (name, value) = (field.name.as_bytes(), field.value);
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        match name.len() {
            4 if is_host(name) => {
                let start = offset(window, value);
                let first = self.host.replace(Span::new(start, start + value.len()));
                if first.is_some() {
                    return Err(Fault::BadHost);
                }
            }
            6 if is("expect") && version == Version::Http11 => {
                // RFC 9110 §10.1.1: the field is ignored in HTTP/1.0.
                for member in tokens(value) {
                    if !member.eq_ignore_ascii_case(b"100-continue") {
                        return Err(Fault::ExpectationFailed);
                    }
                    self.expects_continue = true;
                }
            }
            10 if is("connection") => self.connection.add(value),
            12 if is("content-type") => {
                let is_second = std::mem::replace(&mut self.has_content_type, true);
                if is_second {
                    return Err(Fault::BadField);
                }
            }
            14 if is("content-length") => {
                let first = self.length.replace(read_length(value)?);
                if first.is_some() {
                    return Err(Fault::BadContentLength);
                }
            }
            17 if is("transfer-encoding") => self.codings = self.codings.and(value),
            _ => {}
        }
        Ok(())
    }

    /// Checks Host (RFC 9112 §3.2): HTTP/1.1 requires it, and it must be valid.
    fn check_host(&self, window: &[u8], version: Version) -> Result<(), Fault> {
        let Some(host) = self.host.map(|host| host.of(window)) else {
            return match version {
                Version::Http10 => Ok(()),
                Version::Http11 => Err(Fault::MissingHost),
            };
        };
        match is_host_value(host) {
            true => Ok(()),
            false => Err(Fault::BadHost),
        }
    }

    /// The framing of the body (RFC 9112 §6.3). Every doubtful case is refused.
    fn framing(&self, version: Version, limits: &MessageLimits) -> Result<Framing, Fault> {
        if self.codings.is_chunked()? {
            return match (version, self.length) {
                (Version::Http11, None) => Ok(Framing::Chunked),
                _ => Err(Fault::ConflictingFraming),
            };
        }
        match self.length {
            None | Some(0) => Ok(Framing::None),
            Some(length) if limits.is_body_too_large(length) => Err(Fault::BodyTooLarge),
            Some(length) => Ok(Framing::Length(length)),
        }
    }
}

/// Parses a Content-Length: `1*DIGIT` that fits a `u64`. A sign is refused, and so is a list, even
/// one of equal numbers.
pub(super) fn read_length(value: &[u8]) -> Result<u64, Fault> {
    let add = |sum: u64, &byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    let length = value.iter().try_fold(0, add).filter(|_| !value.is_empty());
    length.ok_or(Fault::BadContentLength)
}
