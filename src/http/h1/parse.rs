//! From bytes to a request head. httparse tokenizes; the pass after it is ours and strict, for what
//! two servers in a row read differently is how requests are smuggled (RFC 9112 §11.2). It refuses
//! to repair: a head is right or it is a [`Fault`].

use std::mem::MaybeUninit;

use ::http::Method;

use crate::http::field::{find, is_host, tokens};
use crate::http::target::Target;
use crate::http::{Fault, Head, Span, Version};

/// How much of a request is read before it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A head, from its first byte to its empty line; also a trailer section. In bytes; two of
    /// them are enough for its offsets.
    pub head_bytes_max: u16,
    /// A request target, in bytes.
    pub target_bytes_max: u16,
    /// Field lines in a head, and in a trailer section; never more than [`FIELDS_MAX`].
    pub fields_max: u16,
    /// A request body, after its chunks are decoded, in bytes; `u64::MAX` is no limit.
    pub body_bytes_max: u64,
}

/// The most field lines any configuration can allow.
pub const FIELDS_MAX: usize = 256;

impl Limits {
    /// Whether a body of `len` bytes is longer than allowed.
    pub(super) const fn forbid_body(&self, len: u64) -> bool {
        len > self.body_bytes_max
    }
}

impl Default for Limits {
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
    /// There is no body; `Content-Length: 0` counts as this.
    None,
    /// The body has this many bytes.
    Length(u64),
    /// The body comes in chunks.
    Chunked,
}

/// What a head says of the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    /// Whether the client lets the connection persist (RFC 9112 §9.3).
    pub(super) keeps_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
}

/// Reads a head from the start of `bytes` into `head`; `None` while it is not complete.
///
/// `scanned` says how many of the bytes an earlier call has already searched for the head's end;
/// it is 0 for a new head and kept up to date here, so that a head that comes byte by byte costs
/// its length and not its square.
///
/// # Errors
/// Any fault of a head; what is certainly wrong in its first bytes is refused before the rest has
/// come.
#[inline(always)]
pub(super) fn parse(
    bytes: &[u8],
    scanned: &mut u32,
    limits: &Limits,
    head: &mut Head,
    wishes: &mut Wishes,
) -> Result<Option<(usize, Framing)>, Fault> {
    let max = usize::from(limits.head_bytes_max);
    let window = &bytes[..bytes.len().min(max)];
    let before = (*scanned as usize).min(window.len());
    if let Some(blank) = leading_blank(window)? {
        refuse_long_target(&window[blank..], before, limits)?;
        let may_be_whole = before == 0 || ends_after(window, before.saturating_sub(3).max(blank));
        if may_be_whole && let Some(parsed) = parse_request(window, blank, limits, head, wishes)? {
            *scanned = 0;
            return Ok(Some(parsed));
        }
    }
    if window.len() == max {
        return Err(Fault::HeadTooLarge);
    }
    *scanned = u32::try_from(window.len()).unwrap_or(u32::MAX);
    Ok(None)
}

/// Empty lines before a request line are ignored (RFC 9112 §2.2), but only so many bytes of them.
const LEADING_BLANK_MAX: usize = 8;

/// Counts the bytes of empty lines at the start; `None` while nothing else has come.
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

/// Whether an empty line, with or without CR, ends at or after `from`.
fn ends_after(bytes: &[u8], from: usize) -> bool {
    let mut rest = &bytes[from..];
    while let Some(at) = find(rest, b'\n') {
        rest = &rest[at + 1..];
        if matches!(rest, [b'\n', ..] | [b'\r', b'\n', ..]) {
            return true;
        }
    }
    false
}

/// The longest method; those of the standards have at most 17 bytes.
const METHOD_BYTES_MAX: usize = 32;

/// Refuses a target that is over its limit, also before its end has come. `before` bytes were
/// looked at by an earlier call.
fn refuse_long_target(head: &[u8], before: usize, limits: &Limits) -> Result<(), Fault> {
    let max = usize::from(limits.target_bytes_max);
    if head.len() <= max || before > max + METHOD_BYTES_MAX + 1 + LEADING_BLANK_MAX {
        return Ok(());
    }
    let method = &head[..head.len().min(METHOD_BYTES_MAX + 1)];
    let Some(space) = find(method, b' ') else {
        return Ok(());
    };
    match head.get(space + 1..space + 2 + max) {
        Some(target) if target.iter().all(|&byte| byte > b' ') => Err(Fault::TargetTooLong),
        _ => Ok(()),
    }
}

/// Parses the head that begins `blank` bytes into `window`; `None` while it is incomplete.
#[inline(always)]
fn parse_request(
    window: &[u8],
    blank: usize,
    limits: &Limits,
    head: &mut Head,
    wishes: &mut Wishes,
) -> Result<Option<(usize, Framing)>, Fault> {
    let mut slots = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let fields_max = usize::from(limits.fields_max).min(FIELDS_MAX);
    let mut request = httparse::Request::new(&mut []);
    let bytes = &window[blank..];
    let len = match request.parse_with_uninit_headers(bytes, &mut slots[..fields_max]) {
        Ok(httparse::Status::Complete(len)) => blank + len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return blame(error, &request, bytes),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(Fault::BadRequestLine);
    };

    // httparse has seen `method SP target SP HTTP/1.x`, so the line's end is known by arithmetic.
    let start = blank + method.len() + 1;
    let target = Span::new(start, start + target.len());
    let line_end = target.start() + target.len() + " HTTP/1.x".len();
    require_crlf(window, line_end, len, request.headers)?;

    if method == "GET" {
        head.method = Method::GET;
    } else {
        head.method = read_method(method)?;
    }
    let version = if minor == 0 {
        Version::Http10
    } else {
        Version::Http11
    };
    head.parts.read(window, target, &head.method)?;
    let mut notes = Notes::default();
    for field in request.headers.iter() {
        notes.take(window, field, version)?;
    }
    notes.check_host(window, version, &head.parts)?;
    let framing = notes.framing(version, limits)?;
    // One by one, for they are in their place already: a whole head would be moved there.
    head.version = version;
    head.target = target;
    head.fields = Span::new(line_end + 2, len - 2);
    head.host = notes.host;
    wishes.keeps_alive = notes.keeps_alive(version);
    wishes.expects_continue = notes.expects_continue;
    Ok(Some((len, framing)))
}

/// Every line must end in CR LF. httparse takes a bare LF as well, but no CR without its LF, so
/// a look at the byte before each LF is enough.
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

/// Where `part`, a slice of `whole`, begins in it.
#[inline]
fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

fn read_method(method: &str) -> Result<Method, Fault> {
    if method.len() > METHOD_BYTES_MAX {
        return Err(Fault::BadRequestLine);
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Fault::BadRequestLine)?;
    if method == Method::CONNECT {
        Err(Fault::UnsupportedMethod)
    } else {
        Ok(method)
    }
}

/// What httparse's complaint means; `Ok(None)` where more bytes have to tell.
#[cold]
fn blame<T>(
    error: httparse::Error,
    request: &httparse::Request<'_, '_>,
    bytes: &[u8],
) -> Result<Option<T>, Fault> {
    use httparse::Error;
    let after = |part: Option<&str>, start: usize| start + part.map_or(0, |part| part.len() + 1);
    let target = after(request.method, 0);
    let version = after(request.path, target);
    let rest = |start: usize| bytes.get(start..).unwrap_or_default();
    Err(match error {
        Error::TooManyHeaders => Fault::TooManyFields,
        Error::HeaderName | Error::HeaderValue => Fault::BadField,
        Error::Version => return blame_version(rest(version)),
        // A CR without LF: after the version, or where a field or the empty line should begin.
        Error::NewLine if is_line_whole(rest(version)) => Fault::BadField,
        // The target is missing, the line ends with it as in HTTP/0.9, or it holds a wrong byte.
        Error::Token if request.method.is_some() => match rest(target) {
            [b' ', ..] => Fault::BadRequestLine,
            text => match text.iter().find(|&&byte| byte <= b' ' || byte == 0x7f) {
                Some(b'\r' | b'\n') => Fault::BadRequestLine,
                _ => Fault::BadTarget,
            },
        },
        Error::Token | Error::NewLine | Error::Status => Fault::BadRequestLine,
    })
}

/// Whether the version is followed by a line end.
fn is_line_whole(version: &[u8]) -> bool {
    matches!(
        version.get("HTTP/1.1".len()..),
        Some([b'\n', ..] | [b'\r', b'\n', ..])
    )
}

/// Tells a version we do not speak from one that is none; `rest` begins with it.
fn blame_version<T>(rest: &[u8]) -> Result<Option<T>, Fault> {
    const FORM: &[u8] = b"HTTP/0.0";
    let fits = |(&byte, &form): (&u8, &u8)| {
        if form == b'0' {
            byte.is_ascii_digit()
        } else {
            byte == form
        }
    };
    if !rest.iter().zip(FORM).all(fits) {
        return Err(Fault::BadRequestLine);
    }
    match rest.get(FORM.len()) {
        Some(b'\r' | b'\n') => Err(Fault::UnsupportedVersion),
        Some(_) => Err(Fault::BadRequestLine),
        None => Ok(None),
    }
}

/// What the fields say about framing, persistence and host.
#[derive(Default)]
struct Notes {
    host: Option<Span>,
    length: Option<u64>,
    has_coding: bool,
    has_content_type: bool,
    expects_continue: bool,
    wants_close: bool,
    wants_keep_alive: bool,
}

impl Notes {
    /// Notes one field. The length of a name leaves at most one to compare with.
    #[inline]
    fn take(
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
                // RFC 9110 §10.1.1: from HTTP/1.0 the field is ignored.
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Fault::ExpectationFailed);
                }
                self.expects_continue = true;
            }
            10 if is("connection") => {
                for option in tokens(value) {
                    self.wants_close |= option.eq_ignore_ascii_case(b"close");
                    self.wants_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
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
            17 if is("transfer-encoding") => {
                let is_second = std::mem::replace(&mut self.has_coding, true);
                if is_second || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::UnsupportedTransferCoding);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 §3.2: one Host in HTTP/1.1, and a valid one; an absolute-form target repeats it.
    /// An empty Host stands for a target without authority.
    fn check_host(&self, window: &[u8], version: Version, target: &Target) -> Result<(), Fault> {
        let Some(host) = self.host.map(|host| host.of(window)) else {
            return match version {
                Version::Http10 => Ok(()),
                Version::Http11 => Err(Fault::MissingHost),
            };
        };
        match target.allows_host(host, window) {
            true => Ok(()),
            false => Err(Fault::BadHost),
        }
    }

    /// RFC 9112 §6.3, with every doubtful case refused.
    fn framing(&self, version: Version, limits: &Limits) -> Result<Framing, Fault> {
        match (self.has_coding, self.length) {
            (true, Some(_)) => Err(Fault::ConflictingFraming),
            (true, None) if version == Version::Http10 => Err(Fault::ConflictingFraming),
            (true, None) => Ok(Framing::Chunked),
            (false, None | Some(0)) => Ok(Framing::None),
            (false, Some(length)) if limits.forbid_body(length) => Err(Fault::BodyTooLarge),
            (false, Some(length)) => Ok(Framing::Length(length)),
        }
    }

    /// RFC 9112 §9.3.
    fn keeps_alive(&self, version: Version) -> bool {
        match version {
            Version::Http10 => self.wants_keep_alive && !self.wants_close,
            Version::Http11 => !self.wants_close,
        }
    }
}

/// `1*DIGIT` that fits; no sign, no list, not even of equal numbers.
fn read_length(value: &[u8]) -> Result<u64, Fault> {
    let add = |sum: u64, &byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    let length = value.iter().try_fold(0, add).filter(|_| !value.is_empty());
    length.ok_or(Fault::BadContentLength)
}
