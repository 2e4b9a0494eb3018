//! Response fields whose lines are written once and sent many times.

use std::cell::OnceCell;
use std::fmt;

use ::http::{HeaderName, HeaderValue};

use super::field::{Fields, Owner, has_token, is_token, is_value, owner, trim_ows};

/// Fields of responses, checked and written once: to be shared by many responses, or made from
/// fields that are bytes already.
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
/// The rules are those of a response's other fields: framing and what concerns the connection are
/// the server's and left out, though `Connection: close` is heeded; the server adds Date and Server
/// where there are none. Names are sent in lower case.
pub struct FieldLines {
    /// Each line with CR LF before it, and none at the end. HTTP/1 sends them as they are.
    lines: Box<[u8]>,
    noted: Noted,
    /// The same fields, for those who ask.
    fields: OnceCell<Box<[(HeaderName, HeaderValue)]>>,
}

/// A field that no response may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidField {
    name: String,
    is_name: bool,
}

/// What the fields of a response say of those that the server writes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Noted {
    pub(super) has_date: bool,
    pub(super) has_server: bool,
    pub(super) wants_close: bool,
}

impl Noted {
    /// Whether a field, whose name is in lower case, is the response's to send.
    #[inline]
    pub(super) fn admits(&mut self, name: &[u8], value: &[u8]) -> bool {
        match owner(name) {
            Owner::Response => {}
            Owner::Date => self.has_date = true,
            Owner::Server => self.has_server = true,
            Owner::Connection => {
                self.wants_close |= has_token(value, "close");
                return false;
            }
            Owner::Protocol => return false,
        }
        true
    }

    /// Notes what others have noted.
    #[inline]
    pub(super) fn add(&mut self, other: Self) {
        self.has_date |= other.has_date;
        self.has_server |= other.has_server;
        self.wants_close |= other.wants_close;
    }
}

impl FieldLines {
    /// The lines of these fields.
    #[must_use]
    pub fn new(fields: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Self {
        let (mut lines, mut noted) = (Vec::new(), Noted::default());
        for (name, value) in fields {
            write(
                name.as_str().as_bytes(),
                value.as_bytes(),
                &mut lines,
                &mut noted,
            );
        }
        Self::written(lines, noted)
    }

    /// The lines of fields that are names and values in bytes. White space around a value is left
    /// out.
    ///
    /// # Errors
    /// When a name is not a token, or a value has a control character.
    pub fn from_bytes<N, V>(fields: impl IntoIterator<Item = (N, V)>) -> Result<Self, InvalidField>
    where
        N: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let (mut lines, mut noted) = (Vec::new(), Noted::default());
        for (name, value) in fields {
            let (name, value) = (name.as_ref(), trim_ows(value.as_ref()));
            let is_name = !is_token(name) || name.len() > NAME_BYTES_MAX;
            if is_name || !is_value(value) {
                let name = String::from_utf8_lossy(name).into_owned();
                return Err(InvalidField { name, is_name });
            }
            write(&name.to_ascii_lowercase(), value, &mut lines, &mut noted);
        }
        Ok(Self::written(lines, noted))
    }

    fn written(lines: Vec<u8>, noted: Noted) -> Self {
        Self {
            lines: lines.into(),
            noted,
            fields: OnceCell::new(),
        }
    }

    /// The fields, without those that were left out.
    pub fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        self.fields.get_or_init(|| {
            let typed = |(name, value)| {
                let name = HeaderName::from_bytes(name).expect("a name that was checked");
                let value = HeaderValue::from_bytes(value).expect("a value that was checked");
                (name, value)
            };
            // The line end that is missing at the end is the one at the start.
            let mut section = self.lines.get(2..).unwrap_or_default().to_vec();
            section.extend_from_slice(b"\r\n");
            Fields::new(&section).map(typed).collect()
        })
    }

    /// Whether they ask to close the connection.
    pub(crate) fn wants_close(&self) -> bool {
        self.noted.wants_close
    }

    /// Each line with CR LF before it, and none at the end.
    #[inline]
    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// What they say of the server's fields.
    #[inline]
    pub(super) fn noted(&self) -> Noted {
        self.noted
    }
}

/// The longest name that is a `HeaderName`, in bytes.
const NAME_BYTES_MAX: usize = u16::MAX as usize;

/// Writes the line of a field, whose name is in lower case, if a response may send it.
fn write(name: &[u8], value: &[u8], lines: &mut Vec<u8>, noted: &mut Noted) {
    if noted.admits(name, value) {
        for part in [b"\r\n", name, b": ", value] {
            lines.extend_from_slice(part);
        }
    }
}

/// A map of names to values, as text.
impl fmt::Debug for FieldLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.fields().iter().map(|(name, value)| (name, value));
        f.debug_map().entries(fields).finish()
    }
}

impl fmt::Display for InvalidField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_name {
            true => write!(f, "{:?} is not the name of a field", self.name),
            false => write!(f, "the field {:?} has a control character", self.name),
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
        assert_eq!(lines.lines(), b"\r\nx-a: 1\r\nx-a: \r\netag: \"\xff:\"");
        let expected: [(&str, &[u8]); 3] = [("x-a", b"1"), ("x-a", b""), ("etag", b"\"\xff:\"")];
        assert_eq!(fields(&lines), expected);
        let again = FieldLines::new(lines.fields().to_vec());
        assert_eq!(again.lines(), lines.lines());
    }

    #[test]
    fn what_would_break_out_of_a_line_is_refused() {
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
                format!("{name:?} is not the name of a field")
            );
        }
        for value in ["a\r\nb: c", "a\n", "\0", "\x7f"] {
            let expected = "the field \"x-y\" has a control character";
            assert_eq!(error("x-y", value), expected, "{value:?}");
        }
        let longest = "a".repeat(NAME_BYTES_MAX);
        let lines = FieldLines::from_bytes([(&longest, "1")]).unwrap();
        assert_eq!(fields(&lines).len(), 1);
    }

    #[test]
    fn the_servers_own_fields_are_left_out() {
        let lines = FieldLines::from_bytes([
            ("Content-Length", "5"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "keep-alive"),
            ("Upgrade", "x"),
            ("x-a", "1"),
        ]);
        let lines = lines.unwrap();
        assert_eq!(fields(&lines), [("x-a", &b"1"[..])]);
        assert!(!lines.noted().wants_close);
        let close = FieldLines::from_bytes([("connection", "x, Close")]).unwrap();
        assert!(close.lines().is_empty() && close.noted().wants_close);
    }
}
