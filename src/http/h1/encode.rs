//! From an answer to the bytes of its head (RFC 9112 §4 to §7). It refuses to know the exchange:
//! framing and persistence are decided in `connection.rs` and only written here.

use ::http::header::UPGRADE;
use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::http::FieldLines;
use crate::http::date::DATE_LEN;
use crate::http::field_lines::Noted;

/// What a service answers, as far as the head is concerned.
///
/// `fields` yields names and values; Content-Length, Transfer-Encoding and what belongs to
/// the connection are not among them, for they are ours (see [`Connection::send_head`]).
///
/// [`Connection::send_head`]: super::Connection::send_head
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a, F> {
    /// The status.
    pub status: StatusCode,
    /// The reason phrase, if it is not the usual one of the status.
    pub reason: Option<&'a HeaderValue>,
    /// Fields that other answers have, too.
    pub shared: Option<&'a FieldLines>,
    /// The fields, as something that can be walked more than once.
    pub fields: F,
    /// How long the body is. For an answer to HEAD: how long GET's would be, or zero if that is
    /// not known.
    pub length: BodyLength,
}

impl<'a, F> Answer<'a, F>
where
    F: Clone + IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
{
    /// A length in bytes that the head of this answer does not exceed.
    #[must_use]
    pub fn head_bytes_max(&self) -> usize {
        let reason = self.reason.map_or(0, HeaderValue::len);
        let shared = self.shared.map_or(0, |shared| shared.lines().len());
        OWN_BYTES_MAX + reason + shared + lines_len(self.fields.clone())
    }
}

/// How many bytes the lines of `fields` have.
fn lines_len<'a>(fields: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>) -> usize {
    let line_len = |(name, value): (&HeaderName, &HeaderValue)| {
        "\r\n".len() + name.as_str().len() + ": ".len() + value.len()
    };
    fields.into_iter().map(line_len).sum()
}

/// The length of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// This many bytes.
    Known(u64),
    /// It ends when it ends: chunked, or up to the end of an HTTP/1.0 connection.
    Unknown,
}

/// The body does not have the length that its head announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongLength {
    /// The body ended early.
    Short,
    /// The body went on after its end.
    Excess,
}

/// How the end of an answer's body will be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerFraming {
    /// There can be no body, and the head does not speak of one.
    None,
    /// By Content-Length.
    Length(u64),
    /// By the last chunk.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// What the head says about the connection's future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// What the version implies.
    Implied,
    /// `Connection: keep-alive`, which HTTP/1.0 needs to hear.
    KeepAlive,
    /// `Connection: close`.
    Close,
}

/// Writes the parts of a head, in their order.
///
/// # Panics
/// All its functions, where the head does not fit: see [`Answer::head_bytes_max`].
pub(super) struct HeadWriter<'a> {
    out: &'a mut [u8],
    len: usize,
    noted: Noted,
}

impl<'a> HeadWriter<'a> {
    pub(super) fn new(out: &'a mut [u8]) -> Self {
        Self {
            out,
            len: 0,
            noted: Noted::default(),
        }
    }

    /// The status line. Its version is ours, not the request's (RFC 9112 §2.3).
    ///
    /// The end of each line is written with the next one: few pieces are written faster than many.
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
        let usual = || status.canonical_reason().unwrap_or_default().as_bytes();
        self.put(b"HTTP/1.1 ");
        self.put(status.as_str().as_bytes());
        self.put(b" ");
        self.put(reason.map_or_else(usual, HeaderValue::as_bytes));
    }

    /// The answer's own fields, but for those that frame the message or concern only the
    /// connection. None can break out of its line (response splitting): their types hold that.
    #[inline]
    pub(super) fn fields<'f>(
        &mut self,
        fields: impl IntoIterator<Item = (&'f HeaderName, &'f HeaderValue)>,
    ) {
        for (name, value) in fields {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            if self.noted.admits(name, value) {
                self.put(b"\r\n");
                self.put(name);
                self.put(b": ");
                self.put(value);
            }
        }
    }

    /// Fields whose lines are there already.
    #[inline]
    pub(super) fn shared(&mut self, lines: &FieldLines) {
        self.put(lines.lines());
        self.noted.add(lines.noted());
    }

    /// The protocols that `fields` names for the connection to change to.
    #[cold]
    pub(super) fn upgrade<'f>(
        &mut self,
        fields: impl IntoIterator<Item = (&'f HeaderName, &'f HeaderValue)>,
    ) {
        for (name, value) in fields {
            if *name == UPGRADE {
                self.put(b"\r\nUpgrade: ");
                self.put(value.as_bytes());
                self.put(b"\r\nConnection: upgrade");
            }
        }
    }

    /// Whether the answer's `connection` field asked to close.
    pub(super) fn wants_close(&self) -> bool {
        self.noted.wants_close
    }

    /// Date and Server where the answer has none, framing, persistence and the empty line.
    /// Returns the length of the whole head.
    #[inline(always)]
    pub(super) fn finish(
        mut self,
        date: &[u8; DATE_LEN],
        framing: AnswerFraming,
        persistence: Persistence,
    ) -> usize {
        match (self.noted.has_server, self.noted.has_date) {
            (false, false) => self.put(b"\r\nServer: coring\r\nDate: "),
            (false, true) => self.put(b"\r\nServer: coring"),
            (true, false) => self.put(b"\r\nDate: "),
            (true, true) => {}
        }
        if !self.noted.has_date {
            self.put(date);
        }
        match framing {
            AnswerFraming::Length(length) => {
                self.put(b"\r\nContent-Length: ");
                self.decimal(length);
            }
            AnswerFraming::Chunked => self.put(b"\r\nTransfer-Encoding: chunked"),
            AnswerFraming::None | AnswerFraming::UntilClose => {}
        }
        match persistence {
            Persistence::Implied => self.put(b"\r\n\r\n"),
            Persistence::KeepAlive => self.put(b"\r\nConnection: keep-alive\r\n\r\n"),
            Persistence::Close => self.put(b"\r\nConnection: close\r\n\r\n"),
        }
        self.len
    }

    /// Two digits a step, from the last: most lengths take one or two.
    #[inline]
    fn decimal(&mut self, mut number: u64) {
        let digits = match number {
            0..10 => 1,
            10..100 => 2,
            100..1000 => 3,
            1000..10_000 => 4,
            _ => number.ilog10() as usize + 1,
        };
        let end = self.len + digits;
        let out = &mut self.out[self.len..end];
        let mut left = digits;
        while left >= 2 {
            left -= 2;
            out[left..left + 2].copy_from_slice(&PAIRS[(number % 100) as usize]);
            number /= 100;
        }
        if left == 1 {
            out[0] = DIGITS[(number % 10) as usize];
        }
        self.len = end;
    }

    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.out[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }
}

/// The bytes that go before a stretch of a chunked body.
#[derive(Clone, Copy, Debug)]
pub struct DataPrefix {
    bytes: [u8; Self::LEN_MAX],
    start: u8,
}

impl DataPrefix {
    /// Sixteen digits, CRLF.
    pub const LEN_MAX: usize = 18;

    /// What opens a chunk of `len` bytes.
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

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }

    /// Puts a byte before the others.
    fn push(&mut self, byte: u8) {
        self.start -= 1;
        self.bytes[usize::from(self.start)] = byte;
    }
}

/// The last chunk and, behind it, the trailer section (RFC 9112 §7.1.2). Fields that cannot be
/// trailers are left out.
pub(super) fn last_chunk(trailers: &HeaderMap) -> Vec<u8> {
    let mut bytes = b"0\r\n".to_vec();
    for (name, value) in trailers.iter().filter(|(name, _)| can_trail(name)) {
        for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(piece);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Whether a field may come after the content. Those that are needed before it may not (RFC 9110
/// §6.5.1); the list is that of RFC 7230 §4.1.2, with the fields of the connection.
fn can_trail(name: &HeaderName) -> bool {
    let name = name.as_str();
    let is_needed_before = matches!(
        name,
        "connection" | "content-length" | "keep-alive" | "proxy-connection" | "te" | "trailer"
            | "transfer-encoding" | "upgrade"
            // Routing and what modifies a request.
            | "expect" | "host" | "max-forwards" | "pragma" | "range"
            | "authorization" | "cookie" | "proxy-authenticate" | "proxy-authorization"
            | "set-cookie" | "www-authenticate"
            // What controls a response.
            | "age" | "cache-control" | "date" | "expires" | "location" | "retry-after" | "vary"
            | "warning"
            | "content-encoding" | "content-range" | "content-type"
    );
    !is_needed_before && !name.starts_with("if-")
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The numbers from 00 to 99.
static PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [DIGITS[number / 10], DIGITS[number % 10]];
        number += 1;
    }
    pairs
};

/// Digits of `u64::MAX`.
const DECIMAL_DIGITS_MAX: usize = 20;

/// What a head has besides the answer's fields, at most.
const OWN_BYTES_MAX: usize = "HTTP/1.1 511 Network Authentication Required\r\n".len()
    + "Server: coring\r\n".len()
    + "Date: \r\n".len()
    + DATE_LEN
    + "Transfer-Encoding: chunked\r\n".len()
    + DECIMAL_DIGITS_MAX
    + "Connection: upgrade\r\n".len()
    + "Connection: keep-alive\r\n\r\n".len();
