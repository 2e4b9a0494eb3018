//! A request as a service sees it.

use ::http::Method;

use super::body::Body;
use crate::buf::Part;
use crate::http::field::Fields;
use crate::http::h1::Head;

/// A request: its head as received, and a handle to its body.
#[derive(Debug)]
pub struct Request {
    head: Head,
    /// The received bytes that `head` speaks of.
    bytes: Part,
    body: Body,
}

impl Request {
    /// A request before it was read: its parts are filled in, for moving them costs more.
    #[inline]
    pub(crate) const fn unread() -> Self {
        Self {
            head: Head::new(),
            bytes: Part::Static(b""),
            body: Body::empty(),
        }
    }

    /// The place for the head.
    #[inline]
    pub(crate) fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }

    /// Fills in the bytes that the head was read from, and the body.
    #[inline]
    pub(crate) fn fill(&mut self, bytes: Part, body: Body) {
        self.bytes = bytes;
        self.body = body;
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// The path as received, not decoded.
    #[inline]
    pub fn path(&self) -> &str {
        self.head.path(&self.bytes)
    }

    /// What follows the first `?` of the target, as received.
    pub fn query(&self) -> Option<&str> {
        self.head.query(&self.bytes)
    }

    /// The host that the client wants, with its port if it named one.
    pub fn host(&self) -> Option<&str> {
        self.head.host(&self.bytes)
    }

    /// The value of the first field called `name`, in any case of letters.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().get(name)
    }

    /// All fields in the order they came: names and values.
    pub fn headers(&self) -> Fields<'_> {
        self.head.fields(&self.bytes)
    }

    /// The body, to read from.
    pub fn body(&mut self) -> &mut Body {
        &mut self.body
    }

    /// The body alone.
    pub fn into_body(self) -> Body {
        self.body
    }
}
