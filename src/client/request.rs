//! A request as it is sent: where to, and its head and body.

use std::fmt;
use std::rc::Rc;

use ::http::header::EXPECT;
use ::http::request::Parts;
use ::http::{Method, Request, Uri};

use super::Error;
use crate::buf::Part;
use crate::http::h1::{BodyLength, RequestHead};
use crate::http::target::is_host;
use crate::service::Body;

/// The host and the port that a URL names. Connections are kept by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    /// In lower case, an IPv6 address without brackets.
    host: Rc<str>,
    port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Result<Self, Error> {
        let invalid = |text: &str| Err(Error::InvalidRequest(text.to_owned()));
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return invalid("https needs TLS, which is not built in yet"),
            Some(scheme) => return invalid(&format!("the scheme {scheme:?} is not http")),
            None => return invalid("the URL is not absolute: write http://host/path"),
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return invalid("the URL contains a user: set the field Authorization instead");
        }
        let host = uri.host().unwrap_or_default();
        // The type `Uri` takes any text for a port, and then has none.
        let port = uri.port_u16().unwrap_or(80);
        if !is_host(authority.as_bytes()) || port == 0 {
            return invalid("the URL has no valid host and port");
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok(Self {
            host: host.to_ascii_lowercase().into(),
            port,
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Gives a URL that has a query and no path the path `/` (RFC 9112 §3.2.1).
fn add_path(uri: &mut Uri) {
    let Some(query) = uri.path_and_query().map(|target| target.as_str()) else {
        return;
    };
    if query.starts_with('?') {
        let target = format!("/{query}").parse();
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(target.expect("a path before a valid query is valid"));
        *uri = Uri::from_parts(parts).expect("a URL that had a host has a path, too");
    }
}

/// A request that is about to be sent, once or twice.
#[derive(Debug)]
pub(super) struct Outgoing {
    origin: Origin,
    parts: Parts,
    length: BodyLength,
    pub(super) body: Body,
}

impl Outgoing {
    pub(super) fn new(request: Request<impl Into<Body>>) -> Result<Self, Error> {
        let (mut parts, body) = request.into_parts();
        let body = body.into();
        add_path(&mut parts.uri);
        Ok(Self {
            origin: Origin::of(&parts.uri)?,
            length: body.length().map_or(BodyLength::Unknown, BodyLength::Known),
            parts,
            body,
        })
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(super) fn head(&self) -> RequestHead<'_> {
        let uri = &self.parts.uri;
        RequestHead {
            method: &self.parts.method,
            target: uri.path_and_query().map_or("/", |target| target.as_str()),
            authority: uri.authority().map_or("", |authority| authority.as_str()),
            fields: &self.parts.headers,
            length: self.length,
        }
    }

    /// The same request once more; `None` if it must not be sent twice: its method is not
    /// idempotent (RFC 9110 §9.2.2), or its body is read only once.
    pub(super) fn again(&mut self) -> Option<Self> {
        const IDEMPOTENT: [Method; 6] = [
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::TRACE,
            Method::PUT,
            Method::DELETE,
        ];
        if !IDEMPOTENT.contains(&self.parts.method) || self.body.full().is_none() {
            return None;
        }
        let bytes = self
            .body
            .take_full()
            .map(Part::into_bytes)
            .unwrap_or_default();
        self.body = Body::from(bytes.clone());
        let mut parts = self.parts.clone();
        // The server of a connection that ended has not refused the body.
        parts.headers.remove(EXPECT);
        Some(Self {
            origin: self.origin.clone(),
            parts,
            length: self.length,
            body: Body::from(bytes),
        })
    }
}
