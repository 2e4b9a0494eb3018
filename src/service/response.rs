//! The response type that services return.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;

use ::http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, UPGRADE};
use ::http::{HeaderMap, StatusCode};

use super::body::Body;
use super::body_channel::RequestBodySender;
use super::optional_box::OptionalBox;
use super::request::Request;
use super::upgrade::{Continuation, Upgraded};
use crate::http::FieldLines;

/// A response: status, header fields and body.
///
/// The server itself writes the fields that concern framing and the connection (`Content-Length`,
/// `Transfer-Encoding`, `Connection` and others) and ignores them in a service's response. One
/// exception: `Connection: close` makes it close the connection after the response. The server adds
/// Date and Server if the response lacks them.
#[derive(Debug)]
pub struct Response {
    status: StatusCode,
    /// The first field of its own. Most responses have only one, and so need no list.
    first: Option<(HeaderName, HeaderValue)>,
    /// Fields that are already encoded, and may be shared with other responses.
    shared: Option<Rc<FieldLines>>,
    body: Body,
    extra: OptionalBox<ResponseExtra>,
}

/// Data that few responses have.
#[derive(Default)]
struct ResponseExtra {
    /// The response's own fields after the first.
    more: Vec<(HeaderName, HeaderValue)>,
    reason: Option<HeaderValue>,
    /// Makes the response that follows this interim one.
    next: Option<NextResponse>,
    /// Takes over the connection after a protocol switch.
    continuation: Option<Continuation>,
}

/// A future of the response that follows an interim one.
pub type NextResponse = Pin<Box<dyn Future<Output = Response>>>;

/// A response of this status, without header fields or body.
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
    /// A response of this status, without header fields or body. A 1xx status needs a following
    /// response ([`Response::then`]); without one the client gets 500.
    #[inline]
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            first: None,
            shared: None,
            body: Body::empty(),
            extra: OptionalBox::NONE,
        }
    }

    /// A response of status 200 with HTML in UTF-8.
    pub fn html(content: impl Into<Body>) -> Self {
        Self::with_content(StatusCode::OK, const { html() }, content)
    }

    /// A response of status 200 with plain text in UTF-8.
    pub fn text(content: impl Into<Body>) -> Self {
        Self::with_content(StatusCode::OK, const { text() }, content)
    }

    /// A response of status 404 with HTML in UTF-8.
    pub fn not_found(content: impl Into<Body>) -> Self {
        Self::with_content(StatusCode::NOT_FOUND, const { html() }, content)
    }

    /// Sets a header field. It replaces all fields of that name, as `HeaderMap::insert` does.
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

    /// Adds a header field and keeps other fields of that name, as `HeaderMap::append` does. For
    /// fields that may be repeated, such as `Set-Cookie`.
    #[must_use]
    pub fn append_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if self.first.is_none() {
            self.first = Some((name, value));
        } else {
            self.extra.get_or_default().more.push((name, value));
        }
        self
    }

    /// Sets header fields that are already encoded. They replace all fields of their names, and any
    /// earlier `lines`. The server sends them after the response's other fields.
    #[inline]
    #[must_use]
    pub fn with_field_lines(mut self, lines: Rc<FieldLines>) -> Self {
        self.first.take_if(|(name, _)| has_field(&lines, name));
        self.retain_more(|name| !has_field(&lines, name));
        self.shared = Some(lines);
        self
    }

    /// Replaces the body. If `body` is a request's, the server passes it on as it arrives.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// Replaces the status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Sets the reason phrase, instead of the standard one of the status. Clients may ignore it
    /// (RFC 9112 §4).
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

    /// Makes this an interim response, which the server sends at once. `next` makes the response
    /// that follows it, which may be an interim one again.
    ///
    /// With 103 (Early Hints), for example, a client can load a page's resources while the service
    /// still makes the page:
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
    /// An interim response has no body. The server does not send it to an HTTP/1.0 client. 100
    /// (Continue) asks the client to send the request's body; reading that body does the same.
    ///
    /// # Panics
    /// If the status is not 1xx, or is 101 (Switching Protocols), which no response follows.
    #[must_use]
    pub fn then(mut self, next: impl Future<Output = Self> + 'static) -> Self {
        let status = self.status;
        assert!(
            is_interim(status),
            "status {status} is not interim, so no response can follow"
        );
        self.extra.get_or_default().next = Some(Box::pin(next));
        self
    }

    /// Switches the connection to another protocol (101, RFC 9110 §7.8) and passes it to `run`. If
    /// the request does not ask for `protocol`, the client gets 426 (Upgrade Required) instead.
    ///
    /// The server starts `run` as a coroutine when it has queued the response. The connection
    /// closes when `run` drops the stream or its writing half.
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

    /// Takes the function that [`Response::upgrade`] has set.
    pub(crate) fn take_continuation(&mut self) -> Option<Continuation> {
        self.extra.get_mut()?.continuation.take()
    }

    /// Takes the future that [`Response::then`] has set. For tests and for services that call other
    /// services.
    pub fn take_next(&mut self) -> Option<NextResponse> {
        self.extra.get_mut()?.next.take()
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The header fields that the service has set.
    pub fn headers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> + Clone {
        let shared = self.shared().map_or(&[][..], FieldLines::fields);
        self.own_headers()
            .chain(shared.iter().map(|(name, value)| (name, value)))
    }

    /// The fields in `first` and `more`.
    #[inline]
    pub(crate) fn own_headers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> + Clone {
        self.first
            .iter()
            .chain(self.extra.get().map_or(&[][..], |extra| &extra.more))
            .map(|(name, value)| (name, value))
    }

    /// The fields that are already encoded.
    #[inline]
    pub(crate) fn shared(&self) -> Option<&FieldLines> {
        self.shared.as_deref()
    }

    /// The reason phrase, if it was set.
    #[inline]
    pub fn reason(&self) -> Option<&HeaderValue> {
        self.extra.get()?.reason.as_ref()
    }

    /// The body, to read it in place.
    pub fn body(&mut self) -> &mut Body {
        &mut self.body
    }

    /// The body's length in bytes, if it is known before its end.
    pub(crate) fn body_length(&self) -> Option<u64> {
        self.body.length()
    }

    /// The whole body, if it is in our memory or empty.
    pub(crate) fn full_body(&self) -> Option<&[u8]> {
        self.body.full()
    }

    /// Whether the body arrives part by part.
    pub(crate) fn has_streamed_body(&self) -> bool {
        self.body.is_streamed()
    }

    /// Whether the body is the request body that `incoming` writes.
    pub(crate) fn forwards(&self, incoming: &RequestBodySender) -> bool {
        self.body.is_sent_by(incoming)
    }

    /// Converts the response to the `http` crate's type. That type has no reason phrase, no
    /// following response and no protocol switch, so these are lost.
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

    /// Converts a response of the `http` crate. Its version and extensions are dropped.
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

    /// Removes the fields in `more` whose names `keeps` rejects.
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

impl fmt::Debug for ResponseExtra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseExtra")
            .field("reason", &self.reason)
            .field("next", &self.next.as_ref().map(|_| ()))
            .finish()
    }
}

/// Whether this is the status of an interim response, after which another response follows.
fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

fn has_field(lines: &FieldLines, name: &HeaderName) -> bool {
    lines.fields().iter().any(|(other, _)| other == name)
}

// These are functions and not constants, so that each use is evaluated at compile time (`const
// {}`). Cloning a constant would be a call.
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
    fn with_header_replaces_all_fields_of_its_name() {
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
    fn with_header_replaces_a_shared_field_in_this_response_only() {
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
    fn with_field_lines_replaces_fields_of_their_names() {
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
        // Replacing a shared field splits the lines up; their `Connection: close` must not get
        // lost.
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
    fn only_an_interim_response_can_be_followed() {
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
