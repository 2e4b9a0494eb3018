//! Building requests without a client, and converting requests to and from the `http` crate's
//! types.

use std::fmt;
use std::net::SocketAddr;

use ::http::header::{HOST, HeaderName, HeaderValue};
use ::http::{Method, Uri};

use super::body::Body;
use super::request::Request;
use crate::http::{Fault, Head, Version};

/// Builds a [`Request`]; see [`Request::builder`]. By default the method is GET, the target is `/`,
/// and there are no header fields, not even Host.
#[derive(Debug, Default)]
pub struct RequestBuilder {
    request: ::http::request::Builder,
    peer: Option<SocketAddr>,
}

/// Why a request cannot be built. The server would also refuse it if a client sent it.
#[derive(Debug)]
pub struct InvalidRequest(Cause);

#[derive(Debug)]
enum Cause {
    Type(::http::Error),
    Fault(Fault),
}

impl RequestBuilder {
    /// Sets the method.
    #[must_use]
    pub fn method<T>(self, method: T) -> Self
    where
        T: TryInto<Method, Error: Into<::http::Error>>,
    {
        Self {
            request: self.request.method(method),
            ..self
        }
    }

    /// Sets the target: a path with or without a query, `*`, or an absolute URI.
    #[must_use]
    pub fn uri<T>(self, uri: T) -> Self
    where
        T: TryInto<Uri, Error: Into<::http::Error>>,
    {
        Self {
            request: self.request.uri(uri),
            ..self
        }
    }

    /// Adds a header field.
    #[must_use]
    pub fn header<N, V>(self, name: N, value: V) -> Self
    where
        N: TryInto<HeaderName, Error: Into<::http::Error>>,
        V: TryInto<HeaderValue, Error: Into<::http::Error>>,
    {
        Self {
            request: self.request.header(name, value),
            ..self
        }
    }

    /// Attaches a value, to be found in [`Request::extensions`].
    #[must_use]
    pub fn extension(self, value: impl Clone + Send + Sync + 'static) -> Self {
        Self {
            request: self.request.extension(value),
            ..self
        }
    }

    /// Sets the client's address, for [`Request::peer`].
    #[must_use]
    pub fn peer(self, peer: SocketAddr) -> Self {
        Self {
            peer: Some(peer),
            ..self
        }
    }

    /// Builds the request with this body.
    ///
    /// # Errors
    /// If the method, the target or a header field is invalid, or if target and header fields
    /// together exceed 64 KiB.
    pub fn body(self, body: impl Into<Body>) -> Result<Request, InvalidRequest> {
        let request = self.request.body(body).map_err(Cause::Type);
        let mut request = Request::from_http(request.map_err(InvalidRequest)?)?;
        if let Some(peer) = self.peer {
            request.set_peer(peer);
        }
        Ok(request)
    }
}

impl Request {
    /// Converts a request of the `http` crate, with its extensions.
    ///
    /// # Errors
    /// If the target or a header field is invalid, if they together exceed 64 KiB, or if the method
    /// is CONNECT.
    pub fn from_http(request: ::http::Request<impl Into<Body>>) -> Result<Self, InvalidRequest> {
        let (parts, body) = request.into_parts();
        let version = match parts.version {
            ::http::Version::HTTP_10 => Version::Http10,
            _ => Version::Http11,
        };
        let fields = parts.headers.iter();
        let fields = fields.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        let target = parts.uri.to_string();
        let (head, bytes) = Head::build(parts.method, &target, version, fields)
            .map_err(|fault| InvalidRequest(Cause::Fault(fault)))?;
        let mut request = Self::from_head(head, bytes, body.into());
        if !parts.extensions.is_empty() {
            *request.extensions_mut() = parts.extensions;
        }
        Ok(request)
    }

    /// Converts the request to the `http` crate's type, with its extensions. The URI has only path
    /// and query; the host is in the Host field.
    pub fn into_http(mut self) -> ::http::Request<Body> {
        let mut request = ::http::Request::new(self.take_body());
        *request.uri_mut() = self.uri();
        *request.method_mut() = self.method().clone();
        *request.version_mut() = self.version();
        let fields = request.headers_mut();
        for (name, value) in self.headers() {
            let name = HeaderName::from_bytes(name).expect("a received name is a token");
            let value = HeaderValue::from_bytes(value).expect("a received value has no controls");
            fields.append(name, value);
        }
        // The host may be only in the target, where it counts more than the field.
        if let Some(host) = self.host() {
            let host = HeaderValue::from_str(host).expect("a received host is text");
            fields.insert(HOST, host);
        }
        if !self.extensions().is_empty() {
            *request.extensions_mut() = std::mem::take(self.extensions_mut());
        }
        request
    }

    fn uri(&self) -> Uri {
        let uri = match self.query() {
            Some(query) => Uri::try_from(format!("{}?{query}", self.path())),
            None => Uri::try_from(self.path()),
        };
        uri.expect("a received target is a URI")
    }
}

impl fmt::Display for InvalidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Type(error) => error.fmt(f),
            Cause::Fault(fault) => f.write_str(fault.reason()),
        }
    }
}

impl std::error::Error for InvalidRequest {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Response, StatusCode};

    /// Builds a request without the `http` crate's builder, which rejects some of these targets.
    fn request(target: &str) -> Result<Request, Fault> {
        let built = Head::build(Method::OPTIONS, target, Version::Http11, [])?;
        Ok(Request::from_head(built.0, built.1, Body::empty()))
    }

    #[test]
    fn a_built_request_has_what_it_was_given() {
        let request = Request::builder()
            .method("PUT")
            .uri("/a%20b?c=d")
            .header("Host", "a.example")
            .header("X-Twice", "1")
            .header("X-Twice", "2")
            .extension(7_u8)
            .body("content");
        let request = request.unwrap();
        assert_eq!(request.method(), Method::PUT);
        assert_eq!((request.path(), request.query()), ("/a%20b", Some("c=d")));
        assert_eq!(request.host(), Some("a.example"));
        let twice: Vec<_> = request.headers().get_all("x-twice").collect();
        assert_eq!(twice, [b"1", b"2"]);
        assert_eq!(request.extensions().get(), Some(&7_u8));
        assert_eq!(request.into_body().length(), Some(7));
        let least = Request::builder().body("").unwrap();
        assert_eq!((least.method(), least.path()), (&Method::GET, "/"));
        assert!(least.extensions().is_empty() && least.host().is_none());
    }

    #[test]
    fn a_request_that_a_client_could_not_send_is_an_error() {
        let error = |builder: RequestBuilder| builder.body("").unwrap_err().to_string();
        let new = Request::builder;
        assert_eq!(error(new().uri("no path")), "invalid uri character");
        assert_eq!(error(new().header("a b", "c")), "invalid HTTP header name");
        assert_eq!(error(new().uri("*")), "malformed request target");
        assert_eq!(error(new().header("Host", "a/b")), "invalid Host");
        let value = "v".repeat(1 << 16);
        assert_eq!(error(new().header("X", value)), "request head too large");
        let connect = new().method(Method::CONNECT).uri("a:80");
        assert_eq!(error(connect), "unsupported method");
    }

    #[test]
    fn a_request_converts_to_the_http_crate_and_back() {
        let before = Request::builder()
            .method(Method::POST)
            .uri("http://a.example:80?q")
            .header("Cookie", "a")
            .header("Cookie", "b")
            .extension("kept")
            .body("content");
        let there = before.unwrap().into_http();
        assert_eq!(there.uri(), "/?q");
        assert_eq!(there.headers()["host"], "a.example:80");
        assert_eq!(there.headers().get_all("cookie").iter().count(), 2);
        assert_eq!(there.extensions().get(), Some(&"kept"));
        let mut back = Request::from_http(there).unwrap();
        assert_eq!((back.path(), back.query()), ("/", Some("q")));
        assert_eq!(back.header("cookie"), Some(&b"a"[..]));
        assert_eq!(back.extensions().get(), Some(&"kept"));
        assert_eq!(back.body().full(), Some(&b"content"[..]));
    }

    /// [`Request::into_http`] must not panic for anything that our parser accepts.
    #[test]
    fn every_accepted_target_and_field_converts_to_the_http_crate() {
        let mut converted = 0;
        for byte in 0..=u8::MAX {
            let letter = char::from(byte);
            for target in [
                format!("/{letter}b"),
                format!("//?{letter}"),
                format!("/a?{letter}=%"),
            ] {
                if let Ok(request) = request(&target) {
                    assert_eq!(request.into_http().uri(), target.as_str());
                    converted += 1;
                }
            }
            let (name, value) = ([b'a', byte], [b'a', byte, b'a']);
            let fields = [(&name[..], &b""[..]), (b"b", &value[..])];
            for field in fields {
                let built = Head::build(Method::GET, "/", Version::Http10, [field]);
                if let Ok((head, bytes)) = built {
                    let request = Request::from_head(head, bytes, Body::empty()).into_http();
                    assert_eq!(request.version(), ::http::Version::HTTP_10);
                    assert_eq!(request.headers().len(), 1);
                    converted += 1;
                }
            }
        }
        assert!(converted > 3 * 70 + 77 + 220, "{converted}");
        assert_eq!(request("*").unwrap().into_http().uri(), "*");
        assert_eq!(request("https://[::1]:1").unwrap().into_http().uri(), "/");
    }

    #[test]
    fn a_response_converts_to_the_http_crate_and_back() {
        let cookie = HeaderName::from_static("set-cookie");
        let there = Response::text("content")
            .with_status(StatusCode::ACCEPTED)
            .append_header(cookie.clone(), HeaderValue::from_static("a"))
            .append_header(cookie, HeaderValue::from_static("b"))
            .into_http();
        assert_eq!(there.status(), 202);
        assert_eq!(there.headers().len(), 3);
        let mut back = Response::from_http(there);
        assert_eq!(back.status(), StatusCode::ACCEPTED);
        let names: Vec<_> = back.headers().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["content-type", "set-cookie", "set-cookie"]);
        assert_eq!(back.body().full(), Some(&b"content"[..]));
    }
}
