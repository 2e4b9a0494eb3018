//! The response to a request whose method the resource does not allow.

use ::http::{Method, StatusCode};

/// The status of that response. A method of the standard is known and not allowed (405); any other
/// is unknown to the server (501, RFC 9110 §9.1), unless another of its resources `is_known`.
pub(super) fn refusal(method: &Method, is_known: bool) -> StatusCode {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::DELETE
        | Method::PATCH
        | Method::OPTIONS
        | Method::TRACE => StatusCode::METHOD_NOT_ALLOWED,
        _ if is_known => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_IMPLEMENTED,
    }
}
