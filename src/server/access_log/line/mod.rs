//! A line of the access log. It does not know when and where it is written.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use ::http::StatusCode;
use percent_encoding::percent_decode;

use super::escape::{put, put_number, put_text, user};
use super::format::{AccessLogFormat, Atom, LateAtom, ResponseValue, Segment, Style};
use crate::http::date::DATE_LEN;
use crate::http::field::Fields;
use crate::http::{Head, Version};
use crate::net::Stream;
use crate::server::close_reason::CloseReason;
use crate::service::Response;

/// The line of a request. It begins when the head has arrived, gets its late values from the
/// response, and is written when that is sent. Its buffer then serves another request.
#[derive(Debug)]
pub(in crate::server) struct Line {
    /// The line without its late values, which belong at `gaps`. Up to `prefix` it is the same for
    /// all requests of the connection.
    text: Vec<u8>,
    prefix: usize,
    gaps: Vec<usize>,
    client: Client,
    /// When the request arrived, if the format asks for its time.
    started: Option<Instant>,
    /// What the format asks for of the response.
    response_values: Vec<Option<Vec<u8>>>,
    /// A request that was refused before its head was read.
    refused: Option<Box<Refused>>,
    /// Why the request was refused, or its response cut short.
    pub(in crate::server) error: Option<&'static str>,
    pub(in crate::server) status: u16,
    pub(in crate::server) body_bytes: u64,
    /// The last queued byte of the response, counted from the first byte of the connection.
    pub(in crate::server) queued_to: u64,
    /// The whole response is queued.
    pub(in crate::server) is_complete: bool,
}

/// A request that was refused before its head was read.
#[derive(Debug)]
struct Refused {
    date: [u8; DATE_LEN],
    /// The first line, as far as it has arrived.
    line: Vec<u8>,
    /// No more bytes belong to it.
    is_whole: bool,
}

/// How much of the first line of a refused request is logged, in bytes.
const REFUSED_BYTES_MAX: usize = 1024;

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Client {
    Inet(SocketAddr),
    Unix {
        has_file: bool,
    },
    /// The peer has left already, so getpeername(2) fails.
    Gone,
}

impl Client {
    pub(super) fn of(stream: &Stream) -> Self {
        match stream.peer() {
            Some(peer) => Self::Inet(peer),
            None if stream.is_unix() => Self::Unix {
                has_file: stream.has_socket_file(),
            },
            None => Self::Gone,
        }
    }
}

/// What a line is about.
#[derive(Debug, Clone, Copy)]
enum Received<'a> {
    Nothing,
    /// A request's head and the bytes that it refers to.
    Head(&'a Head, &'a [u8]),
    /// The first line of a request that was refused.
    Refused(&'a [u8]),
}

impl Line {
    /// The capacity that an idle connection may keep for its next line, in bytes.
    const KEPT_BYTES: usize = 512;

    pub(super) fn of_client(client: Client, format: &AccessLogFormat) -> Box<Self> {
        let mut line = Box::new(Self {
            text: Vec::with_capacity(256),
            prefix: 0,
            gaps: Vec::new(),
            client,
            started: None,
            response_values: Vec::new(),
            refused: None,
            error: None,
            status: 0,
            body_bytes: 0,
            queued_to: 0,
            is_complete: false,
        });
        let segments = &format.segments[..format.connection_segments];
        line.append(segments, format, b"", Received::Nothing);
        line.prefix = line.text.len();
        line
    }

    /// Begins the line of a request whose head has arrived at `date`.
    pub(super) fn begin(
        &mut self,
        format: &AccessLogFormat,
        date: &[u8; DATE_LEN],
        (head, bytes): (&Head, &[u8]),
    ) {
        self.reset(format);
        self.append_request(format, date, Received::Head(head, bytes));
    }

    /// Begins the line of a request that is refused because of `error` before its head is read.
    pub(super) fn refuse(
        &mut self,
        format: &AccessLogFormat,
        date: &[u8; DATE_LEN],
        error: &'static str,
    ) {
        self.reset(format);
        self.error = Some(error);
        self.refused = Some(Box::new(Refused {
            date: *date,
            line: Vec::new(),
            is_whole: false,
        }));
    }

    /// Takes bytes of a request that is refused.
    pub(super) fn receive(&mut self, received: &[u8]) {
        let Some(refused) = &mut self.refused else {
            return;
        };
        for &byte in received {
            match byte {
                _ if refused.is_whole => return,
                // Empty lines may precede a request (RFC 9112 §2.2).
                b'\r' | b'\n' if refused.line.is_empty() => {}
                b'\n' => {
                    refused.is_whole = true;
                    if refused.line.ends_with(b"\r") {
                        refused.line.pop();
                    }
                }
                _ if refused.line.len() == REFUSED_BYTES_MAX => {
                    refused.is_whole = true;
                    refused.line.extend(b"...");
                }
                _ => refused.line.push(byte),
            }
        }
    }

    fn reset(&mut self, format: &AccessLogFormat) {
        self.text.truncate(self.prefix);
        self.gaps.clear();
        self.response_values.clear();
        (self.status, self.body_bytes, self.queued_to) = (0, 0, 0);
        (self.refused, self.error, self.is_complete) = (None, None, false);
        self.started = format.has_times.then(Instant::now);
    }

    /// The size of the line so far, in bytes.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Notes that only the first `sent` bytes of the connection are sent, because of `reason`.
    pub(super) fn cut(&mut self, sent: u64, reason: CloseReason) {
        self.error.get_or_insert_with(|| reason.cause());
        if self.status == 0 && !reason.is_by_client() {
            self.status = StatusCode::SERVICE_UNAVAILABLE.as_u16();
        }
        let unsent = self.queued_to.saturating_sub(sent);
        self.body_bytes = self.body_bytes.saturating_sub(unsent);
    }

    fn append_request(&mut self, format: &AccessLogFormat, date: &[u8], received: Received<'_>) {
        let segments = &format.segments[format.connection_segments..];
        self.append(segments, format, date, received);
    }

    fn append(
        &mut self,
        segments: &[Segment],
        format: &AccessLogFormat,
        date: &[u8],
        received: Received<'_>,
    ) {
        for segment in segments {
            match segment {
                Segment::Text(text) => self.text.extend_from_slice(text),
                Segment::Early(atom, style) => self.put(atom, *style, format, date, received),
                Segment::Late(..) => self.gaps.push(self.text.len()),
            }
        }
    }

    fn put(
        &mut self,
        atom: &Atom,
        style: Style,
        format: &AccessLogFormat,
        date: &[u8],
        received: Received<'_>,
    ) {
        let out = &mut self.text;
        let fields = match received {
            Received::Head(head, bytes) => Some(head.fields(bytes)),
            Received::Nothing | Received::Refused(_) => None,
        };
        let value = match (atom, received) {
            (Atom::Time, _) => return append_date(date, style, out),
            (Atom::ClientHost | Atom::ClientAddress, _) => {
                let client = client(self.client, format, fields.unwrap_or_default());
                return append_client(client, *atom == Atom::ClientAddress, style, out);
            }
            (_, Received::Nothing) => None,
            (_, Received::Refused(line)) => refused_part(atom, line),
            (Atom::RequestLine, Received::Head(head, bytes)) => {
                return append_request_line(head, bytes, style, out);
            }
            (Atom::Method, Received::Head(head, _)) => Some(head.method.as_str().as_bytes()),
            (Atom::Target, Received::Head(head, bytes)) => Some(head.target(bytes).as_bytes()),
            (Atom::Path, Received::Head(head, bytes)) => {
                let path: Vec<u8> = percent_decode(head.path(bytes)).collect();
                return put(Some(&path), style, out);
            }
            (Atom::Query, Received::Head(head, bytes)) => {
                Some(head.query(bytes).unwrap_or_default().as_bytes())
            }
            (Atom::Protocol, Received::Head(head, _)) => Some(protocol(head).as_bytes()),
            (Atom::User, _) => {
                let field = fields.and_then(|fields| fields.get("authorization"));
                return put(field.and_then(user).as_deref(), style, out);
            }
            (Atom::Host, Received::Head(head, bytes)) => head.host(bytes).map(str::as_bytes),
            (Atom::Field(name), _) => fields.and_then(|fields| fields.get(name)),
        };
        put(value, style, out);
    }

    /// Takes what the format asks for of the response.
    pub(in crate::server) fn take_values(&mut self, format: &AccessLogFormat, response: &Response) {
        if format.response_values.is_empty() {
            return;
        }
        self.response_values.clear();
        self.response_values
            .extend(format.response_values.iter().map(|value| match value {
                ResponseValue::Note(name) => Some(response.log_note(name)?.as_bytes().to_vec()),
                ResponseValue::Field(name) => {
                    let mut headers = response.headers();
                    match headers.find(|(other, _)| other.as_str() == name) {
                        Some((_, value)) => Some(value.as_bytes().to_vec()),
                        None if name == "content-length" => response
                            .body_length()
                            .map(|length| length.to_string().into_bytes()),
                        None => None,
                    }
                }
            }));
    }

    /// Appends the line to `lines`.
    pub(super) fn write_to(&mut self, format: &AccessLogFormat, lines: &mut Vec<u8>) {
        if let Some(refused) = self.refused.take() {
            self.append_request(format, &refused.date, Received::Refused(&refused.line));
        }
        // 499, as in nginx: the client left before it got a response.
        if self.status == 0 {
            self.status = 499;
        }
        let mut written = 0;
        for ((atom, style), &gap) in format.late().zip(&self.gaps) {
            lines.extend_from_slice(&self.text[written..gap]);
            written = gap;
            self.put_late(atom, style, lines);
        }
        lines.extend_from_slice(&self.text[written..]);
        if self.text.capacity() > Self::KEPT_BYTES {
            self.text.truncate(self.prefix);
            self.text.shrink_to(Self::KEPT_BYTES);
        }
    }

    fn put_late(&self, atom: LateAtom, style: Style, out: &mut Vec<u8>) {
        let taken = || {
            self.started
                .map(|started| started.elapsed())
                .unwrap_or_default()
        };
        let whole = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        match atom {
            LateAtom::Status => put_number(self.status.into(), out),
            LateAtom::BodyBytes => put_number(self.body_bytes, out),
            LateAtom::Error => put(self.error.map(str::as_bytes), style, out),
            LateAtom::Seconds => put_number(taken().as_secs(), out),
            LateAtom::Milliseconds => put_number(whole(taken().as_millis()), out),
            LateAtom::Microseconds => put_number(whole(taken().as_micros()), out),
            LateAtom::Decimal => {
                let taken = taken();
                let (seconds, micros) = (taken.as_secs(), taken.subsec_micros());
                write!(out, "{seconds}.{micros:06}").expect("a Vec takes any bytes");
            }
            LateAtom::Phrase => {
                let status = StatusCode::from_u16(self.status).ok();
                let phrase = status.and_then(|status| status.canonical_reason());
                out.extend_from_slice(phrase.unwrap_or_default().as_bytes());
            }
            LateAtom::Colour => out.extend_from_slice(match self.status / 100 {
                1 => b"\x1b[97m",
                2 => b"\x1b[32m",
                3 => b"\x1b[33m",
                4 => b"\x1b[31m",
                _ => b"\x1b[91m",
            }),
            LateAtom::Response(index) => {
                let value = self.response_values.get(index).and_then(Option::as_deref);
                match value {
                    Some(number) if style == Style::Json && is_number(number) => {
                        out.extend_from_slice(number);
                    }
                    _ => put(value, style, out),
                }
            }
        }
    }
}

/// The client that a line names: the one that a trusted peer names, or else the peer.
fn client(peer: Client, format: &AccessLogFormat, fields: Fields<'_>) -> Client {
    let Some(trusted) = &format.trusted else {
        return peer;
    };
    let is_trusted = match peer {
        Client::Inet(peer) => trusted.contains(peer.ip()),
        // The permissions of the file decide which processes connect.
        Client::Unix { has_file } => has_file || trusted.is_everyone(),
        Client::Gone => false,
    };
    match trusted.client(fields) {
        Some(named) if is_trusted => Client::Inet(named),
        _ => peer,
    }
}

fn append_client(client: Client, has_port: bool, style: Style, out: &mut Vec<u8>) {
    match client {
        Client::Gone => put(None, style, out),
        Client::Unix { .. } => put(Some(b"unix:"), style, out),
        Client::Inet(address) => {
            let host = address.ip().to_canonical();
            let text = match host {
                IpAddr::V6(_) | IpAddr::V4(_) if !has_port => host.to_string(),
                // As uvicorn writes it: without brackets.
                _ => format!("{host}:{}", address.port()),
            };
            put(Some(text.as_bytes()), style, out);
        }
    }
}

fn append_request_line(head: &Head, bytes: &[u8], style: Style, out: &mut Vec<u8>) {
    let target = head.target(bytes);
    match style {
        Style::Text { end, is_quoted } => {
            put_text(head.method.as_str().as_bytes(), end, is_quoted, out);
            out.push(b' ');
            put_text(target.as_bytes(), end, is_quoted, out);
            out.push(b' ');
            out.extend_from_slice(protocol(head).as_bytes());
        }
        Style::Json => {
            let line = format!("{} {target} {}", head.method, protocol(head));
            put(Some(line.as_bytes()), style, out);
        }
    }
}

/// The part of a refused request's first line that an atom names, as far as there is one.
fn refused_part<'a>(atom: &Atom, line: &'a [u8]) -> Option<&'a [u8]> {
    let is_space = |&byte: &u8| byte == b' ';
    let (method, rest) = match line.iter().position(is_space) {
        Some(at) => (Some(&line[..at]), &line[at + 1..]),
        None => (None, line),
    };
    let (target, protocol) = match rest.iter().rposition(is_space) {
        Some(at) if rest[at + 1..].starts_with(b"HTTP/") => (&rest[..at], Some(&rest[at + 1..])),
        _ => (rest, None),
    };
    let query = target.iter().position(|&byte| byte == b'?');
    let part = match atom {
        Atom::RequestLine => Some(line),
        Atom::Method => method,
        Atom::Target => Some(target),
        Atom::Path => Some(&target[..query.unwrap_or(target.len())]),
        Atom::Query => query.map(|at| &target[at + 1..]),
        Atom::Protocol => protocol,
        Atom::Time | Atom::ClientHost | Atom::ClientAddress | Atom::User => None,
        Atom::Host | Atom::Field(_) => None,
    };
    part.filter(|part| !part.is_empty())
}

/// Whether this is a number as JSON writes it, at least one of a simple form.
fn is_number(text: &[u8]) -> bool {
    let is_digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let whole = parts.next().is_some_and(is_digits) && !matches!(text, [b'0', b'0'..=b'9', ..]);
    whole && parts.next().is_none_or(is_digits)
}

fn protocol(head: &Head) -> &'static str {
    match head.version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
    }
}

/// Appends the date as `[22/Nov/2026:20:15:00 +0000]`, or as `"2026-11-22T20:15:00Z"` in JSON. It
/// is made from an IMF-fixdate.
fn append_date(date: &[u8], style: Style, out: &mut Vec<u8>) {
    if style != Style::Json {
        out.push(b'[');
        for (part, mark) in [(5..7, b'/'), (8..11, b'/'), (12..16, b':'), (17..25, b' ')] {
            out.extend_from_slice(&date[part]);
            out.push(mark);
        }
        return out.extend_from_slice(b"+0000]");
    }
    let names = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let month = names.chunks(3).position(|name| name == &date[8..11]);
    out.push(b'"');
    out.extend_from_slice(&date[12..16]);
    let month = month.expect("a month") + 1;
    write!(out, "-{month:02}-").expect("a Vec takes any bytes");
    out.extend_from_slice(&date[5..7]);
    out.push(b'T');
    out.extend_from_slice(&date[17..25]);
    out.extend_from_slice(b"Z\"");
}

#[cfg(test)]
mod tests;
