//! Services of the crate `tower`, axum's `Router` for example, as services of coring.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::header::CONTENT_LENGTH;
use ::http::{HeaderMap, Method, StatusCode};
use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use send_wrapper::SendWrapper;
use tower_service::Service as TowerService;

use super::Service;
use super::body::{Body, BodyError, BodyParts};
use super::request::Request;
use super::response::Response;
use crate::buf::Part;
use crate::messages;

/// Turns a service of the crate `tower`, axum's `Router` for example, into a service of coring.
///
/// ```
/// use std::convert::Infallible;
/// use std::future::{Ready, ready};
/// use std::task::{Context, Poll};
///
/// use coring::{Body, TowerBody, testing};
///
/// #[derive(Clone)]
/// struct Greeting;
///
/// impl tower_service::Service<http::Request<TowerBody>> for Greeting {
///     type Response = http::Response<TowerBody>;
///     type Error = Infallible;
///     type Future = Ready<Result<Self::Response, Infallible>>;
///
///     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
///         Poll::Ready(Ok(()))
///     }
///
///     fn call(&mut self, request: http::Request<TowerBody>) -> Self::Future {
///         let greeting = format!("hello {}", request.uri().path());
///         ready(Ok(http::Response::new(TowerBody::from(Body::from(greeting)))))
///     }
/// }
///
/// // A server takes it as `serve(|| coring::tower(Greeting))`.
/// coring::run(async {
///     let request = coring::Request::builder().uri("/you").body("").unwrap();
///     let received = testing::respond(&coring::tower(Greeting), request).await.unwrap();
///     assert_eq!(received.body, b"hello /you");
/// });
/// ```
///
/// Each call uses a clone of `service`. If it fails, the client gets 500. If the body of a response
/// fails, the connection is closed, so that the client can tell that the response is incomplete.
/// Both errors are reported on standard error.
///
/// Bodies and trailers are streamed both ways. A request's extensions have the client's address as
/// a `SocketAddr`, unless the client connected to a Unix socket. A service cannot take over the
/// connection, so axum refuses WebSocket with 426.
///
/// Services stay on their worker's thread, but many of them ask for futures that are `Send`, as
/// axum's handlers do. The futures of coring are not: wrap them in `SendWrapper` of the crate
/// `send_wrapper`. What needs a runtime of tokio (its timers, sockets, files and `spawn`) works in
/// a guest of tokio, see `coring::tokio`; elsewhere it panics.
pub fn tower<S>(service: S) -> Tower<S> {
    Tower(service)
}

/// A service of the crate `tower` as a service of coring; see [`tower()`].
#[derive(Debug, Clone)]
pub struct Tower<S>(S);

/// The body of a request for services of `tower`, which ask for a body that is `Send`. It cannot
/// leave its worker nevertheless: on another thread it panics, also when it is dropped there.
#[derive(Debug)]
pub struct TowerBody(SendWrapper<Body>);

impl From<Body> for TowerBody {
    fn from(body: Body) -> Self {
        Self(SendWrapper::new(body))
    }
}

impl HttpBody for TowerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(match ready!(self.0.poll_part(context)) {
            Ok(Some(part)) => Some(Ok(Frame::data(part.into_bytes()))),
            Ok(None) => self.0.take_trailers().map(Frame::trailers).map(Ok),
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.length() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .length()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl<S, B> Service for Tower<S>
where
    S: TowerService<::http::Request<TowerBody>, Response = ::http::Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: HttpBody + 'static,
    B::Error: Into<BoxError>,
{
    async fn call(&self, request: Request) -> Response {
        let is_head = *request.method() == Method::HEAD;
        let peer = request.peer();
        let mut request = request.into_http().map(TowerBody::from);
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let mut service = self.0.clone();
        let called = match poll_fn(|context| service.poll_ready(context)).await {
            Ok(()) => service.call(request).await,
            Err(error) => Err(error),
        };
        match called {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let length = length(&parts.headers, &body, is_head);
                let body = match is_head {
                    true => Body::from_parts(Box::new(TowerParts::new(body, length))),
                    false => begin(body, length).await,
                };
                Response::from_http(::http::Response::from_parts(parts, body))
            }
            Err(error) => {
                report("a service of `tower` failed", error);
                Response::new(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

const FAILED: &str = "the body of a response of `tower` failed";

/// Tells the operator about an error, in one line whatever its text contains.
fn report(what: &str, error: impl Into<BoxError>) {
    let error = error.into().to_string();
    messages::report(format_args!("{what}: {}", error.replace(['\r', '\n'], " ")));
}

/// The length of a response's body: what its head declares, else what the body says. A response to
/// HEAD has lost its body, so that one's length 0 says nothing.
fn length(fields: &HeaderMap, body: &impl HttpBody, is_head: bool) -> Option<u64> {
    let declared = fields.get(CONTENT_LENGTH).map(|value| value.to_str());
    let declared = declared.and_then(|value| value.ok()?.parse().ok());
    declared.or_else(|| {
        let length = body.size_hint().exact();
        length.filter(|&length| length > 0 || !is_head)
    })
}

/// The body of a response. If all of it is ready, it is sent with the head.
async fn begin<B>(body: B, length: Option<u64>) -> Body
where
    B: HttpBody + 'static,
    B::Error: Into<BoxError>,
{
    if length == Some(0) {
        return Body::empty();
    }
    let mut parts = TowerParts::new(body, length);
    match poll_fn(|context| Poll::Ready(parts.poll_part(context))).await {
        Poll::Ready(Ok(Some(part))) if parts.left == Some(0) => return part.into_bytes().into(),
        Poll::Ready(Ok(Some(part))) => parts.first = Some(part),
        Poll::Ready(Ok(None)) if parts.trailers.is_none() => return Body::empty(),
        // The next poll has the same outcome.
        Poll::Ready(Ok(None) | Err(_)) | Poll::Pending => {}
    }
    Body::from_parts(Box::new(parts))
}

/// The body of a response, part by part.
struct TowerParts<B> {
    body: State<B>,
    /// A part that was read early.
    first: Option<Part>,
    /// The number of bytes that `body` still has, if its length is known.
    left: Option<u64>,
    trailers: Option<HeaderMap>,
}

enum State<B> {
    Open(Pin<Box<B>>),
    /// The body is dropped, and every further poll returns this.
    Ended(Result<(), BodyError>),
}

impl<B> TowerParts<B> {
    fn new(body: B, length: Option<u64>) -> Self {
        Self {
            body: State::Open(Box::pin(body)),
            first: None,
            left: length,
            trailers: None,
        }
    }

    /// Ends a body whose length is not the declared one.
    fn end_wrong(&mut self) -> Result<Option<Part>, BodyError> {
        report(FAILED, BodyError::WrongLength);
        self.end(Err(BodyError::WrongLength))
    }

    fn end(&mut self, end: Result<(), BodyError>) -> Result<Option<Part>, BodyError> {
        self.body = State::Ended(end);
        end.map(|()| None)
    }
}

impl<B> BodyParts for TowerParts<B>
where
    B: HttpBody,
    B::Error: Into<BoxError>,
{
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Part>, BodyError>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Ok(Some(first)));
        }
        let body = match &mut self.body {
            State::Open(body) => body,
            State::Ended(end) => return Poll::Ready(end.map(|()| None)),
        };
        let frame = ready!(body.as_mut().poll_frame(context)).transpose();
        let data = match frame.map(|frame| frame.map(Frame::into_data)) {
            Ok(Some(Ok(mut data))) => data.copy_to_bytes(data.remaining()),
            Ok(trailers_or_end) => {
                let trailers = trailers_or_end.and_then(Result::err);
                self.trailers = trailers.and_then(|frame| frame.into_trailers().ok());
                let is_short = self.left.is_some_and(|left| left > 0);
                return Poll::Ready(match is_short {
                    true => self.end_wrong(),
                    false => self.end(Ok(())),
                });
            }
            Err(error) => {
                report(FAILED, error);
                return Poll::Ready(self.end(Err(BodyError::Incomplete)));
            }
        };
        if data.is_empty() {
            // Yield to other tasks: a body may have empty frames for ever.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(left) = &mut self.left {
            match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => return Poll::Ready(self.end_wrong()),
            }
        }
        Poll::Ready(Ok(Some(data.into())))
    }

    fn left(&self) -> Option<u64> {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        self.left.map(|left| left + first)
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }
}

impl<B> fmt::Debug for TowerParts<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerParts")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::{Ready, ready};
    use std::net::SocketAddr;

    use super::*;
    use crate::testing::{Received, respond};

    type HttpRequest = ::http::Request<TowerBody>;
    type HttpResponse<B> = ::http::Response<B>;
    type Failing = &'static str;

    /// A service made of a function.
    #[derive(Clone)]
    struct Made<F>(F);

    impl<F, B> TowerService<HttpRequest> for Made<F>
    where
        F: Fn(HttpRequest) -> Result<HttpResponse<B>, Failing>,
    {
        type Response = HttpResponse<B>;
        type Error = Failing;
        type Future = Ready<Result<HttpResponse<B>, Failing>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failing>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: HttpRequest) -> Self::Future {
            ready(self.0(request))
        }
    }

    /// A body of these frames, which does not know its length.
    struct Frames(VecDeque<Result<Frame<Bytes>, Failing>>);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Failing;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Failing>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn frames<const N: usize>(data: [&'static str; N]) -> Frames {
        let frames = data.map(|data| Ok(Frame::data(data.into())));
        Frames(frames.into())
    }

    fn request(method: Method, body: impl Into<Body>) -> Request {
        let request = Request::builder().method(method).uri("/a?b");
        let peer: SocketAddr = "192.0.2.1:80".parse().expect("an address");
        request.peer(peer).body(body).expect("a valid request")
    }

    /// The response of a service to GET.
    fn get<B>(
        make: impl Fn(HttpRequest) -> Result<HttpResponse<B>, Failing> + Clone + 'static,
    ) -> Option<Received>
    where
        B: HttpBody<Error: Into<BoxError>> + 'static,
    {
        let service = tower(Made(make));
        crate::run(async move { respond(&service, request(Method::GET, "")).await.ok() })
    }

    /// The response to HEAD, not yet sent.
    fn head<B>(response: impl Fn() -> HttpResponse<B> + Clone + 'static) -> Response
    where
        B: HttpBody<Error: Into<BoxError>> + 'static,
    {
        let service = tower(Made(move |_| Ok(response())));
        crate::run(async move { service.call(request(Method::HEAD, "")).await })
    }

    fn with_length<B>(length: &str, body: B) -> HttpResponse<B> {
        let response = HttpResponse::builder().header(CONTENT_LENGTH, length);
        response.body(body).expect("a valid response")
    }

    #[test]
    fn a_body_and_its_trailers_go_both_ways() {
        let echo = tower(Made(|request: HttpRequest| {
            assert_eq!(request.uri(), "/a?b");
            let peer: Option<&SocketAddr> = request.extensions().get();
            assert_eq!(peer.map(SocketAddr::port), Some(80));
            Ok(HttpResponse::new(request.into_body()))
        }));
        let received = crate::run(async move {
            let (mut sender, body) = Body::channel(1 << 10);
            let received =
                crate::spawn(async move { respond(&echo, request(Method::POST, body)).await });
            for part in ["one ", "two ", "three"] {
                sender.write(part).await.expect("a reader");
            }
            sender.finish();
            received.await.expect("no panic").expect("a response")
        });
        assert_eq!(received.body, b"one two three");
        let received = get(|_| {
            let mut body = frames(["", "content", ""]);
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "7".parse().expect("a value"));
            body.0.push_back(Ok(Frame::trailers(trailers)));
            Ok(HttpResponse::new(body))
        });
        let received = received.expect("a response");
        assert_eq!(
            (&*received.body, received.trailers.len()),
            (&b"content"[..], 1)
        );
    }

    #[test]
    fn a_failure_is_500_before_the_head_and_closes_after_it() {
        let failed = get(|_| Err::<HttpResponse<Frames>, _>("two\nlines")).expect("a response");
        assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
        for before in [&[][..], &["content"], &["", "a", "b"]] {
            let broken = get(move |_| {
                let frames = before.iter().map(|data| Ok(Frame::data((*data).into())));
                Ok(HttpResponse::new(Frames(
                    frames.chain([Err("broken")]).collect(),
                )))
            });
            assert!(broken.is_none(), "{before:?}");
        }
    }

    /// A second process, which runs this same test, sends the bodies, because a process has one
    /// standard error.
    #[test]
    fn a_body_that_fails_is_reported() {
        const SENDS: &str = "CORING_TEST_SENDS_FAILING_BODIES";
        if std::env::var_os(SENDS).is_some() {
            for wrong in ["3", "5"] {
                let sent = get(move |_| Ok(with_length(wrong, frames(["a", "bcd"]))));
                assert!(sent.is_none());
            }
            let broken = get(|_| Ok(HttpResponse::new(Frames([Err("no more")].into()))));
            assert!(broken.is_none());
            assert!(messages::flush(std::time::Duration::from_secs(10)));
            return;
        }
        let mut child = std::process::Command::new(std::env::current_exe().expect("a path"));
        let name = "service::tower::tests::a_body_that_fails_is_reported";
        child.args(["--exact", name, "--nocapture"]).env(SENDS, "1");
        let output = child.output().expect("a process");
        let text = String::from_utf8(output.stderr).expect("text");
        for (cause, count) in [(&*BodyError::WrongLength.to_string(), 2), ("no more", 1)] {
            let line = format!("coring: {FAILED}: {cause}\n");
            assert_eq!(text.matches(&line).count(), count, "{text}");
        }
        assert!(output.status.success(), "{text}");
    }

    #[test]
    fn the_declared_length_of_a_body_counts() {
        let length = |response: fn() -> HttpResponse<Frames>| head(response).body_length();
        // axum drops the body of a response to HEAD, and declares its length.
        assert_eq!(length(|| with_length("9", frames([]))), Some(9));
        assert_eq!(length(|| HttpResponse::new(frames([]))), None);
        assert_eq!(length(|| with_length("nine", frames([]))), None);
        let full = || HttpResponse::new(TowerBody::from(Body::from("content")));
        assert_eq!(head(full).body_length(), Some(7));
        let none = || HttpResponse::new(TowerBody::from(Body::empty()));
        assert_eq!(head(none).body_length(), None);
        let whole = get(|_| Ok(with_length("4", frames(["a", "bcd"])))).expect("a response");
        assert_eq!(whole.body, b"abcd");
        for wrong in ["3", "5"] {
            assert!(get(move |_| Ok(with_length(wrong, frames(["a", "bcd"])))).is_none());
        }
    }
}
