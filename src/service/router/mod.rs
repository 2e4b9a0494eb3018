//! A service of services, which are found by path and method.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;

use ::http::header::ALLOW;
use ::http::{HeaderValue, Method, StatusCode};
use percent_encoding::percent_decode_str;

use super::{Request, Response, Service};
use crate::buf::PoolBox;

/// Finds the service of a request by its path and method.
///
/// A route is a path in which `{name}` stands for one segment and `{*rest}`, at its end, for all
/// that follows; the service has their decoded values by [`Request::param`]. A path without such a
/// part is preferred to one with it. No part is empty, and paths are compared as they are received:
/// `/a%62` is not `/ab`.
///
/// The service of a route is an async function that returns a [`Response`], or something a response
/// can be made of: a `StatusCode`, or a `Result` of two such types, so that `?` ends it with a
/// response. Other services, [`Files`](crate::Files) for one, are nested.
///
/// A path without a route is answered with 404, or by [`Router::fallback`]; a method that a path
/// does not have, with 405. HEAD is answered by the service for GET, whose content is not sent, and
/// OPTIONS with the methods that there are, unless there is a service for it. State that services
/// share belongs to their worker: it needs an `Rc` and no lock.
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
    /// For each path its place among the routes.
    paths: matchit::Router<usize>,
    routes: Vec<Route>,
    fallback: Option<Box<dyn AnyService>>,
}

/// A path, and what answers there.
struct Route {
    path: Box<str>,
    /// Those of its parts, in order, that the service is told.
    names: Vec<Rc<str>>,
    services: Services,
}

enum Services {
    ByMethod(Vec<(Method, Box<dyn AnyService>)>),
    /// For all methods; to be asked for the rest of the path.
    Nested(Rc<dyn AnyService>),
}

/// A function that returns something a response can be made of. As a [`Service`] of its own each
/// would be polled through one more future, also where it returns a response.
struct Function<F>(F);

impl<F, R> Service for Function<F>
where
    F: AsyncFn(Request) -> R,
    R: Into<Response>,
{
    async fn call(&self, request: Request) -> Response {
        (self.0)(request).await.into()
    }
}

/// A service whose type is forgotten. The future is in a block of the request's pool.
trait AnyService {
    fn answer(&self, request: Request) -> Answering<'_>;
}

type Answering<'s> = Pin<PoolBox<dyn Future<Output = Response> + 's>>;

impl<S: Service> AnyService for S {
    fn answer(&self, request: Request) -> Answering<'_> {
        PoolBox::pin_future(&request.pool(), || self.call(request))
    }
}

impl Router {
    /// A router without routes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same router with a service for GET, and so for HEAD, of `path`.
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

    /// The same router with a service for POST of `path`.
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

    /// The same router with a service for PUT of `path`.
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

    /// The same router with a service for PATCH of `path`.
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

    /// The same router with a service for DELETE of `path`.
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

    /// The same router with a service for `method` of `path`.
    ///
    /// # Panics
    /// When `path` does not begin with a slash, has a malformed `{…}`, or stands for the same paths
    /// as another one; when it has a service for that method.
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
                services.push((method, Box::new(Function(service))));
            }
            _ => panic!("two services for {method} {path}"),
        }
        self
    }

    /// The same router with a service, which may be another router, for `prefix` and all paths
    /// beneath it, whatever the method. To this service the path is what follows the prefix; for
    /// the prefix itself it is `/`.
    ///
    /// # Panics
    /// As [`Router::route`]; when `prefix` ends in a slash. For all paths, see
    /// [`Router::fallback`].
    #[must_use]
    pub fn nest(mut self, prefix: &str, service: impl Service + 'static) -> Self {
        assert!(
            !prefix.ends_with('/'),
            "a prefix without a slash at its end, not {prefix:?}"
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

    /// The same router with a service for paths that have no route.
    #[must_use]
    pub fn fallback(mut self, service: impl Service + 'static) -> Self {
        self.fallback = Some(Box::new(service));
        self
    }

    fn add(&mut self, path: &str, services: Services) -> &mut Services {
        assert!(
            path.starts_with('/'),
            "a path that begins with a slash, not {path:?}"
        );
        if let Err(error) = self.paths.insert(path, self.routes.len()) {
            panic!("the route {path}: {error}");
        }
        let mut names: Vec<Rc<str>> = names(path).map(Rc::from).collect();
        if matches!(services, Services::Nested(_)) && path.ends_with("{*rest}") {
            // The rest is the nested service's path.
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
        &mut last.expect("it was pushed").services
    }

    /// The service that answers `request`, which is prepared for it.
    fn find(&self, request: &mut Request) -> Result<&dyn AnyService, Refusal> {
        let path = request.path();
        let Ok(found) = self.paths.at(path) else {
            let fallback = self.fallback.as_deref();
            return fallback.ok_or_else(|| StatusCode::NOT_FOUND.into());
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
            Services::ByMethod(services) => by_method(services, request.method())?,
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
}

impl Service for Router {
    async fn call(&self, mut request: Request) -> Response {
        match self.find(&mut request) {
            Ok(service) => service.answer(request).await,
            Err(refusal) => refusal.into(),
        }
    }
}

/// The names in `{name}` and `{*name}` of `path`, in which doubled braces stand for themselves.
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

fn find<'s>(services: &'s ByMethod, method: &Method) -> Option<&'s dyn AnyService> {
    let mut services = services.iter();
    let (_, service) = services.find(|(other, _)| other == method)?;
    Some(&**service)
}

/// The service for `method`, if the path has one.
fn by_method<'s>(services: &'s ByMethod, method: &Method) -> Result<&'s dyn AnyService, Refusal> {
    let found = match (find(services, method), method) {
        (None, &Method::HEAD) => find(services, &Method::GET),
        (found, _) => found,
    };
    found.ok_or_else(|| Refusal {
        status: match *method {
            Method::OPTIONS => StatusCode::NO_CONTENT,
            _ => StatusCode::METHOD_NOT_ALLOWED,
        },
        allow: Some(allow(services)),
    })
}

/// All methods that are answered where there are these services.
fn allow(services: &ByMethod) -> HeaderValue {
    let mut methods: Vec<&str> = services.iter().map(|(method, _)| method.as_str()).collect();
    for (implied, is_implied) in [("HEAD", methods.contains(&"GET")), ("OPTIONS", true)] {
        if is_implied && !methods.contains(&implied) {
            methods.push(implied);
        }
    }
    HeaderValue::try_from(methods.join(", ")).expect("methods are tokens")
}

/// How a request is answered that no service is asked.
struct Refusal {
    status: StatusCode,
    allow: Option<HeaderValue>,
}

impl From<StatusCode> for Refusal {
    fn from(status: StatusCode) -> Self {
        let allow = None;
        Self { status, allow }
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        let response = match refusal.status {
            StatusCode::NO_CONTENT => Self::new(refusal.status),
            status => Self::text(format!(
                "{}\n",
                status.canonical_reason().unwrap_or_default()
            ))
            .with_status(status),
        };
        match refusal.allow {
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
