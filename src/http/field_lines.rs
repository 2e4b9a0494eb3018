//! Response fields that are encoded once and sent with many responses.

use std::cell::OnceCell;
use std::fmt;

use ::http::{HeaderName, HeaderValue};

use super::field::{Fields, Owner, has_token, is_token, is_value, owner, tokens, trim_ows};

/// Response fields that are validated and encoded once, to be shared by many responses. They can
/// also be made from names and values that are raw bytes.
///
/// ```
/// use std::rc::Rc;
///
/// use coring::{FieldLines, Response, StatusCode};
///
/// let fields = [("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff")];
/// let lines = Rc::new(FieldLines::from_bytes(fields).unwrap());
/// let response = Response::new(StatusCode::OK).with_body("{}").with_field_lines(lines.clone());
/// assert_eq!(response.headers().count(), 2);
/// ```
///
/// The rules for a response's other fields apply here too. The server writes the fields that frame
/// the message or concern the connection, so these and the fields that Connection names are left
/// out; `Connection: close` still closes the connection. The server adds Date and Server if they
/// are missing. HTTP/1 sends the names with the letters that [`FieldLines::from_bytes`] got; a
/// [`HeaderName`] is always in lower case.
pub struct FieldLines {
    /// Each line has CR LF before it; the last line has none after it. HTTP/1 sends these bytes
    /// unchanged.
    lines: Box<[u8]>,
    flags: FieldFlags,
    /// The same fields, parsed at the first call of [`FieldLines::fields`].
    fields: OnceCell<Box<[(HeaderName, HeaderValue)]>>,
}

/// The error for a field whose name or value is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidField {
    name: String,
    is_name_invalid: bool,
}

/// Whether a response has the fields that the server adds otherwise, and whether it closes the
/// connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FieldFlags {
    pub(super) has_date: bool,
    pub(super) has_server: bool,
    /// Whether a Connection field contains `close`.
    pub(super) wants_close: bool,
    /// Whether some of the fields may have to be left out because of the others, or of the framing:
    /// a Connection field names one, Date or Server occurs twice, or there is a Trailer field.
    pub(super) is_special: bool,
}

impl FieldFlags {
    /// Notes a field, whose name must be in lower case. Returns whether it is sent.
    #[inline]
    pub(super) fn admits(&mut self, name: &[u8], value: &[u8]) -> bool {
        match owner(name) {
            Owner::Response => {}
            Owner::Date => return !std::mem::replace(&mut self.has_date, true),
            Owner::Server => return !std::mem::replace(&mut self.has_server, true),
            Owner::Connection => {
                self.wants_close |= has_token(value, "close");
                self.is_special |= names_in(value).next().is_some();
                return false;
            }
            Owner::Trailer => self.is_special = true,
            Owner::Protocol => return false,
        }
        true
    }

    /// Adds the flags of `other`.
    #[inline]
    pub(super) fn merge(&mut self, other: Self) {
        self.is_special |=
            other.is_special | self.has_date & other.has_date | self.has_server & other.has_server;
        self.has_date |= other.has_date;
        self.has_server |= other.has_server;
        self.wants_close |= other.wants_close;
    }
}

impl FieldLines {
    /// Encodes `fields`.
    #[must_use]
    pub fn new(fields: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Self {
        let mut encoder = Encoder::default();
        for (name, value) in fields {
            let name = name.as_str().as_bytes();
            encoder.add(name, name, value.as_bytes());
        }
        encoder.finish()
    }

    /// Encodes fields whose names and values are raw bytes. White space around a value is removed.
    /// The names keep their upper and lower case on HTTP/1, for clients that compare them exactly;
    /// [`FieldLines::fields`] returns them in lower case.
    ///
    /// # Errors
    /// If a name is not a token (RFC 9110 §5.6.2) or is longer than 65,535 bytes, or if a value
    /// contains a control character other than a tab.
    pub fn from_bytes<N, V>(fields: impl IntoIterator<Item = (N, V)>) -> Result<Self, InvalidField>
    where
        N: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let mut encoder = Encoder::default();
        for (name, value) in fields {
            let (name, value) = (name.as_ref(), trim_ows(value.as_ref()));
            let is_name_invalid = !is_token(name) || name.len() > NAME_BYTES_MAX;
            if is_name_invalid || !is_value(value) {
                let name = String::from_utf8_lossy(name).into_owned();
                return Err(InvalidField {
                    name,
                    is_name_invalid,
                });
            }
            encoder.add(&name.to_ascii_lowercase(), name, value);
        }
        Ok(encoder.finish())
    }

    /// The fields, without those that were left out. Their names are in lower case.
    pub fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        self.fields.get_or_init(|| {
            let typed = |(name, value)| {
                let name = HeaderName::from_bytes(name).expect("the name was validated");
                let value = HeaderValue::from_bytes(value).expect("the value was validated");
                (name, value)
            };
            Fields::new(&section(&self.lines)).map(typed).collect()
        })
    }

    /// Whether the fields include `Connection: close`.
    pub(crate) fn wants_close(&self) -> bool {
        self.flags.wants_close
    }

    /// The encoded lines. Each has CR LF before it; the last one has none after it.
    #[inline]
    pub(crate) fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// The flags of these fields.
    #[inline]
    pub(super) fn flags(&self) -> FieldFlags {
        self.flags
    }
}

/// The longest name that `HeaderName` accepts, in bytes.
const NAME_BYTES_MAX: usize = u16::MAX as usize;

/// The names of fields in a value of Connection: its options, except those that are not names.
pub(super) fn names_in(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_name = |option: &&[u8]| {
        let is = |other: &str| option.eq_ignore_ascii_case(other.as_bytes());
        !is("close") && !is("keep-alive") && !is("upgrade")
    };
    tokens(value).filter(is_name)
}

/// The encoded lines as a section, which has CR LF after each line, and not before.
fn section(lines: &[u8]) -> Vec<u8> {
    let mut section = lines.get(2..).unwrap_or_default().to_vec();
    section.extend_from_slice(b"\r\n");
    section
}

/// Encodes fields as lines.
#[derive(Default)]
struct Encoder {
    lines: Vec<u8>,
    flags: FieldFlags,
    /// The fields that Connection names.
    unsent: Vec<Vec<u8>>,
}

impl Encoder {
    /// Adds a field, with its name in `lower` case and as it is written.
    fn add(&mut self, lower: &[u8], name: &[u8], value: &[u8]) {
        if self.flags.admits(lower, value) {
            write(name, value, &mut self.lines);
        } else if owner(lower) == Owner::Connection {
            let names = names_in(value).map(<[u8]>::to_ascii_lowercase);
            self.unsent.extend(names);
        }
    }

    fn finish(self) -> FieldLines {
        let unsent = &self.unsent;
        if !unsent.is_empty() {
            let mut sent = Self::default();
            sent.flags.wants_close = self.flags.wants_close;
            for (name, value) in Fields::new(&section(&self.lines)) {
                let lower = name.to_ascii_lowercase();
                if !unsent.contains(&lower) {
                    sent.add(&lower, name, value);
                }
            }
            return sent.finish();
        }
        FieldLines {
            lines: self.lines.into(),
            flags: self.flags,
            fields: OnceCell::new(),
        }
    }
}

/// Appends the line of a field.
fn write(name: &[u8], value: &[u8], lines: &mut Vec<u8>) {
    for part in [b"\r\n", name, b": ", value] {
        lines.extend_from_slice(part);
    }
}

/// Formats the fields as a map from names to values.
impl fmt::Debug for FieldLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.fields().iter().map(|(name, value)| (name, value));
        f.debug_map().entries(fields).finish()
    }
}

impl fmt::Display for InvalidField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_name_invalid {
            true => write!(f, "{:?} is not a valid field name", self.name),
            false => write!(
                f,
                "the value of the field {:?} contains a control character",
                self.name
            ),
        }
    }
}

impl std::error::Error for InvalidField {}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &FieldLines) -> Vec<(&str, &[u8])> {
        let fields = lines.fields().iter();
        fields
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect()
    }

    #[test]
    fn fields_are_written_as_lines_and_read_back() {
        let none = FieldLines::from_bytes::<&str, &str>([]).unwrap();
        assert_eq!((none.lines(), none.fields().len()), (&b""[..], 0));
        let given: [(&str, &[u8]); 3] = [("X-A", b" 1\t"), ("x-a", b""), ("etag", b"\"\xff:\"")];
        let lines = FieldLines::from_bytes(given).unwrap();
        assert_eq!(lines.lines(), b"\r\nX-A: 1\r\nx-a: \r\netag: \"\xff:\"");
        let expected: [(&str, &[u8]); 3] = [("x-a", b"1"), ("x-a", b""), ("etag", b"\"\xff:\"")];
        assert_eq!(fields(&lines), expected);
        let again = FieldLines::new(lines.fields().to_vec());
        assert_eq!(again.lines(), lines.lines().to_ascii_lowercase());
    }

    #[test]
    fn invalid_names_and_values_are_refused() {
        let error = |name: &str, value: &str| {
            let made = FieldLines::from_bytes([("x-ok", "1"), (name, value)]);
            made.unwrap_err().to_string()
        };
        for name in [
            "",
            "a b",
            "a:",
            "a\r\nb",
            "é",
            &"a".repeat(NAME_BYTES_MAX + 1),
        ] {
            assert_eq!(
                error(name, "1"),
                format!("{name:?} is not a valid field name")
            );
        }
        for value in ["a\r\nb: c", "a\n", "\0", "\x7f"] {
            let expected = "the value of the field \"x-y\" contains a control character";
            assert_eq!(error("x-y", value), expected, "{value:?}");
        }
        let longest = "a".repeat(NAME_BYTES_MAX);
        let lines = FieldLines::from_bytes([(&longest, "1")]).unwrap();
        assert_eq!(fields(&lines).len(), 1);
    }

    #[test]
    fn fields_that_only_the_server_writes_are_left_out() {
        let lines = FieldLines::from_bytes([
            ("Content-Length", "5"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "keep-alive"),
            ("Upgrade", "x"),
            ("x-a", "1"),
        ]);
        let lines = lines.unwrap();
        assert_eq!(fields(&lines), [("x-a", &b"1"[..])]);
        assert!(!lines.flags().wants_close);
        let close = FieldLines::from_bytes([("connection", "x, Close")]).unwrap();
        assert!(close.lines().is_empty() && close.flags().wants_close);
        let named = [
            ("X-Hop", "1"),
            ("Connection", "close, x-hop"),
            ("X-A", "1"),
            ("Date", "x"),
        ];
        let named = FieldLines::from_bytes([&named[..], &[("date", "y")]].concat()).unwrap();
        assert_eq!(named.lines(), b"\r\nX-A: 1\r\nDate: x");
        assert!(named.flags().wants_close && named.flags().has_date);
    }
}
