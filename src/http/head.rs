//! A request's head in a layout that does not depend on the version of HTTP: the method, and spans
//! of the received bytes. A protocol's parser fills it in place. Properties that only one protocol
//! has (framing, persistence) are kept elsewhere.

use ::http::Method;

use super::Span;
use super::field::Fields;
use super::target::Target;

/// The HTTP version of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1, or a later version of HTTP/1, which is read as this one (RFC 9110 §2.5).
    Http11,
}

/// A request's head.
///
/// The accessors take the bytes that the head was parsed from; those may have moved since. The
/// fields are HTTP/1.1 field lines within these bytes. A protocol that compresses its fields must
/// decode them to such lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The method: a standard one, or any other token as an extension method.
    pub method: Method,
    /// The HTTP version.
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
    /// An empty head, for a parser to fill.
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

    /// The path as received, not percent-decoded. It begins with `/`, or is `*` for `OPTIONS *`.
    #[inline]
    #[must_use]
    pub fn path<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        if self.parts.path.is_empty() {
            b"/"
        } else {
            self.parts.path.of(bytes)
        }
    }

    /// As [`Head::path`], with what [`Head::strip_path`] has removed.
    #[must_use]
    pub fn full_path<'a>(&self, bytes: &'a [u8]) -> &'a str {
        let start = match self.parts.authority {
            Some(authority) => authority.end(),
            None => self.target.start(),
        };
        match Span::new(start, self.parts.path.end()).text(bytes) {
            "" => "/",
            path => path,
        }
    }

    /// Removes the first `n` bytes of the path, for a service that is mounted below a prefix. The
    /// target does not change.
    pub fn strip_path(&mut self, n: usize) {
        let (start, len) = (self.parts.path.start(), self.parts.path.len());
        self.parts.path = Span::new(start + n.min(len), start + len);
    }

    /// The query: the bytes of the target after its first `?`; `None` if it has no `?`.
    #[must_use]
    pub fn query<'a>(&self, bytes: &'a [u8]) -> Option<&'a str> {
        self.parts.query.map(|query| query.text(bytes))
    }

    /// The authority of an absolute-form target or, if the target has none, the value of Host. An
    /// empty Host means that the target has no authority.
    #[must_use]
    pub fn host<'a>(&self, bytes: &'a [u8]) -> Option<&'a str> {
        self.parts
            .authority
            .or(self.host)
            .map(|host| host.text(bytes))
    }

    /// The field lines.
    #[inline]
    #[must_use]
    pub fn fields<'a>(&self, bytes: &'a [u8]) -> Fields<'a> {
        Fields::new(self.fields.of(bytes))
    }
}
