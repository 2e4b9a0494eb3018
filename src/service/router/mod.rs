//! A service that passes each request on to another service, by path and method.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;

use ::http::header::ALLOW;
use ::http::{HeaderValue, Method, StatusCode};
use percent_encoding::percent_decode_str;

use super::methods::refusal;
use super::{Request, Response, Service};
use crate::buf::PoolBox;

/// A service that finds another service for each request, by path and method.
///
/// A route is a path. In it, `{name}` matches one segment or a part of one, and `{*rest}` at the
/// end matches everything that follows. Neither matches an empty string. The service reads the
/// decoded values with [`Request::param`]. A literal segment takes precedence over a parameter.
/// Routes are compared with the path as received: `/a%62` does not match `/ab`.
///
/// A route's service is an async function. It returns a [`Response`] or a type that converts into
/// one, such as a `StatusCode`, or a `Result` of two such types, so that `?` returns an error
/// response. Other services, for example [`Files`](crate::Files), are added with [`Router::nest`]
/// or [`Router::fallback`].
///
/// If no route matches the path, the client gets 404 or the response of [`Router::fallback`]. If
/// the route has no service for the method, the client gets 405, or 501 for a method that is not
/// a standard one and that no other route has. The service for GET also answers HEAD; the server
/// then omits the content. OPTIONS is answered with the list of methods, unless the route has a
/// service for it. `OPTIONS *`, which asks about the server as a whole, is answered
/// with 204, or by the fallback. All services run on the same worker, so they can share state in
/// an `Rc` without a lock.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
///
/// use coring::{Request, Response, Router, Service};
///
/// fn router() -> Router {
///     let count = Rc::new(Cell::new(0));
///     Router::new()
///         .get("/", async |_: Request| Response::text("hello"))
///         .get("/hello/{name}", async move |request: Request| {
///             count.set(count.get() + 1);
///             let name = request.param("name").unwrap_or_default();
///             Response::text(format!("hello {name}, number {}", count.get()))
///         })
/// }
///
/// coring::run(async {
///     let request = Request::builder().uri("/hello/J%C3%BCrgen").body("").unwrap();
///     let mut response = router().call(request).await;
///     assert_eq!(response.body().read(100).await.unwrap(), "hello Jürgen, number 1".as_bytes());
/// });
/// ```
#[derive(Default)]
pub struct Router {
    /// The index in `routes` for each path.
    paths: matchit::Router<usize>,
    routes: Vec<Route>,
    fallback: Option<Box<dyn AnyService>>,
}

/// A path and its services.
struct Route {
    path: Box<str>,
    /// The names of its parameters, in order, without the rest of a nested path.
    names: Vec<Rc<str>>,
    services: Services,
}

enum Services {
    ByMethod(Vec<(Method, Box<dyn AnyService>)>),
    /// One service for all methods, which gets the rest of the path.
    Nested(Rc<dyn AnyService>),
}

/// Makes a [`Service`] of a function whose result converts into a response. `Service` itself is
/// implemented only for functions that return a [`Response`], because the conversion costs one more
/// future per call.
struct FunctionService<F>(F);

impl<F, R> Service for FunctionService<F>
where
    F: AsyncFn(Request) -> R,
    R: Into<Response>,
{
    async fn call(&self, request: Request) -> Response {
        (self.0)(request).await.into()
    }
}

/// [`Service`] as a trait object. The future is allocated in a block of the request's pool.
trait AnyService {
    fn respond(&self, request: Request) -> ResponseFuture<'_>;
}

type ResponseFuture<'s> = Pin<PoolBox<dyn Future<Output = Response> + 's>>;

impl<S: Service> AnyService for S {
    fn respond(&self, request: Request) -> ResponseFuture<'_> {
        PoolBox::pin_future(&request.pool(), || self.call(request))
    }
}

impl Router {
    /// Makes a router without routes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service for GET of `path`. It also answers HEAD, unless the route has one for HEAD.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[must_use]
    pub fn get<R>(self, path: &str, service: impl AsyncFn(Request) -> R + 'static) -> Self
    where
        R: Into<Response> + 'static,
    {
        self.route(Method::GET, path, service)
    }

    /// Adds a service for POST of `path`.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[must_use]
    pub fn post<R>(self, path: &str, service: impl AsyncFn(Request) -> R + 'static) -> Self
    where
        R: Into<Response> + 'static,
    {
        self.route(Method::POST, path, service)
    }

    /// Adds a service for PUT of `path`.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[must_use]
    pub fn put<R>(self, path: &str, service: impl AsyncFn(Request) -> R + 'static) -> Self
    where
        R: Into<Response> + 'static,
    {
        self.route(Method::PUT, path, service)
    }

    /// Adds a service for PATCH of `path`.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[must_use]
    pub fn patch<R>(self, path: &str, service: impl AsyncFn(Request) -> R + 'static) -> Self
    where
        R: Into<Response> + 'static,
    {
        self.route(Method::PATCH, path, service)
    }

    /// Adds a service for DELETE of `path`.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[must_use]
    pub fn delete<R>(self, path: &str, service: impl AsyncFn(Request) -> R + 'static) -> Self
    where
        R: Into<Response> + 'static,
    {
        self.route(Method::DELETE, path, service)
    }

    /// Adds a service for `method` of `path`.
    ///
    /// # Panics
    /// If `path` does not begin with a slash, has a malformed `{…}` or matches the same paths as
    /// another route, or if the route already has a service for `method`.
    #[must_use]
    pub fn route<R>(
        mut self,
        method: Method,
        path: &str,
        service: impl AsyncFn(Request) -> R + 'static,
    ) -> Self
    where
        R: Into<Response> + 'static,
    {
        let known = self.routes.iter().position(|route| *route.path == *path);
        let services = match known {
            Some(at) => &mut self.routes[at].services,
            None => self.add(path, Services::ByMethod(Vec::new())),
        };
        match services {
            Services::ByMethod(services) if find(services, &method).is_none() => {
                services.push((method, Box::new(FunctionService(service))));
            }
            _ => panic!("{method} {path} already has a service"),
        }
        self
    }

    /// Adds a service, which may be another router, for `prefix` and all paths beneath it, with any
    /// method. [`Request::path`] then returns the path without the prefix, or `/` for the prefix
    /// itself. [`Files`](crate::Files) redirects from the prefix to the prefix with a slash,
    /// because relative links of a page at the prefix itself would lead out of it.
    ///
    /// ```
    /// use coring::{Files, Request, Response, Router, fs::Root};
    ///
    /// fn router(root: Root) -> Router {
    ///     Router::new()
    ///         .get("/", async |_: Request| Response::text("hello"))
    ///         .nest("/static", Files::new(root))
    /// }
    /// ```
    ///
    /// # Panics
    /// As [`Router::route`], and if `prefix` ends with a slash. For a service that answers all
    /// other paths, see [`Router::fallback`].
    #[must_use]
    pub fn nest(mut self, prefix: &str, service: impl Service + 'static) -> Self {
        assert!(
            !prefix.ends_with('/'),
            "the prefix {prefix:?} must not end with a slash"
        );
        let service: Rc<dyn AnyService> = Rc::new(service);
        for rest in ["", "/", "/{*rest}"] {
            self.add(
                &format!("{prefix}{rest}"),
                Services::Nested(service.clone()),
            );
        }
        self
    }

    /// Sets the service for paths that match no route.
    #[must_use]
    pub fn fallback(mut self, service: impl Service + 'static) -> Self {
        self.fallback = Some(Box::new(service));
        self
    }

    /// Adds a route, and returns its services.
    fn add(&mut self, path: &str, services: Services) -> &mut Services {
        assert!(
            path.starts_with('/'),
            "the path {path:?} must begin with a slash"
        );
        if let Err(error) = self.paths.insert(path, self.routes.len()) {
            panic!("cannot add the route {path}: {error}");
        }
        let mut names: Vec<Rc<str>> = names(path).map(Rc::from).collect();
        if matches!(services, Services::Nested(_)) && path.ends_with("{*rest}") {
            // The rest becomes the nested service's path, not a parameter.
            names.pop();
        }
        let path = path.into();
        let route = Route {
            path,
            names,
            services,
        };
        self.routes.push(route);
        let last = self.routes.last_mut();
        &mut last.expect("a route was pushed").services
    }

    /// Finds the service for `request`, and gives the request its parameters and the service's
    /// path.
    fn find(&self, request: &mut Request) -> Result<&dyn AnyService, RouterResponse> {
        let path = request.path();
        let Ok(found) = self.paths.at(path) else {
            let fallback = self.fallback.as_deref();
            return fallback.ok_or_else(|| match path {
                "*" => StatusCode::NO_CONTENT.into(),
                _ => StatusCode::NOT_FOUND.into(),
            });
        };
        let route = &self.routes[*found.value];
        let mut params = Vec::new();
        for (name, (_, value)) in route.names.iter().zip(found.params.iter()) {
            let Ok(value) = percent_decode_str(value).decode_utf8() else {
                return Err(StatusCode::BAD_REQUEST.into());
            };
            params.push((name.clone(), value.into()));
        }
        let service = match &route.services {
            Services::ByMethod(services) => self.by_method(services, request.method())?,
            Services::Nested(service) => {
                let rest = found.params.iter().nth(route.names.len());
                let kept = rest.map_or(0, |(_, rest)| rest.len());
                let slash = usize::from(route.path.ends_with('/') || rest.is_some());
                let stripped = path.len() - kept - slash;
                request.strip_path(stripped);
                &**service
            }
        };
        request.add_params(params);
        Ok(service)
    }

    /// The service for `method`, where GET's also answers HEAD; else the router's own response.
    fn by_method<'s>(
        &self,
        services: &'s ByMethod,
        method: &Method,
    ) -> Result<&'s dyn AnyService, RouterResponse> {
        let found = match (find(services, method), method) {
            (None, &Method::HEAD) => find(services, &Method::GET),
            (found, _) => found,
        };
        let is_known = || {
            let mut routes = self.routes.iter();
            routes.any(|route| match &route.services {
                Services::ByMethod(services) => find(services, method).is_some(),
                Services::Nested(_) => false,
            })
        };
        found.ok_or_else(|| match *method {
            Method::OPTIONS => RouterResponse::with_allow(StatusCode::NO_CONTENT, services),
            _ => match refusal(method, is_known()) {
                StatusCode::METHOD_NOT_ALLOWED => {
                    RouterResponse::with_allow(StatusCode::METHOD_NOT_ALLOWED, services)
                }
                status => status.into(),
            },
        })
    }
}

impl Service for Router {
    async fn call(&self, mut request: Request) -> Response {
        match self.find(&mut request) {
            Ok(service) => service.respond(request).await,
            Err(response) => response.into(),
        }
    }
}

/// The names of the parameters `{name}` and `{*name}` in `path`. Doubled braces are literal ones.
fn names(path: &str) -> impl Iterator<Item = String> {
    let path = path.replace("{{", "").replace("}}", "");
    let parts: Vec<String> = path
        .split('{')
        .skip(1)
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| name.trim_start_matches('*').to_owned())
        .collect();
    parts.into_iter()
}

type ByMethod = [(Method, Box<dyn AnyService>)];

/// The service for exactly this method.
fn find<'s>(services: &'s ByMethod, method: &Method) -> Option<&'s dyn AnyService> {
    let mut services = services.iter();
    let (_, service) = services.find(|(other, _)| other == method)?;
    Some(&**service)
}

/// The Allow field of a path with these services.
fn allow(services: &ByMethod) -> HeaderValue {
    let mut methods: Vec<&str> = services.iter().map(|(method, _)| method.as_str()).collect();
    for (implied, is_implied) in [("HEAD", methods.contains(&"GET")), ("OPTIONS", true)] {
        if is_implied && !methods.contains(&implied) {
            methods.push(implied);
        }
    }
    HeaderValue::try_from(methods.join(", ")).expect("methods are tokens")
}

/// The router's own response, if no service is found.
struct RouterResponse {
    status: StatusCode,
    allow: Option<HeaderValue>,
}

impl RouterResponse {
    fn with_allow(status: StatusCode, services: &ByMethod) -> Self {
        let allow = Some(allow(services));
        Self { status, allow }
    }
}

impl From<StatusCode> for RouterResponse {
    fn from(status: StatusCode) -> Self {
        let allow = None;
        Self { status, allow }
    }
}

impl From<RouterResponse> for Response {
    fn from(own: RouterResponse) -> Self {
        let response = match own.status {
            StatusCode::NO_CONTENT => Self::new(own.status),
            status => Self::text(format!(
                "{}\n",
                status.canonical_reason().unwrap_or_default()
            ))
            .with_status(status),
        };
        match own.allow {
            Some(allow) => response.with_header(ALLOW, allow),
            None => response,
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.routes.iter().map(|route| &route.path);
        f.debug_set().entries(paths).finish()
    }
}

#[cfg(test)]
mod tests;
