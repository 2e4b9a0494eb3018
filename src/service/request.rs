//! A request as a service sees it.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::LazyLock;

use ::http::{Extensions, Method};

use super::body::Body;
use super::rare::Rare;
use super::request_builder::RequestBuilder;
use crate::buf::{Part, Pool, PoolBox};
use crate::http::Head;
use crate::http::field::{Fields, tokens};
use crate::http::head::Version;
use crate::net::Remote;
use crate::rt::Event;

/// A request: its head as received, and a handle to its body.
pub struct Request(PoolBox<Parts>);

/// What a request consists of, in one place from the first byte that is read: whoever hands a
/// request on moves a pointer.
struct Parts {
    head: Head,
    /// The received bytes that `head` speaks of.
    bytes: Part,
    body: Body,
    /// The connection that it came by, if it was not built.
    remote: Option<Remote>,
    extra: Rare<Extra>,
}

/// What only some programs attach to a request.
#[derive(Debug, Default)]
struct Extra {
    /// The client of a request that was built.
    peer: Option<SocketAddr>,
    extensions: Extensions,
    /// Names and decoded values.
    params: Vec<(Rc<str>, Box<str>)>,
}

impl Request {
    /// Makes a request that no client has sent, for tests and for calls of one service by another.
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

    /// A request before it was read, which is to come by this connection.
    #[inline]
    pub(crate) fn unread(pool: &Pool, remote: Remote) -> Self {
        Self(PoolBox::new(pool, || Parts {
            head: Head::new(),
            bytes: Part::Static(b""),
            body: Body::empty(),
            remote: Some(remote),
            extra: Rare::NONE,
        }))
    }

    /// A request with a head that was written for it, and a body that is at hand.
    pub(super) fn written(head: Head, bytes: Vec<u8>, body: Body) -> Self {
        thread_local! {
            /// A request that is not received needs no worker.
            static POOL: Pool = Pool::new();
        }
        let bytes = Part::from(bytes);
        Self(POOL.with(|pool| {
            PoolBox::new(pool, || Parts {
                head,
                bytes,
                body,
                remote: None,
                extra: Rare::NONE,
            })
        }))
    }

    /// It was built as if it came from this client.
    pub(super) fn set_peer(&mut self, peer: SocketAddr) {
        self.extra().peer = Some(peer);
    }

    /// The place for the head.
    #[inline]
    pub(crate) fn head_mut(&mut self) -> &mut Head {
        &mut self.0.head
    }

    /// The place for the bytes that the head was read from.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut Part {
        &mut self.0.bytes
    }

    /// The head, and the bytes that it was read from.
    pub(crate) fn head(&self) -> (&Head, &[u8]) {
        (&self.0.head, &self.0.bytes)
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.0.head.method
    }

    /// The version of HTTP that the client speaks.
    pub fn version(&self) -> ::http::Version {
        match self.0.head.version {
            Version::Http10 => ::http::Version::HTTP_10,
            Version::Http11 => ::http::Version::HTTP_11,
        }
    }

    /// The scheme by which the client reached the server: `http`, for nothing here decrypts.
    pub fn scheme(&self) -> &str {
        "http"
    }

    /// The target as the client sent it (RFC 9112 §3.2), in whichever form.
    pub fn raw_target(&self) -> &str {
        self.0.head.target(&self.0.bytes)
    }

    /// The client's address; none if it came by a Unix socket or has gone. A request that was built
    /// has the one that its builder was given.
    pub fn peer(&self) -> Option<SocketAddr> {
        match &self.0.remote {
            Some(remote) => remote.peer(),
            None => self.0.extra.get()?.peer,
        }
    }

    /// The address that the client has connected to; none if that is a Unix socket, when the client
    /// has gone, and for a request that was built.
    pub fn local(&self) -> Option<SocketAddr> {
        self.0.remote.as_ref()?.local()
    }

    /// Whether the client asks to change to this protocol (RFC 9110 §7.8).
    pub(super) fn upgrades_to(&self, protocol: &[u8]) -> bool {
        let has = |name: &str, option: &[u8]| {
            let mut options = self.headers().get_all(name).flat_map(tokens);
            options.any(|each| each.eq_ignore_ascii_case(option))
        };
        self.0.head.version == Version::Http11
            && has("connection", b"upgrade")
            && has("upgrade", protocol)
    }

    /// Waits until the client has gone: it has reset its connection (RST) or ended its side of it
    /// (FIN), or the connection has ended. The future lives on its own, so another coroutine may
    /// wait for it. It is never ready for a request that was built.
    ///
    /// A client that has ended its side may still wait for the response. Whether its call goes on
    /// then is a limit, [`HalfClose`](crate::HalfClose); a reset always ends the call. While the
    /// request's body is being received, a client that ends its side has failed, and its call ends.
    ///
    /// ```
    /// # use coring::{Request, Response};
    /// # async fn watch() -> String { String::new() }
    /// async fn long_poll(request: Request) -> Response {
    ///     let gone = request.gone();
    ///     coring::spawn(async move {
    ///         gone.await;
    ///         // Nobody waits any more: take the client off a list, say.
    ///     });
    ///     Response::text(watch().await)
    /// }
    /// ```
    pub fn gone(&self) -> impl Future<Output = ()> + Unpin + 'static {
        match &self.0.remote {
            Some(remote) => remote.gone(),
            None => Rc::new(Event::default()).wait(),
        }
    }

    /// The path as received, not decoded.
    #[inline]
    pub fn path(&self) -> &str {
        str::from_utf8(self.path_bytes()).unwrap_or_default()
    }

    /// The same as bytes, which costs less.
    #[inline]
    pub fn path_bytes(&self) -> &[u8] {
        self.0.head.path(&self.0.bytes)
    }

    /// What follows the first `?` of the target, as received.
    pub fn query(&self) -> Option<&str> {
        self.0.head.query(&self.0.bytes)
    }

    /// The pairs in the query, decoded, in the order they came: `a=1&b=x+y` has two. What is not
    /// UTF-8 is replaced.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        form_urlencoded::parse(self.query().unwrap_or_default().as_bytes())
    }

    /// The host that the client wants, with its port if it named one.
    pub fn host(&self) -> Option<&str> {
        self.0.head.host(&self.0.bytes)
    }

    /// The value of the first field called `name`, in any case of letters.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().get(name)
    }

    /// All fields in the order they came: names and values.
    pub fn headers(&self) -> Fields<'_> {
        self.0.head.fields(&self.0.bytes)
    }

    /// The part of the path that stands for `{name}` in the route by which a [`Router`] has found
    /// the service, decoded. Of two of the same name, in nested routers, it is the inner one.
    ///
    /// [`Router`]: crate::Router
    pub fn param(&self, name: &str) -> Option<&str> {
        let mut params = self.0.extra.get()?.params.iter().rev();
        let (_, value) = params.find(|(other, _)| **other == *name)?;
        Some(value)
    }

    /// Adds what [`Request::param`] finds.
    pub(super) fn add_params(&mut self, params: Vec<(Rc<str>, Box<str>)>) {
        if !params.is_empty() {
            self.extra().params.extend(params);
        }
    }

    /// Leaves out the first `n` bytes of the path.
    pub(super) fn strip_path(&mut self, n: usize) {
        self.0.head.strip_path(n);
    }

    /// The pool that it is from.
    pub(super) fn pool(&self) -> Pool {
        self.0.pool()
    }

    /// Values that other code has attached to the request, one of each type.
    pub fn extensions(&self) -> &Extensions {
        static NONE: LazyLock<Extensions> = LazyLock::new(Extensions::new);
        match self.0.extra.get() {
            Some(extra) => &extra.extensions,
            None => &NONE,
        }
    }

    /// The same, to attach values. Memory is taken only by the requests that are asked for this.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extra().extensions
    }

    fn extra(&mut self) -> &mut Extra {
        self.0.extra.get_or_default()
    }

    /// The body, to read from.
    pub fn body(&mut self) -> &mut Body {
        &mut self.0.body
    }

    /// The body alone.
    pub fn into_body(mut self) -> Body {
        self.take_body()
    }

    pub(super) fn take_body(&mut self) -> Body {
        std::mem::take(self.body())
    }
}

/// Method, target and fields, as text; not the body.
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
