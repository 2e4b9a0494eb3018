//! The format of the access log's lines: text and atoms. It is parsed once, into segments. It does
//! not know the requests.

use std::fmt;

use crate::http::forwarded::TrustedPeers;

/// The format of the access log's lines: text with atoms like `%(h)s`, as gunicorn has them. An
/// atom without a value is `-`.
///
/// | atom | value |
/// |---|---|
/// | `h` | the client's address |
/// | `l` | `-` |
/// | `u` | the user of HTTP's Basic authentication |
/// | `t` | the time in UTC, in brackets: `[29/Nov/2026:20:15:00 +0000]` |
/// | `r` | the request line |
/// | `m`, `U`, `q`, `H` | its method, decoded path, query, protocol |
/// | `s` | the status |
/// | `b`, `B` | bytes of the response's body that were sent |
/// | `f`, `a` | Referer, User-Agent |
/// | `T`, `M`, `D`, `L` | the time until the response was sent: in s, ms, µs, and as `s.µs` |
/// | `X` | why the request was refused, or its response cut short |
/// | `p` | the process id of the server, as `<id>` |
/// | `{NAME}i`, `{NAME}o` | a header field of the request, of the response |
/// | `{NAME}e` | a variable of WSGI, as far as the request alone decides it |
/// | `{NAME}x` | what the service notes ([`Response::with_log_note`]) |
///
/// No request can end a line or a quoted part of it, or add a field: quotes, backslashes, bytes
/// that are not printable ASCII, spaces and brackets outside quotes, and the byte that follows the
/// atom in the format are escaped (`\"`, `\\`, `\x20`).
///
/// ```
/// use coring::{AccessLogFormat, Server};
///
/// let format = AccessLogFormat::parse(r#"%(h)s "%(r)s" %(s)s %(D)s"#).unwrap();
/// let server = Server::builder().access_log_format(format);
/// ```
///
/// [`Response::with_log_note`]: crate::Response::with_log_note
#[derive(Debug, Clone)]
pub struct AccessLogFormat {
    pub(super) segments: Vec<Segment>,
    /// How many of them, from the first, are the same for all requests of a connection.
    pub(super) connection_segments: usize,
    /// The fields and notes of the response that the atoms name.
    pub(super) response_values: Vec<ResponseValue>,
    /// Whether an atom needs the time that the request has taken.
    pub(super) has_times: bool,
    /// The peers that may name another client.
    pub(super) trusted: Option<TrustedPeers>,
}

/// Why a format is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidFormat(String);

impl fmt::Display for InvalidFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidFormat {}

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Text(Vec<u8>),
    /// Known when the head of the request has arrived.
    Early(Atom, Style),
    /// Known when the response is complete.
    Late(LateAtom, Style),
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As text that `end` follows.
    Text { end: u8, is_quoted: bool },
    /// As a value of JSON.
    Json,
}

/// A value that the request decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Atom {
    ClientHost,
    ClientAddress,
    Time,
    RequestLine,
    Method,
    Target,
    Path,
    Query,
    Protocol,
    User,
    /// The authority of the target, or else the field Host: the one that counts.
    Host,
    Field(String),
}

impl Atom {
    /// The value of the field `name`.
    fn field(name: &str) -> Self {
        match name.eq_ignore_ascii_case("host") {
            true => Self::Host,
            false => Self::Field(name.to_owned()),
        }
    }
}

/// A value that is known at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LateAtom {
    Status,
    /// The reason phrase that goes with the status.
    Phrase,
    /// The sequence by which a terminal shows the status in its colour.
    Colour,
    BodyBytes,
    /// Why the request was refused, or its response cut short.
    Error,
    Seconds,
    Milliseconds,
    Microseconds,
    /// Seconds with six decimals.
    Decimal,
    /// By its index in [`AccessLogFormat::response_values`].
    Response(usize),
}

/// A value that the response decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ResponseValue {
    Field(String),
    Note(String),
}

/// gunicorn's default format.
const GUNICORN: &str = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#;
const COMBINED: &str = r#"%(h)s - - %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#;

impl Default for AccessLogFormat {
    /// The combined format.
    fn default() -> Self {
        Self::parse(COMBINED).expect("a valid format")
    }
}

impl AccessLogFormat {
    /// The format that gunicorn has by default: the combined one, with the user's name.
    pub fn gunicorn() -> Self {
        Self::parse(GUNICORN).expect("a valid format")
    }

    /// The format that uvicorn has: `INFO:     127.0.0.1:1234 - "GET / HTTP/1.1" 200 OK`, with
    /// colours for a terminal or without.
    pub fn uvicorn(has_colours: bool) -> Self {
        let plain = |is_quoted| Style::Text {
            end: if is_quoted { b'"' } else { b' ' },
            is_quoted,
        };
        let text = |plain: &str, coloured: &str| {
            let text = if has_colours { coloured } else { plain };
            Segment::Text(text.into())
        };
        let mut segments = vec![
            text("INFO:     ", "\x1b[32mINFO\x1b[0m:     "),
            Segment::Early(Atom::ClientAddress, plain(false)),
            text(" - \"", " - \"\x1b[1m"),
            Segment::Early(Atom::RequestLine, plain(true)),
            text("\" ", "\x1b[0m\" "),
        ];
        if has_colours {
            segments.push(Segment::Late(LateAtom::Colour, plain(false)));
        }
        segments.extend([
            Segment::Late(LateAtom::Status, plain(false)),
            Segment::Text(b" ".into()),
            Segment::Late(LateAtom::Phrase, plain(false)),
            text("\n", "\x1b[0m\n"),
        ]);
        Self::of(segments, Vec::new())
    }

    /// A JSON object in each line. Bytes of clients that are not ASCII are given as the code points
    /// of the same numbers. A value that is missing is `null`.
    pub fn json() -> Self {
        let field = |name: &str| Segment::Early(Atom::field(name), Style::Json);
        let late = |atom| Segment::Late(atom, Style::Json);
        let notes = ["queue", "worker"];
        let values = [
            ("time", Segment::Early(Atom::Time, Style::Json)),
            ("client", Segment::Early(Atom::ClientHost, Style::Json)),
            ("method", Segment::Early(Atom::Method, Style::Json)),
            ("target", Segment::Early(Atom::Target, Style::Json)),
            ("protocol", Segment::Early(Atom::Protocol, Style::Json)),
            ("host", field("host")),
            ("status", late(LateAtom::Status)),
            ("bytes", late(LateAtom::BodyBytes)),
            ("seconds", late(LateAtom::Decimal)),
            ("error", late(LateAtom::Error)),
            ("referer", field("referer")),
            ("user_agent", field("user-agent")),
            (notes[0], late(LateAtom::Response(0))),
            (notes[1], late(LateAtom::Response(1))),
        ];
        let mut segments = Vec::new();
        for (at, (name, value)) in values.into_iter().enumerate() {
            let before = if at == 0 { "{" } else { "," };
            segments.push(Segment::Text(format!("{before}\"{name}\":").into()));
            segments.push(value);
        }
        segments.push(Segment::Text(b"}\n".into()));
        let notes = notes.map(|name| ResponseValue::Note(name.to_owned()));
        Self::of(segments, notes.into())
    }

    /// Reads a format.
    ///
    /// # Errors
    /// When something after a `%` is not `(NAME)s`, or the format contains a line break.
    pub fn parse(format: &str) -> Result<Self, InvalidFormat> {
        let mut parser = Parser::default();
        parser.parse(format)?;
        parser.text(b"\n");
        Ok(Self::of(parser.segments, parser.response_values))
    }

    /// Lets trusted peers name the client in `X-Forwarded-For`.
    #[must_use]
    pub fn with_forwarded_clients(mut self, trusted: TrustedPeers) -> Self {
        self.trusted = Some(trusted);
        self.count_connection_segments();
        self
    }

    /// Whether a line has notes of the service ([`Response::with_log_note`]).
    ///
    /// [`Response::with_log_note`]: crate::Response::with_log_note
    pub fn has_notes(&self) -> bool {
        let is_note = |value: &ResponseValue| matches!(value, ResponseValue::Note(_));
        self.response_values.iter().any(is_note)
    }

    fn of(segments: Vec<Segment>, response_values: Vec<ResponseValue>) -> Self {
        use LateAtom::{Decimal, Microseconds, Milliseconds, Seconds};
        let needs_time = |segment: &Segment| match segment {
            Segment::Late(atom, _) => {
                matches!(atom, Seconds | Milliseconds | Microseconds | Decimal)
            }
            _ => false,
        };
        let mut format = Self {
            has_times: segments.iter().any(needs_time),
            segments,
            connection_segments: 0,
            response_values,
            trusted: None,
        };
        format.count_connection_segments();
        format
    }

    fn count_connection_segments(&mut self) {
        let is_the_same = |segment: &&Segment| match segment {
            Segment::Text(_) => true,
            Segment::Early(Atom::ClientHost | Atom::ClientAddress, _) => self.trusted.is_none(),
            _ => false,
        };
        self.connection_segments = self.segments.iter().take_while(is_the_same).count();
    }

    pub(super) fn late(&self) -> impl Iterator<Item = (LateAtom, Style)> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Late(atom, style) => Some((*atom, *style)),
            _ => None,
        })
    }
}

/// Reads a format from left to right.
#[derive(Default)]
struct Parser {
    segments: Vec<Segment>,
    response_values: Vec<ResponseValue>,
    is_quoted: bool,
}

/// What an atom's name stands for.
enum Named {
    Early(Atom),
    Late(LateAtom),
    Text(String),
}

impl Parser {
    fn parse(&mut self, format: &str) -> Result<(), InvalidFormat> {
        if format.contains(['\n', '\r']) {
            return Err(InvalidFormat("a line of the log has no line break".into()));
        }
        let mut rest = format;
        while let Some((text, after)) = rest.split_once('%') {
            self.text(text.as_bytes());
            if let Some(after) = after.strip_prefix('%') {
                self.text(b"%");
                rest = after;
                continue;
            }
            let atom = after
                .strip_prefix('(')
                .and_then(|atom| atom.split_once(')'));
            let Some((name, after)) = atom else {
                let found: String = after.chars().take(1).collect();
                return Err(InvalidFormat(format!(
                    "`%{found}` is no atom; write %(NAME)s, as in %(h)s, or %% for a percent sign"
                )));
            };
            let Some(after) = after.strip_prefix(['s', 'd']) else {
                return Err(InvalidFormat(format!("write `%({name})` as `%({name})s`")));
            };
            // An atom that is followed by another one ends nowhere in particular.
            let end = after
                .bytes()
                .next()
                .filter(|&end| end != b'%')
                .unwrap_or(b' ');
            self.atom(name, end);
            rest = after;
        }
        self.text(rest.as_bytes());
        Ok(())
    }

    fn text(&mut self, text: &[u8]) {
        let quotes = text.iter().filter(|&&byte| byte == b'"').count();
        self.is_quoted ^= quotes % 2 == 1;
        match self.segments.last_mut() {
            Some(Segment::Text(last)) => last.extend(text),
            _ if text.is_empty() => {}
            _ => self.segments.push(Segment::Text(text.into())),
        }
    }

    fn atom(&mut self, name: &str, end: u8) {
        let style = Style::Text {
            end,
            is_quoted: self.is_quoted,
        };
        match self.named(name) {
            Named::Early(atom) => self.segments.push(Segment::Early(atom, style)),
            Named::Late(atom) => self.segments.push(Segment::Late(atom, style)),
            Named::Text(text) => self.text(text.as_bytes()),
        }
    }

    fn named(&mut self, name: &str) -> Named {
        if let Some((inner, kind)) = name.strip_prefix('{').and_then(|name| name.split_once('}')) {
            return match kind {
                "i" => Named::Early(Atom::field(inner)),
                "e" => variable(inner),
                "o" => self.response_value(ResponseValue::Field(inner.to_lowercase())),
                "x" => self.response_value(ResponseValue::Note(inner.to_owned())),
                _ => Named::Text("-".to_owned()),
            };
        }
        match name {
            "h" => Named::Early(Atom::ClientHost),
            "u" => Named::Early(Atom::User),
            "t" => Named::Early(Atom::Time),
            "r" => Named::Early(Atom::RequestLine),
            "m" => Named::Early(Atom::Method),
            "U" => Named::Early(Atom::Path),
            "q" => Named::Early(Atom::Query),
            "H" => Named::Early(Atom::Protocol),
            "f" => Named::Early(Atom::Field("referer".to_owned())),
            "a" => Named::Early(Atom::Field("user-agent".to_owned())),
            "s" => Named::Late(LateAtom::Status),
            "b" | "B" => Named::Late(LateAtom::BodyBytes),
            "X" => Named::Late(LateAtom::Error),
            "T" => Named::Late(LateAtom::Seconds),
            "M" => Named::Late(LateAtom::Milliseconds),
            "D" => Named::Late(LateAtom::Microseconds),
            "L" => Named::Late(LateAtom::Decimal),
            "p" => Named::Text(format!("<{}>", std::process::id())),
            _ => Named::Text("-".to_owned()),
        }
    }

    fn response_value(&mut self, value: ResponseValue) -> Named {
        self.response_values.push(value);
        Named::Late(LateAtom::Response(self.response_values.len() - 1))
    }
}

/// The atom of a variable of WSGI.
fn variable(name: &str) -> Named {
    let name = name.to_uppercase();
    Named::Early(match &*name {
        "REMOTE_ADDR" => Atom::ClientHost,
        "REQUEST_METHOD" => Atom::Method,
        "PATH_INFO" => Atom::Path,
        "QUERY_STRING" => Atom::Query,
        "RAW_URI" | "REQUEST_URI" => Atom::Target,
        "SERVER_PROTOCOL" => Atom::Protocol,
        "CONTENT_TYPE" | "CONTENT_LENGTH" => Atom::Field(name.replace('_', "-")),
        _ => match name.strip_prefix("HTTP_") {
            Some(field) => Atom::field(&field.replace('_', "-")),
            None => return Named::Text("-".to_owned()),
        },
    })
}
