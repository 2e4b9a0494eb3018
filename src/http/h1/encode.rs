//! Encodes the heads of responses (RFC 9112 §4 to §7). Framing and persistence are decided in
//! `codec.rs` and only encoded here.

use ::http::header::{CONNECTION, TRAILER, UPGRADE};
use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::http::date::DATE_LEN;
use crate::http::field_lines::{FieldFlags, names_in};
use crate::http::{FieldLines, Version};

/// The parts of a response that its head depends on.
///
/// `fields` yields names and values. Content-Length, Transfer-Encoding and the fields that concern
/// the connection are not sent: [`Codec::encode_head`] writes its own.
///
/// [`Codec::encode_head`]: super::Codec::encode_head
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a, F> {
    /// The status.
    pub status: StatusCode,
    /// The reason phrase, if it is not the standard one of the status.
    pub reason: Option<&'a HeaderValue>,
    /// Encoded fields that are shared with other responses.
    pub shared: Option<&'a FieldLines>,
    /// The fields of this response. They are iterated more than once.
    pub fields: F,
    /// The length of the body. For HEAD: the length that the body would have for GET.
    pub length: BodyLength,
}

impl<'a, F> ResponseHead<'a, F>
where
    F: Clone + IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
{
    /// An upper bound of the length of the encoded head, in bytes.
    #[must_use]
    pub fn head_bytes_max(&self) -> usize {
        let reason = self.reason.map_or(0, HeaderValue::len);
        let shared = self.shared.map_or(0, |shared| shared.lines().len());
        OWN_BYTES_MAX + reason + shared + lines_len(self.fields.clone())
    }
}

impl<F> ResponseHead<'_, F> {
    /// How the body ends in the response to a request of this version, which may be HEAD.
    #[inline(always)]
    pub(super) fn framing(&self, version: Version, is_head: bool) -> ResponseFraming {
        match (self.status, self.length) {
            // RFC 9110 §8.6: 204 has no Content-Length; in a 304 it would be that of the 200.
            (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) => ResponseFraming::None,
            // RFC 9110 §15.3.6: 205 has no content, and `Content-Length: 0` says so.
            (StatusCode::RESET_CONTENT, _) => ResponseFraming::Length(0),
            // RFC 9110 §9.3.2: a response to HEAD may omit Content-Length.
            (_, BodyLength::Omitted) if is_head => ResponseFraming::None,
            (_, BodyLength::Omitted) => ResponseFraming::Length(0),
            (_, BodyLength::Known(length)) => ResponseFraming::Length(length),
            (_, BodyLength::Unknown) if version == Version::Http10 => ResponseFraming::UntilClose,
            (_, BodyLength::Unknown) => ResponseFraming::Chunked,
        }
    }
}

/// The length of the encoded lines of `fields`, in bytes.
fn lines_len<'a>(fields: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>) -> usize {
    let line_len = |(name, value): (&HeaderName, &HeaderValue)| {
        "\r\n".len() + name.as_str().len() + ": ".len() + value.len()
    };
    fields.into_iter().map(line_len).sum()
}

/// The length of a response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// The length in bytes.
    Known(u64),
    /// No body was given: it has 0 bytes, unless the request is HEAD. Then it was left out, and its
    /// length for GET is not known.
    Omitted,
    /// Not known in advance. The body is chunked or, in HTTP/1.0, ends with the connection.
    Unknown,
}

/// The error for a body whose length differs from its Content-Length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongLength {
    /// The body is shorter.
    Short,
    /// The body is longer, or the response must not have one.
    Excess,
}

/// How the client finds the end of a response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseFraming {
    /// There is no body, and the head has no framing field.
    None,
    /// By Content-Length.
    Length(u64),
    /// By the last chunk.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// Whether the head has a Connection field about persistence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// No field: the version implies whether the connection persists.
    Implied,
    /// `Connection: keep-alive`, which HTTP/1.0 clients need.
    KeepAlive,
    /// `Connection: close`.
    Close,
}

/// Writes the parts of a head, in order.
///
/// # Panics
/// Every function panics if the head does not fit into `out`: see [`ResponseHead::head_bytes_max`].
pub(super) struct HeadWriter<'a> {
    /// The bytes after those that are written.
    rest: &'a mut [u8],
    /// The length of `out`.
    out_len: usize,
    flags: FieldFlags,
}

impl<'a> HeadWriter<'a> {
    pub(super) fn new(out: &'a mut [u8]) -> Self {
        Self {
            out_len: out.len(),
            rest: out,
            flags: FieldFlags::default(),
        }
    }

    /// Writes the status line. Its version is the server's, not the request's (RFC 9112 §2.3).
    ///
    /// The CR LF of each line is written with the next line: fewer copies are faster.
    #[inline]
    pub(super) fn status_line(&mut self, status: StatusCode, reason: Option<&HeaderValue>) {
        match (status, reason) {
            (StatusCode::OK, None) => self.put(b"HTTP/1.1 200 OK"),
            (StatusCode::NOT_MODIFIED, None) => self.put(b"HTTP/1.1 304 Not Modified"),
            (StatusCode::NOT_FOUND, None) => self.put(b"HTTP/1.1 404 Not Found"),
            _ => self.rare_status_line(status, reason),
        }
    }

    fn rare_status_line(&mut self, status: StatusCode, reason: Option<&HeaderValue>) {
        let standard = || status.canonical_reason().unwrap_or_default().as_bytes();
        self.put(b"HTTP/1.1 ");
        self.put(status.as_str().as_bytes());
        self.put(b" ");
        self.put(reason.map_or_else(standard, HeaderValue::as_bytes));
    }

    /// Writes the response's fields, except those that frame the message or concern only the
    /// connection. A value cannot contain CR or LF and so split the response: [`HeaderValue`]
    /// forbids both.
    #[inline]
    pub(super) fn fields<'f>(
        &mut self,
        fields: impl IntoIterator<Item = (&'f HeaderName, &'f HeaderValue)>,
    ) {
        // Not a `for` loop: `for_each` of a chain of iterators is faster.
        fields.into_iter().for_each(|(name, value)| {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            if self.flags.admits(name, value) {
                self.put(b"\r\n");
                self.put(name);
                self.put(b": ");
                self.put(value);
            }
        });
    }

    /// Writes fields that are already encoded.
    #[inline]
    pub(super) fn shared(&mut self, lines: &FieldLines) {
        self.put(lines.lines());
        self.flags.merge(lines.flags());
    }

    /// Whether the fields that were written may have to be left out: see [`FieldFlags`].
    #[inline]
    pub(super) fn is_special(&self) -> bool {
        self.flags.is_special
    }

    /// Returns a writer that has written the status line and the fields of `response` to `out`,
    /// without those that Connection names (RFC 9110 §7.6.1), without Trailer unless the response
    /// `may_have_trailers`, and with Date and Server once each.
    #[cold]
    #[inline(never)]
    pub(super) fn of_special<'f, F>(
        out: &'a mut [u8],
        response: &ResponseHead<'f, F>,
        may_have_trailers: bool,
    ) -> Self
    where
        F: Clone + IntoIterator<Item = (&'f HeaderName, &'f HeaderValue)>,
    {
        let connection = response.fields.clone().into_iter();
        let connection = connection.filter(|(name, _)| **name == CONNECTION);
        let unsent: Vec<&[u8]> = connection
            .flat_map(|(_, value)| names_in(value.as_bytes()))
            .collect();
        let is_sent = |name: &HeaderName| {
            let is_named = |other: &&[u8]| name.as_str().as_bytes().eq_ignore_ascii_case(other);
            !unsent.iter().any(is_named) && (may_have_trailers || *name != TRAILER)
        };
        let mut head = Self::new(out);
        head.status_line(response.status, response.reason);
        let own = response.fields.clone().into_iter();
        let shared = response.shared.into_iter().flat_map(FieldLines::fields);
        let shared = shared.map(|(name, value)| (name, value));
        head.fields(own.filter(|(name, _)| is_sent(name)));
        head.fields(shared.filter(|(name, _)| is_sent(name)));
        head
    }

    /// Writes the Upgrade fields among `fields`, and one `Connection: upgrade` if there are any.
    #[cold]
    pub(super) fn upgrade<'f>(
        &mut self,
        fields: impl IntoIterator<Item = (&'f HeaderName, &'f HeaderValue)>,
    ) {
        let mut has_upgrade = false;
        for (_, value) in fields.into_iter().filter(|(name, _)| **name == UPGRADE) {
            self.put(b"\r\nUpgrade: ");
            self.put(value.as_bytes());
            has_upgrade = true;
        }
        if has_upgrade {
            self.put(b"\r\nConnection: upgrade");
        }
    }

    /// Whether a Connection field of the response contains `close`.
    pub(super) fn wants_close(&self) -> bool {
        self.flags.wants_close
    }

    /// Writes Server and Date if the response has none, the fields of framing and persistence, and
    /// the empty line. Returns the length of the whole head.
    #[inline(always)]
    pub(super) fn finish(
        mut self,
        date: &[u8; DATE_LEN],
        framing: ResponseFraming,
        persistence: Persistence,
    ) -> usize {
        match (self.flags.has_server, self.flags.has_date) {
            (false, false) => self.put(b"\r\nServer: coring\r\nDate: "),
            (false, true) => self.put(b"\r\nServer: coring"),
            (true, false) => self.put(b"\r\nDate: "),
            (true, true) => {}
        }
        if !self.flags.has_date {
            self.put(date);
        }
        match framing {
            ResponseFraming::Length(length) => {
                self.put(b"\r\nContent-Length: ");
                self.decimal(length);
            }
            ResponseFraming::Chunked => self.put(b"\r\nTransfer-Encoding: chunked"),
            ResponseFraming::None | ResponseFraming::UntilClose => {}
        }
        match persistence {
            Persistence::Implied => self.put(b"\r\n\r\n"),
            Persistence::KeepAlive => self.put(b"\r\nConnection: keep-alive\r\n\r\n"),
            Persistence::Close => self.put(b"\r\nConnection: close\r\n\r\n"),
        }
        self.out_len - self.rest.len()
    }

    /// Writes `number` in decimal, two digits per step, from the last. Most lengths take one or two
    /// steps.
    #[inline]
    fn decimal(&mut self, mut number: u64) {
        let digits = match number {
            0..10 => 1,
            10..100 => 2,
            100..1000 => 3,
            1000..10_000 => 4,
            _ => number.ilog10() as usize + 1,
        };
        let out = self.take(digits);
        let mut left = digits;
        while left >= 2 {
            left -= 2;
            out[left..left + 2].copy_from_slice(&PAIRS[(number % 100) as usize]);
            number /= 100;
        }
        if left == 1 {
            out[0] = DIGITS[(number % 10) as usize];
        }
    }

    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        self.take(bytes.len()).copy_from_slice(bytes);
    }

    /// The place of the next `len` bytes.
    #[inline(always)]
    fn take(&mut self, len: usize) -> &'a mut [u8] {
        let place = self.rest.split_off_mut(..len);
        place.expect("a head is not longer than its `head_bytes_max`")
    }
}

/// The bytes to send before the data of a chunk: its size and CR LF.
#[derive(Clone, Copy, Debug)]
pub struct DataPrefix {
    bytes: [u8; Self::LEN_MAX],
    start: u8,
}

impl DataPrefix {
    /// Sixteen hexadecimal digits and CR LF.
    pub const LEN_MAX: usize = 18;

    /// The prefix of a chunk of `len` bytes, which must not be 0.
    pub(super) fn chunk(mut len: usize) -> Self {
        let mut prefix = Self {
            bytes: [0; Self::LEN_MAX],
            start: 18,
        };
        prefix.push(b'\n');
        prefix.push(b'\r');
        while len > 0 {
            prefix.push(DIGITS[len & 0xf]);
            len >>= 4;
        }
        prefix
    }

    /// The bytes to send.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }

    /// Inserts a byte before the others.
    fn push(&mut self, byte: u8) {
        self.start -= 1;
        self.bytes[usize::from(self.start)] = byte;
    }
}

/// Encodes the last chunk and the trailer section (RFC 9112 §7.1.2). Fields that are not allowed as
/// trailers are left out.
pub(super) fn last_chunk(trailers: &HeaderMap) -> Vec<u8> {
    let mut bytes = b"0\r\n".to_vec();
    for (name, value) in trailers
        .iter()
        .filter(|(name, _)| is_allowed_as_trailer(name))
    {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Whether a field is allowed as a trailer. A field that the recipient needs before the content is
/// not (RFC 9110 §6.5.1). The list is that of RFC 7230 §4.1.2 and the fields of the connection.
fn is_allowed_as_trailer(name: &HeaderName) -> bool {
    let name = name.as_str();
    let is_needed_before = matches!(
        name,
        "connection" | "content-length" | "keep-alive" | "proxy-connection" | "te" | "trailer"
            | "transfer-encoding" | "upgrade"
            // Routing, and request modifiers.
            | "expect" | "host" | "max-forwards" | "pragma" | "range"
            | "authorization" | "cookie" | "proxy-authenticate" | "proxy-authorization"
            | "set-cookie" | "www-authenticate"
            // Response control data.
            | "age" | "cache-control" | "date" | "expires" | "location" | "retry-after" | "vary"
            | "warning"
            | "content-encoding" | "content-range" | "content-type"
    );
    !is_needed_before && !name.starts_with("if-")
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The decimal numbers from 00 to 99.
static PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [DIGITS[number / 10], DIGITS[number % 10]];
        number += 1;
    }
    pairs
};

/// The number of decimal digits of `u64::MAX`.
const DECIMAL_DIGITS_MAX: usize = 20;

/// The largest size of a head without the response's fields and reason phrase, in bytes.
const OWN_BYTES_MAX: usize = "HTTP/1.1 511 Network Authentication Required\r\n".len()
    + "Server: coring\r\n".len()
    + "Date: \r\n".len()
    + DATE_LEN
    + "Transfer-Encoding: chunked\r\n".len()
    + DECIMAL_DIGITS_MAX
    + "Connection: upgrade\r\n".len()
    + "Connection: keep-alive\r\n\r\n".len();
