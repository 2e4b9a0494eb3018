//! The request type that services receive.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::LazyLock;

use ::http::{Extensions, Method};

use super::body::Body;
use super::optional_box::OptionalBox;
use super::request_builder::RequestBuilder;
use crate::buf::{Part, Pool, PoolBox};
use crate::http::Head;
use crate::http::field::{Fields, tokens};
use crate::http::head::Version;
use crate::net::Remote;
use crate::rt::{Event, EventWait};

/// A request: its head as received, and a handle to its body.
pub struct Request(PoolBox<RequestParts>);

/// The contents of a request. They are allocated before the head is read and never move, so passing
/// a request on only moves a pointer.
struct RequestParts {
    head: Head,
    /// The received bytes that the spans in `head` refer to.
    bytes: Part,
    body: Body,
    /// The client's connection; `None` for a built request.
    remote: Option<Remote>,
    extra: OptionalBox<RequestExtra>,
}

/// Data that few requests have.
#[derive(Debug, Default)]
struct RequestExtra {
    /// The client's address that a built request was given.
    peer: Option<SocketAddr>,
    extensions: Extensions,
    /// The route's parameters: names and decoded values.
    params: Vec<(Rc<str>, Box<str>)>,
}

impl Request {
    /// Starts to build a request without a client, for tests and for services that call other
    /// services.
    ///
    /// ```
    /// use coring::{Request, Response, Service, StatusCode};
    ///
    /// async fn hello(request: Request) -> Response {
    ///     match request.path() {
    ///         "/" => Response::text("hello"),
    ///         _ => Response::not_found("nothing here"),
    ///     }
    /// }
    ///
    /// coring::run(async {
    ///     let request = Request::builder().uri("/other").body("").unwrap();
    ///     assert_eq!(hello.call(request).await.status(), StatusCode::NOT_FOUND);
    /// });
    /// ```
    pub fn builder() -> RequestBuilder {
        RequestBuilder::default()
    }

    /// An empty request, into which the connection then reads the head.
    #[inline]
    pub(crate) fn unread(pool: &Pool, remote: Remote) -> Self {
        Self(PoolBox::new(pool, || RequestParts {
            head: Head::new(),
            bytes: Part::Static(b""),
            body: Body::empty(),
            remote: Some(remote),
            extra: OptionalBox::NONE,
        }))
    }

    /// A built request. `head` refers to `bytes`.
    pub(super) fn from_head(head: Head, bytes: Vec<u8>, body: Body) -> Self {
        thread_local! {
            /// A pool per thread, because a built request needs no worker.
            static POOL: Pool = Pool::new();
        }
        let bytes = Part::from(bytes);
        Self(POOL.with(|pool| {
            PoolBox::new(pool, || RequestParts {
                head,
                bytes,
                body,
                remote: None,
                extra: OptionalBox::NONE,
            })
        }))
    }

    /// Sets the client's address of a built request.
    pub(super) fn set_peer(&mut self, peer: SocketAddr) {
        self.extra().peer = Some(peer);
    }

    /// The head, to be read into.
    #[inline]
    pub(crate) fn head_mut(&mut self) -> &mut Head {
        &mut self.0.head
    }

    /// The bytes that the head refers to, to be set.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut Part {
        &mut self.0.bytes
    }

    /// The head, and the bytes that it refers to.
    pub(crate) fn head(&self) -> (&Head, &[u8]) {
        (&self.0.head, &self.0.bytes)
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.0.head.method
    }

    /// The version in the request line: HTTP/1.0 or HTTP/1.1.
    pub fn version(&self) -> ::http::Version {
        match self.0.head.version {
            Version::Http10 => ::http::Version::HTTP_10,
            Version::Http11 => ::http::Version::HTTP_11,
        }
    }

    /// The scheme by which the client reached the server. Always `http`, because the server does
    /// not speak TLS.
    pub fn scheme(&self) -> &str {
        "http"
    }

    /// The request target as the client sent it (RFC 9112 §3.2): a path with or without a query, an
    /// absolute URI, or `*`.
    pub fn raw_target(&self) -> &str {
        self.0.head.target(&self.0.bytes)
    }

    /// The client's address; `None` if it connected to a Unix socket or its connection has ended. A
    /// built request has the address given to [`RequestBuilder::peer`].
    pub fn peer(&self) -> Option<SocketAddr> {
        match &self.0.remote {
            Some(remote) => remote.peer(),
            None => self.0.extra.get()?.peer,
        }
    }

    /// The server's address that the client connected to; `None` if that is a Unix socket, if the
    /// connection has ended, and for a built request.
    pub fn local(&self) -> Option<SocketAddr> {
        self.0.remote.as_ref()?.local()
    }

    /// Whether the client is connected to a Unix socket that has a file, so that its user has
    /// permission to connect. Not so is a client without an address because it has reset its
    /// connection.
    pub(crate) fn is_from_socket_file(&self) -> bool {
        self.0.remote.as_ref().is_some_and(Remote::has_socket_file)
    }

    /// Whether the client asks to switch to this protocol (RFC 9110 §7.8).
    pub(crate) fn upgrades_to(&self, protocol: &[u8]) -> bool {
        let has = |name: &str, option: &[u8]| {
            let mut options = self.headers().get_all(name).flat_map(tokens);
            options.any(|each| each.eq_ignore_ascii_case(option))
        };
        self.0.head.version == Version::Http11
            && has("connection", b"upgrade")
            && has("upgrade", protocol)
    }

    /// Whether a part of the body, or its end, has not been received yet.
    pub(super) fn awaits_body(&self) -> bool {
        self.0.body.is_awaited()
    }

    /// Waits until the client no longer waits for the response: it has reset the connection (RST)
    /// or half-closed it (FIN), the server has closed it, or the exchange has ended. An exchange
    /// ends when its response is sent; a response whose whole body is in memory, when it is queued.
    ///
    /// The future does not borrow the request, so another coroutine may await it. It ends with the
    /// exchange, so such a coroutine does not outlive its request on a connection that stays open.
    /// For a built request it is never ready.
    ///
    /// A client that half-closed may still wait for the response. By default the service goes on;
    /// [`HalfClose`](crate::HalfClose) changes that. A reset always drops the service's future, and
    /// so does a half-close while the server receives the request's body.
    ///
    /// ```
    /// # use coring::{Request, Response};
    /// # async fn watch() -> String { String::new() }
    /// async fn long_poll(request: Request) -> Response {
    ///     let gone = request.gone();
    ///     coring::spawn(async move {
    ///         gone.await;
    ///         // The client has left or has its response: remove it from a list, for example.
    ///     });
    ///     Response::text(watch().await)
    /// }
    /// ```
    pub fn gone(&self) -> impl Future<Output = ()> + Unpin + 'static {
        gone(self.0.remote.as_ref())
    }

    /// The client's connection; `None` for a built request.
    pub(super) fn remote(&self) -> Option<Remote> {
        self.0.remote.clone()
    }

    /// The target's path as received, without percent-decoding. A service nested in a
    /// [`Router`](crate::Router) gets the path without its prefix.
    #[inline]
    pub fn path(&self) -> &str {
        str::from_utf8(self.path_bytes()).unwrap_or_default()
    }

    /// The path as bytes. This is cheaper than [`Request::path`], which checks that it is UTF-8.
    #[inline]
    pub fn path_bytes(&self) -> &[u8] {
        self.0.head.path(&self.0.bytes)
    }

    /// The part of the target after its first `?`, as received; `None` if it has no `?`.
    pub fn query(&self) -> Option<&str> {
        self.0.head.query(&self.0.bytes)
    }

    /// The query's pairs of name and value, decoded, in their order; `a=1&b=x+y` has two. Bytes
    /// that are not UTF-8 become U+FFFD.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        form_urlencoded::parse(self.query().unwrap_or_default().as_bytes())
    }

    /// The host that the client named in the target (an absolute URI) or else in the Host field,
    /// with the port if there is one.
    pub fn host(&self) -> Option<&str> {
        self.0.head.host(&self.0.bytes)
    }

    /// The value of the first header field called `name`. The case of letters does not matter.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().get(name)
    }

    /// All header fields as names and values, in the order in which the client sent them.
    pub fn headers(&self) -> Fields<'_> {
        self.0.head.fields(&self.0.bytes)
    }

    /// The part of the path that matched `{name}` or `{*name}` in the [`Router`]'s route, decoded;
    /// `None` if the route has no such parameter. If nested routers use the same name, the inner
    /// one counts.
    ///
    /// [`Router`]: crate::Router
    pub fn param(&self, name: &str) -> Option<&str> {
        let mut params = self.0.extra.get()?.params.iter().rev();
        let (_, value) = params.find(|(other, _)| **other == *name)?;
        Some(value)
    }

    /// Adds parameters for [`Request::param`]: names and decoded values.
    pub(super) fn add_params(&mut self, params: Vec<(Rc<str>, Box<str>)>) {
        if !params.is_empty() {
            self.extra().params.extend(params);
        }
    }

    /// The path with the prefixes that routers have removed.
    pub(super) fn full_path(&self) -> &str {
        self.0.head.full_path(&self.0.bytes)
    }

    /// Removes the first `n` bytes of the path.
    pub(super) fn strip_path(&mut self, n: usize) {
        self.0.head.strip_path(n);
    }

    /// The pool that the request was allocated from.
    pub(super) fn pool(&self) -> Pool {
        self.0.pool()
    }

    /// Values that other code has attached to the request, one per type.
    pub fn extensions(&self) -> &Extensions {
        static NONE: LazyLock<Extensions> = LazyLock::new(Extensions::new);
        match self.0.extra.get() {
            Some(extra) => &extra.extensions,
            None => &NONE,
        }
    }

    /// The extensions, to attach values. The first call for a request allocates memory.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extra().extensions
    }

    fn extra(&mut self) -> &mut RequestExtra {
        self.0.extra.get_or_default()
    }

    /// The body, to read it in place.
    pub fn body(&mut self) -> &mut Body {
        &mut self.0.body
    }

    /// Takes the body and drops the rest of the request.
    pub fn into_body(mut self) -> Body {
        self.take_body()
    }

    /// Takes the body and leaves an empty one.
    pub(super) fn take_body(&mut self) -> Body {
        std::mem::take(self.body())
    }
}

/// Waits until the client of a connection has gone; without a connection, for ever.
pub(super) fn gone(remote: Option<&Remote>) -> EventWait {
    match remote {
        Some(remote) => remote.gone(),
        None => Rc::new(Event::default()).wait(),
    }
}

/// Shows method, target and header fields as text, but not the body.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (head, bytes) = self.head();
        f.debug_struct("Request")
            .field("method", self.method())
            .field("target", &head.target(bytes))
            .field("fields", &self.headers())
            .finish_non_exhaustive()
    }
}
