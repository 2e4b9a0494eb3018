//! The services the program offers, as one closed enum: no box, no dynamic call on the way of a
//! request. It refuses to know sockets, workers and flags.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::{self, PathBuf};

use ::http::header::{ALLOW, CONTENT_TYPE};
use ::http::{HeaderValue, Method, StatusCode};
use bytes::Bytes;
use coring::fs::Root;
use coring::{Files, Request, Response, Service};

/// What is served. `F` is what is known of the files: the folder that was named, the one that is
/// open, or a worker's own service.
#[derive(Debug, Clone)]
pub(crate) enum App<F> {
    /// The site within the program.
    Site,
    /// The files of a folder.
    Files(F),
    /// One fixed answer, whatever is asked.
    Respond(Answer),
    /// The request's own body and type, as they come.
    Echo,
}

/// A folder to serve, as it was named.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// How much of it each worker may keep in memory.
    pub(crate) cache_bytes_max: usize,
    /// How much of it may be in answers beside that.
    pub(crate) answer_bytes_max: usize,
}

/// A folder to serve, open.
#[derive(Debug, Clone)]
pub(crate) struct OpenFolder {
    root: Root,
    cache_bytes_max: usize,
    answer_bytes_max: usize,
}

/// A folder that cannot be served, and why.
#[derive(Debug)]
pub(crate) struct NoFolder {
    path: PathBuf,
    error: io::Error,
}

impl fmt::Display for NoFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, error) = (self.path.display(), &self.error);
        let cure = match error.kind() {
            io::ErrorKind::NotFound => "make it, or name another: coring serve DIR",
            io::ErrorKind::NotADirectory => "name the folder that it is in: coring serve DIR",
            io::ErrorKind::PermissionDenied => "let this user enter it and read it",
            io::ErrorKind::Unsupported => "openat2 is needed; a seccomp filter may forbid it",
            _ => "see what is wrong with it, or name another: coring serve DIR",
        };
        write!(f, "cannot serve the folder `{path}`: {error}; {cure}")
    }
}

/// An answer that is always the same.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: HeaderValue,
    pub(crate) body: Bytes,
}

impl<F> App<F> {
    /// The same, with what `files` makes of the files.
    fn try_map<G, E>(&self, files: impl FnOnce(&F) -> Result<G, E>) -> Result<App<G>, E> {
        Ok(match self {
            Self::Site => App::Site,
            Self::Files(folder) => App::Files(files(folder)?),
            Self::Respond(answer) => App::Respond(answer.clone()),
            Self::Echo => App::Echo,
        })
    }
}

impl App<Folder> {
    /// What is served, in a few words for the banner.
    pub(crate) fn description(&self) -> String {
        match self {
            Self::Site => "the embedded site".to_owned(),
            Self::Files(folder) => {
                let absolute = path::absolute(&folder.path);
                let path = absolute.as_ref().unwrap_or(&folder.path);
                format!("the files of {}", path.display())
            }
            Self::Respond(answer) => format!(
                "one fixed answer: {}, {} bytes",
                answer.status.as_u16(),
                answer.body.len()
            ),
            Self::Echo => "an echo of each request's body".to_owned(),
        }
    }

    /// Opens what has to be open before anything is served.
    ///
    /// # Errors
    /// When the folder cannot be had.
    pub(crate) fn open(&self) -> Result<App<OpenFolder>, NoFolder> {
        self.try_map(|folder| match Root::open(&folder.path) {
            Ok(root) => Ok(OpenFolder {
                root,
                cache_bytes_max: folder.cache_bytes_max,
                answer_bytes_max: folder.answer_bytes_max,
            }),
            Err(error) => Err(NoFolder {
                path: folder.path.clone(),
                error,
            }),
        })
    }
}

impl App<OpenFolder> {
    /// A worker's own service.
    pub(crate) fn service(&self) -> App<Files> {
        let Ok(service) = self.try_map(|folder| {
            let files = Files::new(folder.root.clone())
                .with_cache(folder.cache_bytes_max)
                .with_answer_memory(folder.answer_bytes_max);
            Ok::<_, Infallible>(files)
        });
        service
    }
}

impl Service for App<Files> {
    #[expect(
        clippy::manual_async_fn,
        reason = "an async function would move the request once more"
    )]
    fn call(&self, request: Request) -> impl Future<Output = Response> {
        async move {
            match self {
                Self::Site => site(&request),
                Self::Files(files) => files.call(request).await,
                Self::Respond(answer) => Response::new(answer.status)
                    .with_header(CONTENT_TYPE, answer.content_type.clone())
                    .with_body(answer.body.clone()),
                Self::Echo => echo(request),
            }
        }
    }
}

/// One page. As with a folder of files: what is not there is 404 by any method, and what is there
/// can only be read.
fn site(request: &Request) -> Response {
    if request.path_bytes() != b"/" {
        return Response::not_found("<h1>Not Found</h1>");
    }
    match *request.method() {
        Method::GET | Method::HEAD => Response::html("<b>hello world</b>"),
        _ => Response::html("<h1>Method Not Allowed</h1>")
            .with_status(StatusCode::METHOD_NOT_ALLOWED)
            .with_header(ALLOW, HeaderValue::from_static("GET, HEAD")),
    }
}

fn echo(request: Request) -> Response {
    let content_type = request.header("content-type").map(HeaderValue::from_bytes);
    let response = Response::new(StatusCode::OK);
    let response = match content_type {
        Some(Ok(content_type)) => response.with_header(CONTENT_TYPE, content_type),
        _ => response,
    };
    response.with_body(request.into_body())
}
