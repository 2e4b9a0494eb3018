//! A response as a service makes it.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;

use ::http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, UPGRADE};
use ::http::{HeaderMap, StatusCode};

use super::body::Body;
use super::pipe::Inlet;
use super::rare::Rare;
use super::request::Request;
use super::upgrade::{Continuation, Upgraded};
use crate::http::FieldLines;

/// A response: status, fields and body. Framing and what concerns the connection are added by the
/// server, and left out of the response's own fields, though `Connection: close` is heeded; Date
/// and Server are added where it has none.
#[derive(Debug)]
pub struct Response {
    status: StatusCode,
    /// Most responses have one field of their own, which then needs no list.
    first: Option<(HeaderName, HeaderValue)>,
    /// Fields whose lines are written already.
    shared: Option<Rc<FieldLines>>,
    body: Body,
    extra: Rare<Extra>,
}

/// What only some responses have.
#[derive(Default)]
struct Extra {
    /// Fields of its own after the first.
    more: Vec<(HeaderName, HeaderValue)>,
    reason: Option<HeaderValue>,
    next: Option<NextResponse>,
    continuation: Option<Continuation>,
}

/// The response that follows an interim one, once it is there.
pub type NextResponse = Pin<Box<dyn Future<Output = Response>>>;

/// A response of this status, without fields or content.
impl From<StatusCode> for Response {
    fn from(status: StatusCode) -> Self {
        Self::new(status)
    }
}

impl<T: Into<Self>, E: Into<Self>> From<Result<T, E>> for Response {
    fn from(result: Result<T, E>) -> Self {
        result.map_or_else(Into::into, Into::into)
    }
}

impl Response {
    /// A response without fields or body. One whose status is 1xx needs another one after it
    /// ([`Response::then`]): without that the client gets 500.
    #[inline]
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            first: None,
            shared: None,
            body: Body::empty(),
            extra: Rare::NONE,
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
            && has_field(shared, &name)
        {
            let more = &mut self.extra.get_or_default().more;
            more.extend_from_slice(shared.fields());
            if shared.wants_close() {
                more.push((CONNECTION, const { close() }));
            }
            self.shared = None;
        }
        self.retain_more(|other| *other != name);
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
            self.extra.get_or_default().more.push((name, value));
        }
        self
    }

    /// The same response with these fields, in the place of all that have their names, and of the
    /// lines that were given before. They are sent after the response's other fields.
    #[inline]
    #[must_use]
    pub fn with_field_lines(mut self, lines: Rc<FieldLines>) -> Self {
        self.first.take_if(|(name, _)| has_field(&lines, name));
        self.retain_more(|name| !has_field(&lines, name));
        self.shared = Some(lines);
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

    /// The same response with this reason phrase in the place of the usual one of its status.
    /// Clients need not show it, and HTTP/2 has none.
    ///
    /// ```
    /// use coring::{HeaderValue, Response, StatusCode};
    ///
    /// let response = Response::new(StatusCode::IM_A_TEAPOT)
    ///     .with_reason(HeaderValue::from_static("Short And Stout"));
    /// ```
    #[must_use]
    pub fn with_reason(mut self, reason: HeaderValue) -> Self {
        self.extra.get_or_default().reason = Some(reason);
        self
    }

    /// Makes this an interim response, which is sent at once; `next` makes the response that
    /// follows it, which may be an interim one again. A client can load what 103 (Early Hints)
    /// speaks of while the service still works:
    ///
    /// ```
    /// use coring::{HeaderName, HeaderValue, Request, Response, StatusCode};
    ///
    /// async fn page(_: Request) -> Response {
    ///     let style = HeaderValue::from_static("</style.css>; rel=preload; as=style");
    ///     Response::new(StatusCode::EARLY_HINTS)
    ///         .with_header(HeaderName::from_static("link"), style)
    ///         .then(async {
    ///             // ... ask a database ...
    ///             Response::html("<link rel=stylesheet href=style.css>")
    ///         })
    /// }
    /// ```
    ///
    /// An interim response has no body. A client of HTTP/1.0 gets none. 100 (Continue) asks the
    /// client for its request's body, as reading that does.
    ///
    /// # Panics
    /// If the status is not 1xx, or 101, which nothing follows.
    #[must_use]
    pub fn then(mut self, next: impl Future<Output = Self> + 'static) -> Self {
        let status = self.status;
        assert!(
            is_interim(status),
            "no response follows one of status {status}"
        );
        self.extra.get_or_default().next = Some(Box::pin(next));
        self
    }

    /// Agrees on another protocol for the connection, and hands it to `run` (101, RFC 9110 §7.8).
    /// A client that has not asked for this `protocol` gets 426 instead.
    ///
    /// `run` begins when the response is queued, as a coroutine of its own. The connection ends
    /// when it drops the stream, or its outgoing side.
    ///
    /// ```
    /// use coring::{HeaderValue, Request, Response};
    ///
    /// async fn echo(request: Request) -> Response {
    ///     let protocol = HeaderValue::from_static("echo");
    ///     Response::upgrade(&request, protocol, async |mut stream| {
    ///         while let Ok(Some(bytes)) = stream.read().await {
    ///             if stream.write(bytes).await.is_err() {
    ///                 break;
    ///             }
    ///         }
    ///     })
    /// }
    /// ```
    pub fn upgrade(
        request: &Request,
        protocol: HeaderValue,
        run: impl AsyncFnOnce(Upgraded) + 'static,
    ) -> Self {
        if !request.upgrades_to(protocol.as_bytes()) {
            let refusal = Self::text("the connection must be upgraded\n");
            let refusal = refusal.with_status(StatusCode::UPGRADE_REQUIRED);
            return refusal.with_header(UPGRADE, protocol);
        }
        let mut response =
            Self::new(StatusCode::SWITCHING_PROTOCOLS).with_header(UPGRADE, protocol);
        let continuation: Continuation = Box::new(|stream| Box::pin(run(stream)));
        response.extra.get_or_default().continuation = Some(continuation);
        response
    }

    /// Takes what is done with the connection after [`Response::upgrade`].
    pub(crate) fn take_continuation(&mut self) -> Option<Continuation> {
        self.extra.get_mut()?.continuation.take()
    }

    /// Takes what [`Response::then`] has added: for a test, or a service that calls another one.
    pub fn take_next(&mut self) -> Option<NextResponse> {
        self.extra.get_mut()?.next.take()
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
            .chain(self.extra.get().map_or(&[][..], |extra| &extra.more))
            .map(|(name, value)| (name, value))
    }

    /// Those whose lines are written already.
    #[inline]
    pub(crate) fn shared(&self) -> Option<&FieldLines> {
        self.shared.as_deref()
    }

    /// The reason phrase, if it was set.
    #[inline]
    pub fn reason(&self) -> Option<&HeaderValue> {
        self.extra.get()?.reason.as_ref()
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

    /// The same response in the types of the `http` crate, which have no place for a reason phrase
    /// and for what follows an interim response.
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
        let response = Self::new(parts.status).with_body(body);
        parts
            .headers
            .iter()
            .fold(response, |response, (name, value)| {
                response.append_header(name.clone(), value.clone())
            })
    }

    /// Keeps, of the fields after the first, those with names that `keeps` allows.
    fn retain_more(&mut self, keeps: impl Fn(&HeaderName) -> bool) {
        if let Some(extra) = self.extra.get_mut() {
            extra.more.retain(|(name, _)| keeps(name));
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

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extra")
            .field("reason", &self.reason)
            .field("next", &self.next.as_ref().map(|_| ()))
            .finish()
    }
}

/// Whether another response can follow one of this status.
fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

fn has_field(lines: &FieldLines, name: &HeaderName) -> bool {
    lines.fields().iter().any(|(other, _)| other == name)
}

// Made at compile time wherever it is used: a clone would be a call.
const fn html() -> HeaderValue {
    HeaderValue::from_static("text/html; charset=utf-8")
}

const fn close() -> HeaderValue {
    HeaderValue::from_static("close")
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
        let shared = || Response::new(StatusCode::OK).with_field_lines(lines.clone());
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
    fn field_lines_take_the_place_of_fields_with_their_names() {
        let lines = Rc::new(FieldLines::new([
            (CONTENT_TYPE, value("text/css")),
            (CONNECTION, value("close")),
        ]));
        let response = Response::text("")
            .append_header(ETAG, value("\"1\""))
            .append_header(CONTENT_TYPE, value("text/html"))
            .with_field_lines(lines);
        let expected = [("etag", "\"1\""), ("content-type", "text/css")];
        assert_eq!(fields(&response), expected);
        // What the lines say of the connection outlives them.
        let replaced = response.with_header(CONTENT_TYPE, value("text/plain"));
        let expected = [
            ("etag", "\"1\""),
            ("connection", "close"),
            ("content-type", "text/plain"),
        ];
        let mut replaced = fields(&replaced);
        replaced.sort_by_key(|(name, _)| expected.iter().position(|(other, _)| other == name));
        assert_eq!(replaced, expected);
    }

    #[test]
    fn only_an_interim_response_is_followed() {
        for status in [101, 200, 404, 500] {
            let status = StatusCode::from_u16(status).unwrap();
            let then = || Response::new(status).then(async { Response::text("") });
            assert!(std::panic::catch_unwind(then).is_err(), "{status}");
        }
        for status in [100, 102, 103, 199] {
            let status = StatusCode::from_u16(status).unwrap();
            let mut response = Response::new(status).then(async { Response::text("") });
            assert!(response.take_next().is_some(), "{status}");
            assert!(response.take_next().is_none(), "{status}");
        }
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
