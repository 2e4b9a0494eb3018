//! Response fields that are written once and sent many times.

use ::http::{HeaderName, HeaderValue};

use super::field::{Owner, owner};

/// Fields that many responses share, with their lines written once.
///
/// HTTP/1 sends the lines as they are; a protocol that encodes fields differently walks
/// [`FieldLines::fields`].
#[derive(Debug)]
pub struct FieldLines {
    fields: Box<[(HeaderName, HeaderValue)]>,
    lines: Box<[u8]>,
}

impl FieldLines {
    /// The lines of `fields`.
    ///
    /// # Panics
    /// If the connection writes one of them: Date, Server, framing, persistence.
    #[must_use]
    pub fn new(fields: impl Into<Box<[(HeaderName, HeaderValue)]>>) -> Self {
        let fields = fields.into();
        let mut lines = Vec::new();
        for (name, value) in &fields {
            let name = name.as_str().as_bytes();
            assert_eq!(owner(name), Owner::Response, "{fields:?}");
            for part in [b"\r\n", name, b": ", value.as_bytes()] {
                lines.extend_from_slice(part);
            }
        }
        Self {
            fields,
            lines: lines.into(),
        }
    }

    /// The fields.
    #[must_use]
    pub fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        &self.fields
    }

    /// Each line with CR LF before it, and none at the end.
    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }
}
