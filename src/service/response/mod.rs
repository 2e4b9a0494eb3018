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
    /// Names and values for the access log.
    log_notes: Vec<(&'static str, String)>,
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
    /// response ([`Response::then`]); without one the client gets 500, as it does instead of a
    /// status above 599.
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

    /// A response with header fields that are already encoded, and with a body. Every field is set
    /// once, which costs less than to replace those of an empty response.
    #[inline]
    pub(crate) fn of_parts(status: StatusCode, lines: Rc<FieldLines>, body: Body) -> Self {
        Self {
            status,
            first: None,
            shared: Some(lines),
            body,
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
        self.unshare_if_it_has(&name);
        self.retain_more(|other| *other != name);
        match &mut self.first {
            Some((first, old)) if *first == name => *old = value,
            _ => self.push(name, value),
        }
        self
    }

    /// Adds a header field and keeps other fields of that name, as `HeaderMap::append` does. For
    /// fields that may be repeated, such as `Set-Cookie`. They are sent in the order in which they
    /// were added.
    #[must_use]
    pub fn append_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.unshare_if_it_has(&name);
        self.push(name, value);
        self
    }

    /// Sets header fields that are already encoded. They replace all fields of their names, and any
    /// earlier `lines`. The server sends them after the response's other fields. If a field of one
    /// of their names is set or added later, they become fields like the others, with names in
    /// lower case.
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

    /// Notes a value for the access log. An atom `%({NAME}x)s` of its format writes it; see
    /// [`AccessLogFormat`](crate::AccessLogFormat).
    #[must_use]
    pub fn with_log_note(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.extra
            .get_or_default()
            .log_notes
            .push((name, value.into()));
        self
    }

    /// The value that was noted last by this name.
    pub(crate) fn log_note(&self, name: &str) -> Option<&str> {
        let mut notes = self.extra.get()?.log_notes.iter().rev();
        let (_, value) = notes.find(|(other, _)| *other == name)?;
        Some(value)
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
    /// the request does not ask for `protocol`, the client gets 426 (Upgrade Required) instead. The
    /// other protocol begins behind the request's body, so if the service has not read that to its
    /// end, the client gets 400.
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
        if request.awaits_body() {
            let refusal = Self::text("a request to upgrade must not have a body\n");
            return refusal.with_status(StatusCode::BAD_REQUEST);
        }
        let mut response =
            Self::new(StatusCode::SWITCHING_PROTOCOLS).with_header(UPGRADE, protocol);
        let remote = request.remote();
        let continuation: Continuation =
            Box::new(|stream| Box::pin(run(stream.with_remote(remote))));
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

    /// Whether the service gave no body, not even an empty one.
    pub(crate) fn omits_body(&self) -> bool {
        self.body.is_omitted()
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

    /// Adds a field after the others in `first` and `more`.
    fn push(&mut self, name: HeaderName, value: HeaderValue) {
        let has_more = |extra: &ResponseExtra| !extra.more.is_empty();
        if self.first.is_none() && !self.extra.get().is_some_and(has_more) {
            self.first = Some((name, value));
        } else {
            self.extra.get_or_default().more.push((name, value));
        }
    }

    /// Moves the shared fields into `more` if one of them is called `name`, to replace that one or
    /// to put another after it.
    fn unshare_if_it_has(&mut self, name: &HeaderName) {
        if let Some(shared) = self.shared.take_if(|shared| has_field(shared, name)) {
            let more = &mut self.extra.get_or_default().more;
            more.extend_from_slice(shared.fields());
            if shared.wants_close() {
                more.push((CONNECTION, const { close() }));
            }
        }
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
mod tests;
