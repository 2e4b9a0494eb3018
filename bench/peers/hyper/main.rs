//! hyper 1 with a runtime for each worker, as in hyper's example `single_threaded`: a page and an
//! echo.

use std::convert::Infallible;
use std::io;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use peer_shared::{Arguments, PAGE, PAGE_TYPE};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::task::{LocalSet, spawn_local};

fn main() -> io::Result<()> {
    Arguments::from_env().run(|listener| {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        LocalSet::new().block_on(&runtime, serve(listener))
    })
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        spawn_local(async move {
            let mut builder = http1::Builder::new();
            // No timer is set, so there can be no timeouts.
            builder.pipeline_flush(true).header_read_timeout(None);
            let connection = builder.serve_connection(TokioIo::new(stream), service_fn(respond));
            // An error of one connection, such as a reset by the client, is ignored.
            drop(connection.await);
        });
    }
}

async fn respond(
    request: Request<Incoming>,
) -> Result<Response<Either<Full<Bytes>, Incoming>>, Infallible> {
    if request.method() == Method::POST && request.uri().path() == "/echo" {
        return Ok(Response::new(Either::Right(request.into_body())));
    }
    let found = request.uri().path() == "/";
    let page = if found { PAGE } else { "" };
    let mut response = Response::new(Either::Left(Full::new(Bytes::from_static(page.as_bytes()))));
    if found {
        let page_type = HeaderValue::from_static(PAGE_TYPE);
        response.headers_mut().insert(CONTENT_TYPE, page_type);
    } else {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    Ok(response)
}
