//! The services the program offers, as one closed enum: no box, no dynamic call on the way of a
//! request. It refuses to know sockets, workers and flags.

use ::http::header::{ALLOW, CONTENT_TYPE};
use ::http::{HeaderValue, Method, StatusCode};
use bytes::Bytes;
use coring::{Request, Response, Service};

/// What is served.
#[derive(Debug, Clone)]
pub(crate) enum App {
    /// The site within the program.
    Site,
    /// One fixed answer, whatever is asked.
    Respond(Answer),
    /// The request's own body and type, as they come.
    Echo,
}

/// An answer that is always the same.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: HeaderValue,
    pub(crate) body: Bytes,
}

impl App {
    /// What is served, in a few words for the banner.
    pub(crate) fn description(&self) -> String {
        match self {
            Self::Site => "the embedded site".to_owned(),
            Self::Respond(answer) => format!(
                "one fixed answer: {}, {} bytes",
                answer.status.as_u16(),
                answer.body.len()
            ),
            Self::Echo => "an echo of each request's body".to_owned(),
        }
    }
}

impl Service for App {
    #[expect(
        clippy::manual_async_fn,
        reason = "an async function would move the request once more"
    )]
    fn call(&self, request: Request) -> impl Future<Output = Response> {
        async move {
            match self {
                Self::Site => site(&request),
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
    if request.path() != "/" {
        return Response::not_found("<h1>Not Found</h1>");
    }
    match *request.method() {
        Method::GET | Method::HEAD => Response::html("<b>hello world</b>"),
        _ => Response::new(StatusCode::METHOD_NOT_ALLOWED)
            .with_header(ALLOW, HeaderValue::from_static("GET, HEAD"))
            .with_header(CONTENT_TYPE, HeaderValue::from_static("text/html"))
            .with_body(Bytes::from_static(b"<h1>Method Not Allowed</h1>")),
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
