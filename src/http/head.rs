//! A request's head in the layout that services read, whatever version of HTTP brought it: the
//! method, and spans of the bytes that were received. A protocol writes it in place. It has no
//! field for what only one protocol needs (framing, persistence).

use ::http::Method;

use super::Span;
use super::field::Fields;
use super::target::Target;

/// The version of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// A request's head.
///
/// The accessors take the bytes that the head was parsed from, wherever those are by then. The
/// fields are lines of HTTP/1.1 in these bytes; a protocol that compresses its fields writes such
/// lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The method; a method that the standards do not name is an extension method.
    pub method: Method,
    /// The version.
    pub version: Version,
    pub(super) target: Span,
    pub(super) parts: Target,
    pub(super) fields: Span,
    pub(super) host: Option<Span>,
}

impl Default for Head {
    fn default() -> Self {
        Self::new()
    }
}

impl Head {
    /// A place for a head that is not read yet.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            method: Method::GET,
            version: Version::Http11,
            target: Span::EMPTY,
            parts: Target::EMPTY,
            fields: Span::EMPTY,
            host: None,
        }
    }

    /// The request target as received.
    #[must_use]
    pub fn target<'a>(&self, bytes: &'a [u8]) -> &'a str {
        self.target.text(bytes)
    }

    /// The path as received, not decoded: `*` for `OPTIONS *`, else beginning with `/`.
    #[inline]
    #[must_use]
    pub fn path<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        if self.parts.path.is_empty() {
            b"/"
        } else {
            self.parts.path.of(bytes)
        }
    }

    /// Leaves out the first `n` bytes of the path, where a service is asked for the rest of it. The
    /// target stays as it was received.
    pub fn strip_path(&mut self, n: usize) {
        let (start, len) = (self.parts.path.start(), self.parts.path.len());
        self.parts.path = Span::new(start + n.min(len), start + len);
    }

    /// The part of the target after its first `?`.
    #[must_use]
    pub fn query<'a>(&self, bytes: &'a [u8]) -> Option<&'a str> {
        self.parts.query.map(|query| query.text(bytes))
    }

    /// The value of Host, which an absolute-form target repeats; empty where the client says that
    /// its target has no authority.
    #[must_use]
    pub fn host<'a>(&self, bytes: &'a [u8]) -> Option<&'a str> {
        self.host
            .or(self.parts.authority)
            .map(|host| host.text(bytes))
    }

    /// The field lines.
    #[inline]
    #[must_use]
    pub fn fields<'a>(&self, bytes: &'a [u8]) -> Fields<'a> {
        Fields::new(self.fields.of(bytes))
    }
}
