//! The application: a page and an echo. `peer-coring` serves it, too.

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use axum::routing::{get, post};
use peer_shared::{PAGE, PAGE_TYPE};

pub fn app() -> Router {
    Router::new()
        .route("/", get(async || ([(CONTENT_TYPE, PAGE_TYPE)], PAGE)))
        .route("/echo", post(echo))
}

async fn echo(request: Request) -> Response {
    Response::new(request.into_body())
}
