//! What a proxy says of a request in fields like `X-Forwarded-Proto`, as gunicorn and as uvicorn
//! read them. Only trusted peers are believed.

use std::net::SocketAddr;

use ::http::StatusCode;

use super::slots::Failure;
use crate::http::forwarded::{TrustedPeers, X_FORWARDED_FOR};
use crate::service::Request;

const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
/// By this field, in gunicorn, a proxy says which part of the path selects the application.
const SCRIPT_NAME: &str = "SCRIPT_NAME";

/// How the fields are read by which a proxy describes the client.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Forwarded {
    /// The peers that are believed. Of others all these fields are ignored.
    pub trusted: TrustedPeers,
    /// Whose rules apply.
    pub compat: ProxyCompat,
    /// gunicorn's rules: the fields that say whether the client used `https`, each with the value
    /// by which it says so.
    pub secure_schemes: Vec<(String, String)>,
    /// gunicorn's rules, WSGI: the fields with `_` in their names that are passed on. `SCRIPT_NAME`
    /// also becomes the variable of that name, and `PATH_INFO` is the rest of the path.
    pub forwarder_fields: Vec<String>,
}

/// Whose rules apply to forwarded fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ProxyCompat {
    /// gunicorn's for WSGI applications, uvicorn's for ASGI applications.
    #[default]
    Auto,
    /// The scheme is `https` if one of [`Forwarded::secure_schemes`] says so. If two of them
    /// disagree, the request gets 400. The client is always the peer.
    Gunicorn,
    /// The scheme is that of `X-Forwarded-Proto`, the client the right-most address of
    /// `X-Forwarded-For` that is not trusted.
    Uvicorn,
}

impl Default for Forwarded {
    fn default() -> Self {
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            trusted: TrustedPeers::default(),
            compat: ProxyCompat::Auto,
            secure_schemes: [
                ("X-FORWARDED-PROTOCOL", "ssl"),
                ("X-FORWARDED-PROTO", "https"),
                ("X-FORWARDED-SSL", "on"),
            ]
            .map(pair)
            .into(),
            forwarder_fields: [SCRIPT_NAME, "PATH_INFO"].map(str::to_owned).into(),
        }
    }
}

impl Forwarded {
    /// Whether a proxy names the client of a request.
    pub(super) fn names_clients(&self, is_wsgi: bool) -> bool {
        match self.compat {
            ProxyCompat::Auto => !is_wsgi,
            compat => compat == ProxyCompat::Uvicorn,
        }
    }
}

/// What a trusted proxy says of one request. By default nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Origin {
    pub(super) scheme: Option<&'static str>,
    pub(super) client: Option<SocketAddr>,
    /// The length of the path's part that selects the application.
    pub(super) script_name_len: Option<usize>,
    /// Whether the request has fields of [`Forwarded::forwarder_fields`].
    pub(super) has_forwarder_fields: bool,
}

/// The rules for one kind of application, prepared for the look at each request.
#[derive(Debug)]
pub(super) struct Rules {
    forwarded: Forwarded,
    has_gunicorns: bool,
    is_wsgi: bool,
    /// A bit for the length of each name that counts: most fields have another.
    lengths: u64,
}

impl Rules {
    pub(super) fn new(forwarded: &Forwarded, is_wsgi: bool) -> Self {
        let mut rules = Self {
            forwarded: forwarded.clone(),
            has_gunicorns: !forwarded.names_clients(is_wsgi),
            is_wsgi,
            lengths: 0,
        };
        rules.lengths = rules.names().fold(0, |bits, name| bits | bit(name.len()));
        rules
    }

    /// The names of all fields that count.
    fn names(&self) -> impl Iterator<Item = &str> {
        let uvicorns = [X_FORWARDED_FOR, X_FORWARDED_PROTO];
        let secure = self
            .forwarded
            .secure_schemes
            .iter()
            .map(|(name, _)| &**name);
        let uvicorns = uvicorns.into_iter().filter(|_| !self.has_gunicorns);
        let secure = secure.filter(|_| self.has_gunicorns);
        uvicorns.chain(secure).chain(self.forwarder_fields())
    }

    fn forwarder_fields(&self) -> impl Iterator<Item = &str> {
        let names = self.forwarded.forwarder_fields.iter().map(|name| &**name);
        names.filter(|_| self.has_gunicorns && self.is_wsgi)
    }

    /// What the peer says of the request.
    ///
    /// # Errors
    /// The status of the response, if a trusted peer contradicts itself.
    pub(super) fn origin(&self, request: &Request) -> Result<Origin, StatusCode> {
        let counts = |(name, _): (&[u8], &[u8])| {
            self.lengths & bit(name.len()) != 0
                && self
                    .names()
                    .any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
        };
        if !request.headers().any(counts) || !self.trusts(request) {
            return Ok(Origin::default());
        }
        match self.has_gunicorns {
            true => self.as_gunicorn(request),
            false => Ok(self.as_uvicorn(request)),
        }
    }

    fn trusts(&self, request: &Request) -> bool {
        match request.peer() {
            Some(peer) => self.forwarded.trusted.contains(peer.ip()),
            None => request.is_from_socket_file() || self.forwarded.trusted.is_everyone(),
        }
    }

    fn as_gunicorn(&self, request: &Request) -> Result<Origin, StatusCode> {
        let mut scheme = None;
        for (name, secure) in &self.forwarded.secure_schemes {
            for value in request.headers().get_all(name) {
                let said = if value == secure.as_bytes() {
                    "https"
                } else {
                    "http"
                };
                if scheme.replace(said).is_some_and(|before| before != said) {
                    return Err(StatusCode::BAD_REQUEST);
                }
            }
        }
        let has_forwarder_fields = self
            .forwarder_fields()
            .any(|name| request.header(name).is_some());
        let script_name = match self.passes_on(SCRIPT_NAME.as_bytes()) {
            true => request.headers().get_all(SCRIPT_NAME).last(),
            false => None,
        };
        let script_name_len = match script_name.map(|name| begins(request.path_bytes(), name)) {
            Some(None) => return Err(StatusCode::INTERNAL_SERVER_ERROR),
            len => len.flatten(),
        };
        Ok(Origin {
            scheme,
            script_name_len,
            has_forwarder_fields,
            ..Origin::default()
        })
    }

    fn as_uvicorn(&self, request: &Request) -> Origin {
        let schemes = ["http", "https", "ws", "wss"];
        let named = request.headers().get_all(X_FORWARDED_PROTO).last();
        Origin {
            scheme: named.and_then(|named| {
                let scheme = schemes.iter().find(|scheme| scheme.as_bytes() == named);
                scheme.copied()
            }),
            client: self.forwarded.trusted.client(request.headers()),
            ..Origin::default()
        }
    }

    /// Whether a field of a trusted peer is passed on although its name contains `_`.
    pub(super) fn passes_on(&self, name: &[u8]) -> bool {
        let is_name = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        self.forwarder_fields().any(is_name)
    }
}

/// The length of `start` without slashes at its end, if the segments of `path` begin with it.
fn begins(path: &[u8], start: &[u8]) -> Option<usize> {
    let slashes = start.iter().rev().take_while(|&&byte| byte == b'/');
    let len = start.len() - slashes.count();
    let rest = path.strip_prefix(&start[..len])?;
    matches!(rest, [] | [b'/', ..]).then_some(len)
}

fn bit(length: usize) -> u64 {
    1 << length.min(63)
}

/// What a trusted proxy says of a request.
pub(super) fn origin(rules: Option<&Rules>, request: &Request) -> Result<Origin, Failure> {
    match rules {
        Some(rules) => rules.origin(request).map_err(Failure::Refused),
        None => Ok(Origin::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::marshal::Marshal;
    use crate::python::marshal::tests::{Value, read};
    use crate::python::options::Options;
    use crate::python::vars::{self, Site};

    const PROXY: &str = "10.0.0.1:5";

    fn site(change: impl FnOnce(&mut Forwarded)) -> Site {
        let mut options = Options::new("app");
        let mut forwarded = Forwarded {
            trusted: "10.0.0.1, 10.0.0.2".parse().expect("two addresses"),
            ..Forwarded::default()
        };
        change(&mut forwarded);
        options.root_path = "/root".to_owned();
        options.forwarded = Some(forwarded);
        Site::new(&options)
    }

    fn request(peer: &str, target: &str, fields: &[(&str, &str)]) -> Request {
        let request = Request::builder().uri(target);
        let request = request.peer(peer.parse().expect("an address"));
        let request = fields.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        request.body("").expect("a valid request")
    }

    /// The scheme and the client that an application sees, or the status of the response.
    fn seen(site: &Site, is_wsgi: bool, peer: &str, fields: &[(&str, &str)]) -> String {
        let request = request(peer, "/app/x", fields);
        let mut out = Marshal::with_capacity(0);
        let rules = if is_wsgi {
            &site.wsgi_rules
        } else {
            &site.asgi_rules
        };
        let origin = match rules.as_ref().map(|rules| rules.origin(&request)) {
            Some(Err(status)) => return status.as_u16().to_string(),
            Some(Ok(origin)) => origin,
            None => Origin::default(),
        };
        match is_wsgi {
            true => vars::environ(&mut out, &request, site, &origin, None),
            false => vars::scope(&mut out, &request, site, &origin),
        }
        let value = read(&mut &out.into_bytes()[..]).expect("a dictionary");
        let text = |name| match value.get(name) {
            Some(Value::Text(text)) => text,
            other => panic!("{name}: {other:?}"),
        };
        if is_wsgi {
            let (host, port) = (text("REMOTE_ADDR"), text("REMOTE_PORT"));
            return format!("{} {host}:{port}", text("wsgi.url_scheme"));
        }
        match value.get("client") {
            Some(Value::Items(client)) => match &client[..] {
                [Value::Text(host), Value::Int(port)] => {
                    format!("{} {host}:{port}", text("scheme"))
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn by_gunicorns_rules_a_proxy_names_the_scheme_only() {
        let site = site(|_| {});
        for (fields, expected) in [
            (&[][..], "http"),
            (&[("X-Forwarded-Proto", "https")], "https"),
            (&[("X-Forwarded-Proto", "http")], "http"),
            // The values are compared as they are.
            (&[("X-Forwarded-Proto", "HTTPS")], "http"),
            (&[("X-Forwarded-Proto", "https, http")], "http"),
            (&[("x-forwarded-protocol", "ssl")], "https"),
            (&[("X-FORWARDED-SSL", "on")], "https"),
            (&[("X-Forwarded-Ssl", "off")], "http"),
            (
                &[("X-Forwarded-Ssl", "on"), ("X-Forwarded-Proto", "https")],
                "https",
            ),
            (
                &[("X-Forwarded-Ssl", "on"), ("X-Forwarded-Proto", "http")],
                "400",
            ),
            (
                &[
                    ("X-Forwarded-Proto", "http"),
                    ("X-Forwarded-Proto", "https"),
                ],
                "400",
            ),
            (&[("X_Forwarded_Proto", "https")], "http"),
            (&[("X-Forwarded-For", "1.2.3.4")], "http"),
        ] {
            let expected = match expected {
                "400" => "400".to_owned(),
                scheme => format!("{scheme} {PROXY}"),
            };
            assert_eq!(seen(&site, true, PROXY, fields), expected, "{fields:?}");
            // What another peer says changes nothing, even if it is contradictory.
            let other = seen(&site, true, "10.0.0.3:5", fields);
            assert_eq!(other, "http 10.0.0.3:5", "{fields:?}");
        }
    }

    #[test]
    fn by_uvicorns_rules_a_proxy_names_scheme_and_client() {
        let site = site(|_| {});
        for (fields, expected) in [
            (&[][..], "http 10.0.0.1:5"),
            (&[("X-Forwarded-Proto", "https")], "https 10.0.0.1:5"),
            (&[("X-Forwarded-Proto", "wss")], "wss 10.0.0.1:5"),
            (&[("X-Forwarded-Proto", "ws")], "ws 10.0.0.1:5"),
            (&[("X-Forwarded-Proto", "asdf")], "http 10.0.0.1:5"),
            (&[("X-Forwarded-Proto", "HTTPS")], "http 10.0.0.1:5"),
            (&[("X-Forwarded-Proto", "")], "http 10.0.0.1:5"),
            (&[("X-Forwarded-Ssl", "on")], "http 10.0.0.1:5"),
            (
                &[
                    ("X-Forwarded-Proto", "https"),
                    ("X-Forwarded-Proto", "http"),
                ],
                "http 10.0.0.1:5",
            ),
            (
                &[
                    ("X-Forwarded-Proto", "http"),
                    ("X-Forwarded-Proto", "https"),
                ],
                "https 10.0.0.1:5",
            ),
            (&[("X-Forwarded-For", "1.2.3.4")], "http 1.2.3.4:0"),
            (
                &[
                    ("X-Forwarded-For", "6.6.6.6, 1.2.3.4:9, 10.0.0.2"),
                    ("X-Forwarded-Proto", "https"),
                ],
                "https 1.2.3.4:9",
            ),
        ] {
            assert_eq!(seen(&site, false, PROXY, fields), expected, "{fields:?}");
            let other = seen(&site, false, "10.0.0.3:5", fields);
            assert_eq!(other, "http 10.0.0.3:5", "{fields:?}");
        }
    }

    #[test]
    fn the_rules_can_be_chosen_or_switched_off() {
        let fields = [
            ("X-Forwarded-For", "1.2.3.4"),
            ("X-Forwarded-Proto", "https"),
        ];
        for (compat, wsgi, asgi) in [
            (ProxyCompat::Auto, "https 10.0.0.1:5", "https 1.2.3.4:0"),
            (
                ProxyCompat::Gunicorn,
                "https 10.0.0.1:5",
                "https 10.0.0.1:5",
            ),
            (ProxyCompat::Uvicorn, "https 1.2.3.4:0", "https 1.2.3.4:0"),
        ] {
            let site = site(|forwarded| forwarded.compat = compat);
            assert_eq!(seen(&site, true, PROXY, &fields), wsgi, "{compat:?}");
            assert_eq!(seen(&site, false, PROXY, &fields), asgi, "{compat:?}");
        }
        let off = Site::default();
        assert_eq!(seen(&off, true, PROXY, &fields), "http 10.0.0.1:5");
        let own = site(|forwarded| {
            forwarded.secure_schemes = vec![("X-Scheme".to_owned(), "tls".to_owned())];
        });
        assert_eq!(seen(&own, true, PROXY, &fields), "http 10.0.0.1:5");
        let fields = [("x-scheme", "tls")];
        assert_eq!(seen(&own, true, PROXY, &fields), "https 10.0.0.1:5");
    }

    /// The variables that a WSGI application sees; none if the request gets 500.
    fn variables(site: &Site, peer: &str, target: &str, fields: &[(&str, &str)]) -> Option<Value> {
        let request = request(peer, target, fields);
        let rules = site.wsgi_rules.as_ref().expect("rules");
        let origin = rules.origin(&request).ok()?;
        let mut out = Marshal::with_capacity(0);
        vars::environ(&mut out, &request, site, &origin, None);
        Some(read(&mut &out.into_bytes()[..]).expect("a dictionary"))
    }

    #[test]
    fn a_proxy_may_say_which_part_of_the_path_selects_the_application() {
        let site = site(|_| {});
        for (name, target, expected) in [
            ("/app", "/app/x%20y", Some(("/app", "/x y"))),
            ("/app/", "/app/x", Some(("/app", "/x"))),
            ("/app", "/app", Some(("/app", ""))),
            ("", "/app", Some(("", "/app"))),
            ("/ap", "/app", None),
            ("/other", "/app", None),
        ] {
            let seen = variables(&site, PROXY, target, &[("SCRIPT_NAME", name)]);
            let text = |name| match seen.as_ref()?.get(name) {
                Some(Value::Text(text)) => Some(text.clone()),
                other => panic!("{name}: {other:?}"),
            };
            let found = text("SCRIPT_NAME").zip(text("PATH_INFO"));
            let expected = expected.map(|(name, path)| (name.to_owned(), path.to_owned()));
            assert_eq!(found, expected, "{name} {target}");
        }
        let seen = variables(&site, "10.0.0.3:5", "/app", &[("SCRIPT_NAME", "/app")]);
        let seen = seen.expect("an environ");
        assert_eq!(
            seen.get("SCRIPT_NAME"),
            Some(&Value::Text("/root".to_owned()))
        );
        assert_eq!(seen.get("HTTP_SCRIPT_NAME"), None);
    }

    #[test]
    fn a_client_cannot_pose_as_its_proxy() {
        let site = site(|forwarded| forwarded.forwarder_fields = vec!["REMOTE_USER".to_owned()]);
        for fields in [
            [("Remote-User", "mallory"), ("Remote_User", "alice")],
            [("REMOTE_USER", "alice"), ("REMOTE-USER", "mallory")],
        ] {
            let seen = variables(&site, PROXY, "/", &fields).expect("an environ");
            let alice = Value::Text("alice".to_owned());
            assert_eq!(seen.get("HTTP_REMOTE_USER"), Some(&alice), "{fields:?}");
            let seen = variables(&site, "10.0.0.3:5", "/", &fields).expect("an environ");
            let mallory = Value::Text("mallory".to_owned());
            assert_eq!(seen.get("HTTP_REMOTE_USER"), Some(&mallory), "{fields:?}");
        }
    }
}
