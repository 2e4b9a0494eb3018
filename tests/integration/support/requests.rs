//! The requests that the tests send, as bytes of HTTP/1. Tests of malformed requests write their
//! own.

use std::fmt::Display;

/// A whole request; the connection persists after it.
pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: coring\r\n\r\n";

/// A whole request; the server closes the connection after the response.
pub(crate) const GET_AND_CLOSE: &str =
    "GET / HTTP/1.1\r\nHost: coring\r\nConnection: close\r\n\r\n";

/// The shortest valid request. The server closes the connection after the response.
pub(crate) const GET_HTTP_1_0: &str = "GET / HTTP/1.0\r\n\r\n";

/// The beginning of a request head, cut off within a field.
pub(crate) const HALF_A_HEAD: &str = "GET / HTTP/1.1\r\nHo";

/// A request head with `Host` and these field lines.
pub(crate) fn request(method: &str, target: &str, fields: &[&str]) -> String {
    let fields: String = fields.iter().map(|line| format!("{line}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: coring\r\n{fields}\r\n")
}

/// A whole GET request.
pub(crate) fn get(target: &str) -> String {
    request("GET", target, &[])
}

/// The head of a request whose body has `length` bytes.
pub(crate) fn head_with_length(method: &str, target: &str, length: impl Display) -> String {
    request(method, target, &[&format!("Content-Length: {length}")])
}

/// The head of a request whose body is sent in chunks.
pub(crate) fn head_with_chunks(method: &str, target: &str) -> String {
    request(method, target, &["Transfer-Encoding: chunked"])
}

/// A whole request with a body.
pub(crate) fn request_with_body(method: &str, target: &str, body: &str) -> String {
    head_with_length(method, target, body.len()) + body
}
