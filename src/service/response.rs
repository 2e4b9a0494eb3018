//! A response as a service makes it.

use std::rc::Rc;

use ::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use ::http::{HeaderMap, StatusCode};

use super::body::Body;
use super::pipe::Inlet;
use crate::http::FieldLines;

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

    /// 200 with HTML in UTF-8.
    pub fn html(content: impl Into<Body>) -> Self {
        Self::with_content(StatusCode::OK, const { html() }, content)
    }

    /// 200 with plain text in UTF-8.
    pub fn text(content: impl Into<Body>) -> Self {
        Self::with_content(StatusCode::OK, const { text() }, content)
    }

    /// 404 with HTML in UTF-8.
    pub fn not_found(content: impl Into<Body>) -> Self {
        Self::with_content(StatusCode::NOT_FOUND, const { html() }, content)
    }

    /// The same response with this field, in the place of all that have its name (as
    /// `HeaderMap::insert` does).
    ///
    /// ```
    /// use coring::{HeaderName, HeaderValue, Response};
    ///
    /// let content_type = HeaderName::from_static("content-type");
    /// let json = HeaderValue::from_static("application/json");
    /// let response = Response::text("{}").with_header(content_type, json);
    /// assert_eq!(response.headers().count(), 1);
    /// ```
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Some(shared) = &self.shared
            && shared.fields().iter().any(|(shared, _)| *shared == name)
        {
            self.more.extend_from_slice(shared.fields());
            self.shared = None;
        }
        self.more.retain(|(other, _)| *other != name);
        match &mut self.first {
            Some((first, old)) if *first == name => *old = value,
            _ => return self.append_header(name, value),
        }
        self
    }

    /// The same response with one more field, beside those that have its name (as
    /// `HeaderMap::append` does): for fields that may be repeated, such as `Set-Cookie`.
    #[must_use]
    pub fn append_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
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

    /// The same response in the types of the `http` crate.
    pub fn into_http(self) -> ::http::Response<Body> {
        let mut fields = HeaderMap::new();
        for (name, value) in self.headers() {
            fields.append(name, value.clone());
        }
        let mut response = ::http::Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = fields;
        response
    }

    /// A response of the `http` crate. Its version and extensions are left out.
    pub fn from_http(response: ::http::Response<impl Into<Body>>) -> Self {
        let (parts, body) = response.into_parts();
        let fields = parts.headers.iter();
        Self {
            more: fields
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            body: body.into(),
            ..Self::new(parts.status)
        }
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
    HeaderValue::from_static("text/html; charset=utf-8")
}

const fn text() -> HeaderValue {
    HeaderValue::from_static("text/plain; charset=utf-8")
}

#[cfg(test)]
mod tests {
    use ::http::header::{ETAG, SET_COOKIE};

    use super::*;

    fn value(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    fn fields(response: &Response) -> Vec<(&str, &str)> {
        response
            .headers()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn a_field_takes_the_place_of_those_with_its_name() {
        let json = Response::text("{}").with_header(CONTENT_TYPE, value("application/json"));
        assert_eq!(fields(&json), [("content-type", "application/json")]);
        let cookies = json
            .append_header(SET_COOKIE, value("a=1"))
            .append_header(SET_COOKIE, value("b=2"));
        assert_eq!(
            fields(&cookies)[1..],
            [("set-cookie", "a=1"), ("set-cookie", "b=2")]
        );
        let one = cookies.with_header(SET_COOKIE, value("c=3"));
        assert_eq!(fields(&one)[1..], [("set-cookie", "c=3")]);
        let first = Response::new(StatusCode::OK)
            .append_header(SET_COOKIE, value("a=1"))
            .append_header(SET_COOKIE, value("b=2"))
            .with_header(SET_COOKIE, value("c=3"));
        assert_eq!(fields(&first), [("set-cookie", "c=3")]);
    }

    #[test]
    fn a_field_takes_the_place_of_one_that_other_responses_share() {
        let lines = Rc::new(FieldLines::new([
            (CONTENT_TYPE, value("text/css")),
            (ETAG, value("\"1\"")),
        ]));
        let shared = || Response::with_shared(StatusCode::OK, lines.clone());
        let replaced = shared().with_header(CONTENT_TYPE, value("text/plain"));
        assert_eq!(
            fields(&replaced),
            [("content-type", "text/plain"), ("etag", "\"1\"")]
        );
        let other = shared().with_header(SET_COOKIE, value("a=1"));
        assert!(other.shared().is_some());
        assert_eq!(fields(&other).len(), 3);
    }

    #[test]
    fn text_and_html_name_their_charset() {
        for (response, expected) in [
            (Response::html(""), "text/html; charset=utf-8"),
            (Response::not_found(""), "text/html; charset=utf-8"),
            (Response::text(""), "text/plain; charset=utf-8"),
        ] {
            assert_eq!(fields(&response), [("content-type", expected)]);
        }
    }
}
