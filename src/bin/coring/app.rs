//! The services of the program. They are one enum, so that no request needs an allocation or a
//! dynamic call to reach its service. They know neither sockets nor workers nor flags.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::{self, PathBuf};

use ::http::header::{ALLOW, CONTENT_TYPE};
use ::http::{HeaderValue, Method, StatusCode};
use bytes::Bytes;
use coring::fs::Root;
use coring::{Files, Request, Response, Service};

/// The service that the operator has chosen. `F` is the directory: first its path, then the open
/// directory, then a worker's [`Files`] service.
#[derive(Debug, Clone)]
pub(crate) enum App<F> {
    /// The embedded site.
    Site,
    /// The files of a directory.
    Files(F),
    /// The same response to every request.
    Respond(FixedResponse),
    /// The body and the type of the request itself.
    Echo,
}

/// A directory to serve, by its path.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    /// Whether a directory without `index.html` is listed.
    pub(crate) lists: bool,
    /// How many bytes of its files each worker may cache.
    pub(crate) cache_bytes_max: usize,
    /// How many more bytes of its files each worker may hold for responses.
    pub(crate) response_bytes_max: usize,
}

/// An open directory to serve.
#[derive(Debug, Clone)]
pub(crate) struct OpenDirectory {
    root: Root,
    lists: bool,
    cache_bytes_max: usize,
    response_bytes_max: usize,
}

/// How `serve` is given its directory.
const SERVE: &str = "coring serve DIR";

/// A directory that cannot be used, and the reason.
#[derive(Debug)]
pub(crate) struct DirectoryError {
    /// How it is given, as `--static /PATH=DIR`.
    pub(crate) given: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) error: io::Error,
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, error) = (self.path.display(), &self.error);
        let (text, given) = (self.path.to_str(), self.given);
        let is_port = given == SERVE && text.is_some_and(|text| text.parse::<u16>().is_ok());
        let cure = match error.kind() {
            io::ErrorKind::NotFound if is_port => {
                "for a port: coring serve --bind 127.0.0.1:PORT".to_owned()
            }
            io::ErrorKind::NotFound => format!("create it, or name another: {given}"),
            io::ErrorKind::NotADirectory => format!("name the directory that contains it: {given}"),
            io::ErrorKind::PermissionDenied => "allow this user to use it".to_owned(),
            io::ErrorKind::Unsupported => {
                "openat2 is needed; a seccomp filter may forbid it".to_owned()
            }
            _ => format!("check it, or name another: {given}"),
        };
        write!(f, "cannot use the directory `{path}`: {error}; {cure}")
    }
}

/// The response of `coring respond`.
#[derive(Debug, Clone)]
pub(crate) struct FixedResponse {
    pub(crate) status: StatusCode,
    pub(crate) content_type: HeaderValue,
    pub(crate) body: Bytes,
}

impl<F> App<F> {
    /// Converts the directory with `convert`, if there is one.
    fn try_map<G, E>(&self, convert: impl FnOnce(&F) -> Result<G, E>) -> Result<App<G>, E> {
        Ok(match self {
            Self::Site => App::Site,
            Self::Files(directory) => App::Files(convert(directory)?),
            Self::Respond(fixed_response) => App::Respond(fixed_response.clone()),
            Self::Echo => App::Echo,
        })
    }
}

impl App<Directory> {
    /// A short description for the banner.
    pub(crate) fn description(&self) -> String {
        match self {
            Self::Site => "the embedded site".to_owned(),
            Self::Files(directory) => {
                let absolute = path::absolute(&directory.path);
                let path = absolute.as_ref().unwrap_or(&directory.path);
                let remark = match directory.lists {
                    true => ", and lists its directories",
                    false if path.join("index.html").exists() => "",
                    false => " (no index.html in it: --listing shows what is there)",
                };
                format!("the files of {}{remark}", path.display())
            }
            Self::Respond(fixed_response) => format!(
                "one fixed response: {}, {} bytes",
                fixed_response.status.as_u16(),
                fixed_response.body.len()
            ),
            Self::Echo => "an echo of each request's body".to_owned(),
        }
    }

    /// Opens the directory, if there is one, before the server starts.
    ///
    /// # Errors
    /// Fails if the directory cannot be opened.
    pub(crate) fn open(&self) -> Result<App<OpenDirectory>, DirectoryError> {
        self.try_map(|directory| match Root::open(&directory.path) {
            Ok(root) => Ok(OpenDirectory {
                root,
                lists: directory.lists,
                cache_bytes_max: directory.cache_bytes_max,
                response_bytes_max: directory.response_bytes_max,
            }),
            Err(error) => Err(DirectoryError {
                given: SERVE,
                path: directory.path.clone(),
                error,
            }),
        })
    }
}

impl App<OpenDirectory> {
    /// Makes the service of one worker.
    pub(crate) fn service(&self) -> App<Files> {
        let Ok(service) = self.try_map(|directory| {
            let files = Files::new(directory.root.clone())
                .with_listing(directory.lists)
                .with_cache(directory.cache_bytes_max)
                .with_response_memory(directory.response_bytes_max);
            Ok::<_, Infallible>(files)
        });
        service
    }
}

impl Service for App<Files> {
    #[expect(
        clippy::manual_async_fn,
        reason = "an `async fn` would move the request once more"
    )]
    fn call(&self, request: Request) -> impl Future<Output = Response> {
        async move {
            match self {
                Self::Site => site(&request),
                Self::Files(files) => files.call(request).await,
                Self::Respond(fixed_response) => Response::new(fixed_response.status)
                    .with_header(CONTENT_TYPE, fixed_response.content_type.clone())
                    .with_body(fixed_response.body.clone()),
                Self::Echo => echo(request),
            }
        }
    }
}

/// The embedded site, which has one page. Methods are as for the files of a directory.
fn site(request: &Request) -> Response {
    let is_page = request.path_bytes() == b"/";
    let response = match *request.method() {
        Method::GET | Method::HEAD if is_page => return Response::html("<b>hello world</b>"),
        Method::OPTIONS if request.path_bytes() == b"*" => Response::new(StatusCode::NO_CONTENT),
        _ if !is_page => return Response::not_found("<h1>Not Found</h1>"),
        Method::POST
        | Method::PUT
        | Method::DELETE
        | Method::PATCH
        | Method::OPTIONS
        | Method::TRACE => Response::html("<h1>Method Not Allowed</h1>")
            .with_status(StatusCode::METHOD_NOT_ALLOWED),
        _ => {
            return Response::html("<h1>Not Implemented</h1>")
                .with_status(StatusCode::NOT_IMPLEMENTED);
        }
    };
    response.with_header(ALLOW, HeaderValue::from_static("GET, HEAD"))
}

/// Sends the request's body back, with its type.
fn echo(request: Request) -> Response {
    let content_type = request.header("content-type").map(HeaderValue::from_bytes);
    let response = Response::new(StatusCode::OK);
    let response = match content_type {
        Some(Ok(content_type)) => response.with_header(CONTENT_TYPE, content_type),
        _ => response,
    };
    response.with_body(request.into_body())
}
