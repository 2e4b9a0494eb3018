//! A response as a service makes it.

use std::rc::Rc;

use ::http::StatusCode;
use ::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use super::body::Body;
use super::pipe::Inlet;
use crate::http::h1::FieldLines;

/// A response: status, fields and body. Framing and what concerns the connection are added by the
/// server, and left out of the response's own fields, though `Connection: close` is heeded; Date
/// and Server are added where it has none.
#[derive(Debug)]
pub struct Response {
    status: StatusCode,
    /// Most responses have one field of their own, which then needs no list.
    first: Option<(HeaderName, HeaderValue)>,
    more: Vec<(HeaderName, HeaderValue)>,
    /// Fields that others have, too.
    shared: Option<Rc<FieldLines>>,
    body: Body,
}

impl Response {
    /// A response without fields or body. A status of 1xx is no answer: the client gets 500.
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            first: None,
            more: Vec::new(),
            shared: None,
            body: Body::empty(),
        }
    }

    /// A response with fields that others have, too.
    pub(crate) fn with_shared(status: StatusCode, fields: Rc<FieldLines>) -> Self {
        Self {
            shared: Some(fields),
            ..Self::new(status)
        }
    }

    /// 200 with HTML.
    pub fn html(content: impl Into<Body>) -> Self {
        Self::with_content(StatusCode::OK, const { html() }, content)
    }

    /// 200 with plain text in UTF-8.
    pub fn text(content: impl Into<Body>) -> Self {
        Self::with_content(StatusCode::OK, const { text() }, content)
    }

    /// 404 with HTML.
    pub fn not_found(content: impl Into<Body>) -> Self {
        Self::with_content(StatusCode::NOT_FOUND, const { html() }, content)
    }

    /// The same response with one more field.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if self.first.is_none() {
            self.first = Some((name, value));
        } else {
            self.more.push((name, value));
        }
        self
    }

    /// The same response with another body. The body of a request is passed on as it comes.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// The same response with another status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The fields that the service has set.
    pub fn headers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> + Clone {
        let shared = self.shared().map_or(&[][..], FieldLines::fields);
        self.own_headers()
            .chain(shared.iter().map(|(name, value)| (name, value)))
    }

    /// Those of its own.
    #[inline]
    pub(crate) fn own_headers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> + Clone {
        self.first
            .iter()
            .chain(&self.more)
            .map(|(name, value)| (name, value))
    }

    /// Those that others have, too.
    #[inline]
    pub(crate) fn shared(&self) -> Option<&FieldLines> {
        self.shared.as_deref()
    }

    /// The body, to read from.
    pub fn body(&mut self) -> &mut Body {
        &mut self.body
    }

    /// The body's length in bytes, where it is known before the end.
    pub(crate) fn body_length(&self) -> Option<u64> {
        self.body.length()
    }

    /// The whole body, if that is in our memory.
    pub(crate) fn full_body(&self) -> Option<&[u8]> {
        self.body.full()
    }

    /// Whether the body comes part by part.
    pub(crate) fn has_flowing_body(&self) -> bool {
        self.body.flows()
    }

    /// Whether the body is the one that arrives by `incoming`.
    pub(crate) fn passes_on(&self, incoming: &Inlet) -> bool {
        self.body.comes_by(incoming)
    }

    fn with_content(status: StatusCode, kind: HeaderValue, content: impl Into<Body>) -> Self {
        Self {
            first: Some((CONTENT_TYPE, kind)),
            body: content.into(),
            ..Self::new(status)
        }
    }
}

// Made at compile time wherever it is used: a clone would be a call.
const fn html() -> HeaderValue {
    HeaderValue::from_static("text/html")
}

const fn text() -> HeaderValue {
    HeaderValue::from_static("text/plain; charset=utf-8")
}
