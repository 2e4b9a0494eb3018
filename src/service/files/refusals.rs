//! The responses without a file: redirects and errors.

use std::io;

use ::http::header::{ALLOW, LOCATION, RETRY_AFTER};
use ::http::{HeaderValue, Method, StatusCode};

use super::path::with_slash;
use crate::fs::OpenError;
use crate::service::methods::refusal;
use crate::service::{Request, Response};

/// Redirects to the same path with a slash at its end.
pub(super) fn redirect(request: &Request) -> Response {
    match HeaderValue::try_from(with_slash(request.full_path(), request.query())) {
        Ok(location) => {
            status_response(StatusCode::MOVED_PERMANENTLY).with_header(LOCATION, location)
        }
        Err(_) => status_response(StatusCode::NOT_FOUND),
    }
}

/// The response if a file cannot be opened or read.
pub(super) fn error_response(error: &io::Error) -> Response {
    match OpenError::of(error) {
        OpenError::NotFound => status_response(StatusCode::NOT_FOUND),
        OpenError::Exhausted => unavailable(),
        OpenError::Forbidden => status_response(StatusCode::FORBIDDEN),
        OpenError::Broken => status_response(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// The response if memory or descriptors are exhausted.
pub(super) fn unavailable() -> Response {
    status_response(StatusCode::SERVICE_UNAVAILABLE)
        .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
}

/// The response to a method other than GET and HEAD. `OPTIONS *` asks about the server as a whole
/// (RFC 9110 §9.3.7).
pub(super) fn other_method(request: &Request) -> Response {
    let method = request.method();
    let response = match refusal(method, false) {
        _ if *method == Method::OPTIONS && request.path_bytes() == b"*" => {
            Response::new(StatusCode::NO_CONTENT)
        }
        StatusCode::METHOD_NOT_ALLOWED => status_response(StatusCode::METHOD_NOT_ALLOWED),
        status => return status_response(status),
    };
    response.with_header(ALLOW, HeaderValue::from_static("GET, HEAD"))
}

/// A response that shows only its status.
pub(super) fn status_response(status: StatusCode) -> Response {
    let reason = status.canonical_reason().unwrap_or_default();
    Response::html(format!("<h1>{reason}</h1>")).with_status(status)
}
