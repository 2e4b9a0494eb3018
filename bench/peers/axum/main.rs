//! axum with its own `serve`, and a runtime for each worker: a page and an echo.

use std::io;

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use axum::routing::{get, post};
use peer_shared::{Arguments, PAGE, PAGE_TYPE};
use tokio::net::TcpListener;
use tokio::runtime;

fn main() -> io::Result<()> {
    Arguments::from_env().run(|listener| {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            let app = Router::new()
                .route("/", get(async || ([(CONTENT_TYPE, PAGE_TYPE)], PAGE)))
                .route("/echo", post(echo));
            axum::serve(TcpListener::from_std(listener)?, app).await
        })
    })
}

async fn echo(request: Request) -> Response {
    Response::new(request.into_body())
}
