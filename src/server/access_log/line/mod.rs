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
use crate::service::Response;

/// The line of a connection's current request. It begins when the head has arrived, and gets its
/// late values from the response. One buffer serves all requests of the connection.
#[derive(Debug)]
pub(in crate::server) struct Line {
    /// The line without its late values, which belong at `gaps`. Up to `prefix` it is the same for
    /// all requests of the connection.
    text: Vec<u8>,
    prefix: usize,
    gaps: Vec<usize>,
    client: Client,
    is_begun: bool,
    /// When the request arrived, if the format asks for its time.
    started: Option<Instant>,
    /// What the format asks for of the response.
    response_values: Vec<Option<Vec<u8>>>,
    pub(in crate::server) status: u16,
    pub(in crate::server) body_bytes: u64,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
enum Client {
    Inet(SocketAddr),
    Unix,
    /// The peer has left already, so getpeername(2) fails.
    Gone,
}

/// A request's head and the bytes that it refers to; none if it is invalid or was not read.
type Received<'a> = Option<(&'a Head, &'a [u8])>;

impl Line {
    /// The capacity that an idle connection may keep for its next line, in bytes.
    const KEPT_BYTES: usize = 512;

    /// The line of a connection, before its first request.
    pub(in crate::server) fn new(stream: &Stream, format: &AccessLogFormat) -> Box<Self> {
        let client = match stream.peer() {
            Some(peer) => Client::Inet(peer),
            None if stream.is_unix() => Client::Unix,
            None => Client::Gone,
        };
        Self::of_client(client, format)
    }

    fn of_client(client: Client, format: &AccessLogFormat) -> Box<Self> {
        let mut line = Box::new(Self {
            text: Vec::with_capacity(256),
            prefix: 0,
            gaps: Vec::new(),
            client,
            is_begun: false,
            started: None,
            response_values: Vec::new(),
            status: 0,
            body_bytes: 0,
        });
        let segments = &format.segments[..format.connection_segments];
        line.append(segments, format, b"", None);
        line.prefix = line.text.len();
        line
    }

    /// Begins the line of a request whose head has arrived at `date`.
    pub(in crate::server) fn begin(
        &mut self,
        format: &AccessLogFormat,
        date: &[u8; DATE_LEN],
        received: Received<'_>,
    ) {
        self.text.truncate(self.prefix);
        self.gaps.clear();
        self.response_values.clear();
        (self.is_begun, self.status, self.body_bytes) = (true, 0, 0);
        self.started = format.has_times.then(Instant::now);
        let segments = &format.segments[format.connection_segments..];
        self.append(segments, format, date, received);
    }

    /// Whether a line was begun and is not yet written.
    pub(in crate::server) fn is_begun(&self) -> bool {
        self.is_begun
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
        let fields = received.map(|(head, bytes)| head.fields(bytes));
        let value = match (atom, received) {
            (Atom::Time, _) => return append_date(date, style, out),
            (Atom::ClientHost | Atom::ClientAddress, _) => {
                let client = client(self.client, format, fields.unwrap_or_default());
                return append_client(client, *atom == Atom::ClientAddress, style, out);
            }
            (_, None) => None,
            (Atom::RequestLine, Some((head, bytes))) => {
                return append_request_line(head, bytes, style, out);
            }
            (Atom::Method, Some((head, _))) => Some(head.method.as_str().as_bytes()),
            (Atom::Target, Some((head, bytes))) => Some(head.target(bytes).as_bytes()),
            (Atom::Path, Some((head, bytes))) => {
                let path: Vec<u8> = percent_decode(head.path(bytes)).collect();
                return put(Some(&path), style, out);
            }
            (Atom::Query, Some((head, bytes))) => {
                Some(head.query(bytes).unwrap_or_default().as_bytes())
            }
            (Atom::Protocol, Some((head, _))) => Some(protocol(head).as_bytes()),
            (Atom::User, _) => {
                let field = fields.and_then(|fields| fields.get("authorization"));
                return put(field.and_then(user).as_deref(), style, out);
            }
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
        self.is_begun = false;
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
        Client::Unix => true,
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
        Client::Unix => put(Some(b"unix:"), style, out),
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
