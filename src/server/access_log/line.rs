//! A line of the access log, in the combined log format. It does not know when and where it is
//! written.

use std::fmt;
use std::io::Write;

use crate::http::date::DATE_LEN;
use crate::http::{Head, Version};
use crate::net::Stream;

/// The line of a connection's current request. It begins when the head has arrived, and gets its
/// status and length from the response. One buffer serves all requests of the connection.
#[derive(Debug)]
pub(in crate::server) struct Line {
    /// The line without status and length, which belong at `gap`. Up to `prefix` it is the same for
    /// all requests of the connection.
    text: Vec<u8>,
    prefix: usize,
    gap: usize,
    is_begun: bool,
    pub(in crate::server) status: u16,
    pub(in crate::server) body_bytes: u64,
}

impl Line {
    /// The capacity that an idle connection may keep for its next line, in bytes.
    const KEPT_BYTES: usize = 512;

    /// The line of a connection, before its first request.
    pub(in crate::server) fn new(stream: &Stream) -> Box<Self> {
        let mut text = Vec::with_capacity(256);
        match stream.peer() {
            Some(peer) => append(&mut text, format_args!("{}", peer.ip().to_canonical())),
            None if stream.is_unix() => text.extend(b"unix:"),
            // The peer has left already, so getpeername(2) fails.
            None => text.push(b'-'),
        }
        text.extend(b" - - [");
        Box::new(Self {
            prefix: text.len(),
            text,
            gap: 0,
            is_begun: false,
            status: 0,
            body_bytes: 0,
        })
    }

    /// Begins the line of a request whose `head`, in `bytes`, has arrived at `date`.
    pub(in crate::server) fn begin(&mut self, date: &[u8; DATE_LEN], head: &Head, bytes: &[u8]) {
        self.begin_at(date);
        let text = &mut self.text;
        escape(head.method.as_str().as_bytes(), text);
        text.push(b' ');
        escape(head.target(bytes).as_bytes(), text);
        text.extend(match head.version {
            Version::Http10 => b" HTTP/1.0\" ",
            Version::Http11 => b" HTTP/1.1\" ",
        });
        self.gap = text.len();
        let fields = head.fields(bytes);
        text.extend(b" \"");
        escape(fields.get("referer").unwrap_or(b"-"), text);
        text.extend(b"\" \"");
        escape(fields.get("user-agent").unwrap_or(b"-"), text);
        text.extend(b"\"\n");
    }

    /// Begins the line of an error response to a head that is invalid or was not read.
    pub(in crate::server) fn begin_without_request(&mut self, date: &[u8; DATE_LEN]) {
        self.begin_at(date);
        self.text.extend(b"-\" ");
        self.gap = self.text.len();
        self.text.extend(b" \"-\" \"-\"\n");
    }

    /// Whether a line was begun and is not yet written.
    pub(in crate::server) fn is_begun(&self) -> bool {
        self.is_begun
    }

    fn begin_at(&mut self, date: &[u8; DATE_LEN]) {
        self.text.truncate(self.prefix);
        append_date(date, &mut self.text);
        self.text.extend(b"] \"");
        (self.is_begun, self.status, self.body_bytes) = (true, 0, 0);
    }

    /// Appends the line to `lines`.
    pub(super) fn write_to(&mut self, lines: &mut Vec<u8>) {
        lines.extend_from_slice(&self.text[..self.gap]);
        // 499, as in nginx: the client left before it got a response.
        let status = if self.status == 0 { 499 } else { self.status };
        append(lines, format_args!("{status} {}", self.body_bytes));
        lines.extend_from_slice(&self.text[self.gap..]);
        self.is_begun = false;
        if self.text.capacity() > Self::KEPT_BYTES {
            self.text.truncate(self.prefix);
            self.text.shrink_to(Self::KEPT_BYTES);
        }
    }
}

/// Appends the date as `22/Nov/2026:20:15:00 +0000`, made from an IMF-fixdate.
fn append_date(date: &[u8; DATE_LEN], out: &mut Vec<u8>) {
    for (part, mark) in [(5..7, b'/'), (8..11, b'/'), (12..16, b':'), (17..25, b' ')] {
        out.extend_from_slice(&date[part]);
        out.push(mark);
    }
    out.extend(b"+0000");
}

fn append(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes any bytes");
}

/// Appends text of a client, escaped so that it cannot end its quotes or its line.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            b' '..=b'~' => out.push(byte),
            _ => append(out, format_args!("\\x{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_client_cannot_end_its_quotes() {
        let mut out = Vec::new();
        escape(b"a\"b\\c\nd\xff", &mut out);
        assert_eq!(out, br#"a\"b\\c\x0Ad\xFF"#);
    }

    #[test]
    fn the_date_has_the_common_log_format() {
        let mut out = Vec::new();
        append_date(b"Sun, 06 Nov 1994 08:49:37 GMT", &mut out);
        assert_eq!(out, b"06/Nov/1994:08:49:37 +0000");
    }
}
