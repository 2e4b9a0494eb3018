//! What an application is told of a request: the `environ` of WSGI (PEP 3333) and the `scope` of
//! ASGI, in the form of `marshal`. The constants of both are added by the worker.

use std::net::SocketAddr;

use ::http::Version;
use percent_encoding::percent_decode;

use super::forwarded::{Origin, Rules};
use super::marshal::Marshal;
use super::options::Options;
use crate::http::field::is_host;
use crate::service::Request;

/// What a request does not know of itself.
#[derive(Debug, Default)]
pub(super) struct Site {
    /// `SCRIPT_NAME` and `root_path`: the path under which the application is mounted, without a
    /// slash at its end.
    pub(super) root_path: String,
    /// How forwarded fields are read for a WSGI and for an ASGI application; none if they are not.
    pub(super) wsgi_rules: Option<Rules>,
    pub(super) asgi_rules: Option<Rules>,
}

impl Site {
    pub(super) fn new(options: &Options) -> Self {
        let rules = |is_wsgi| {
            let forwarded = options.forwarded.as_ref();
            forwarded.map(|forwarded| Rules::new(forwarded, is_wsgi))
        };
        Self {
            root_path: options.root_path.clone(),
            wsgi_rules: rules(true),
            asgi_rules: rules(false),
        }
    }
}

/// Writes the variables of PEP 3333 that a request and its proxy decide. `length` is that of its
/// body, if it has one.
///
/// Fields with `_` in their names are left out, since `A_B` and `A-B` would be one variable. So is
/// `Proxy`, which would become the variable by which programs find their HTTP proxy.
pub(super) fn environ(
    out: &mut Marshal,
    request: &Request,
    site: &Site,
    origin: &Origin,
    length: Option<u64>,
) {
    out.dict();
    let mut put = |name: &[u8], value: &[u8]| {
        out.latin1(name);
        out.latin1(value);
    };
    put(b"REQUEST_METHOD", request.method().as_str().as_bytes());
    let (script_name, path) = match origin.script_name_len {
        Some(len) => request.path_bytes().split_at(len),
        None => (site.root_path.as_bytes(), request.path_bytes()),
    };
    put(b"SCRIPT_NAME", script_name);
    let path: Vec<u8> = percent_decode(path).collect();
    put(b"PATH_INFO", &path);
    put(
        b"QUERY_STRING",
        request.query().unwrap_or_default().as_bytes(),
    );
    put(b"RAW_URI", request.raw_target().as_bytes());
    put(b"REQUEST_URI", request.raw_target().as_bytes());
    put(b"SERVER_PROTOCOL", protocol(request).as_bytes());
    let scheme = origin.scheme.unwrap_or_else(|| request.scheme());
    put(b"wsgi.url_scheme", scheme.as_bytes());
    let local = request.local();
    let (name, port) = local.map_or_else(unix_server, |address| {
        (
            address.ip().to_canonical().to_string(),
            address.port().to_string(),
        )
    });
    put(b"SERVER_NAME", name.as_bytes());
    put(b"SERVER_PORT", port.as_bytes());
    match origin.client.or_else(|| request.peer()) {
        Some(peer) => {
            put(
                b"REMOTE_ADDR",
                peer.ip().to_canonical().to_string().as_bytes(),
            );
            put(b"REMOTE_PORT", peer.port().to_string().as_bytes());
        }
        None => put(b"REMOTE_ADDR", b""),
    }
    if let Some(length) = length {
        put(b"CONTENT_LENGTH", length.to_string().as_bytes());
    }
    fields(out, request, site, origin);
    out.end_dict();
}

/// `HTTP_*` and `CONTENT_TYPE`. The values of one name are joined: by a semicolon for cookies
/// (RFC 6265 §5.4), by a comma otherwise (RFC 9110 §5.3). A field of a trusted proxy replaces the
/// client's whose name differs only in `-` for `_`.
fn fields(out: &mut Marshal, request: &Request, site: &Site, origin: &Origin) {
    let is_forwarders = |name: &[u8]| {
        origin.has_forwarder_fields
            && site
                .wsgi_rules
                .as_ref()
                .is_some_and(|rules| rules.passes_on(name))
    };
    let mut variable = Vec::with_capacity(64);
    // Each field is compared with all others, so their lines are split once.
    let all: Vec<(&[u8], &[u8])> = headers(request).collect();
    for (at, &(name, value)) in all.iter().enumerate() {
        let is_same = |(other, _): &&(&[u8], &[u8])| name.eq_ignore_ascii_case(other);
        let is_replaced = || {
            let mut others = all.iter().map(|(other, _)| other);
            others.any(|other| is_forwarders(other) && is_same_variable(other, name))
        };
        if !is_forwarders(name)
            && (!is_passed_on(name) || origin.has_forwarder_fields && is_replaced())
            || all[..at].iter().any(|field| is_same(&field))
        {
            continue;
        }
        if name.eq_ignore_ascii_case(b"content-type") {
            out.latin1(b"CONTENT_TYPE");
        } else {
            variable.clear();
            variable.extend_from_slice(b"HTTP_");
            variable.extend(name.iter().map(|&byte| match byte {
                b'-' => b'_',
                byte => byte.to_ascii_uppercase(),
            }));
            out.latin1(&variable);
        }
        let mut further = all[at + 1..].iter().filter(is_same).peekable();
        if further.peek().is_none() {
            out.latin1(value);
            continue;
        }
        let is_cookie = name.eq_ignore_ascii_case(b"cookie");
        let between: &[u8] = if is_cookie { b"; " } else { b"," };
        let mut joined = value.to_vec();
        for (_, value) in further {
            joined.extend_from_slice(between);
            joined.extend_from_slice(value);
        }
        out.latin1(&joined);
    }
}

/// The fields of a request. In place of a Host that does not count, there is the one that does.
fn headers(request: &Request) -> impl Iterator<Item = (&[u8], &[u8])> {
    request.headers().map(|(name, value)| match request.host() {
        Some(host) if is_host(name) => (name, host.as_bytes()),
        _ => (name, value),
    })
}

/// Whether fields of these names would become one variable.
fn is_same_variable(name: &[u8], other: &[u8]) -> bool {
    let part = |byte: &u8| match byte {
        b'-' => b'_',
        byte => byte.to_ascii_uppercase(),
    };
    name.iter().map(part).eq(other.iter().map(part))
}

/// Whether a field becomes a variable. The framing of the request is the server's: the body is as
/// long as `CONTENT_LENGTH` says, and is not in chunks.
fn is_passed_on(name: &[u8]) -> bool {
    !name.contains(&b'_')
        && !["proxy", "content-length", "transfer-encoding"]
            .iter()
            .any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}

/// Writes the scope of an HTTP request (asgi-spec `www.rst`, version 2.5). Names of fields are in
/// lower case; their order, their repetitions and the bytes of their values are the client's.
pub(super) fn scope(out: &mut Marshal, request: &Request, site: &Site, origin: &Origin) {
    out.dict();
    out.text("type");
    out.text("http");
    out.text("http_version");
    out.text(&protocol(request)["HTTP/".len()..]);
    out.text("method");
    out.text(request.method().as_str());
    out.text("scheme");
    out.text(origin.scheme.unwrap_or_else(|| request.scheme()));
    // The path that the application sees begins with the one that it is mounted under.
    let decoded = percent_decode(request.path_bytes()).decode_utf8_lossy();
    out.text("path");
    out.text(&format!("{}{decoded}", site.root_path));
    out.text("raw_path");
    let mut raw = site.root_path.as_bytes().to_vec();
    raw.extend_from_slice(request.path_bytes());
    out.bytes(&raw);
    out.text("query_string");
    out.bytes(request.query().unwrap_or_default().as_bytes());
    out.text("root_path");
    out.text(&site.root_path);
    out.text("client");
    address(out, origin.client.or_else(|| request.peer()));
    out.text("server");
    address(out, request.local());
    out.text("headers");
    out.list(request.headers().count());
    for (name, value) in headers(request) {
        out.tuple(2);
        out.lowercase(name);
        out.bytes(value);
    }
    out.end_dict();
}

fn address(out: &mut Marshal, address: Option<SocketAddr>) {
    match address {
        Some(address) => {
            out.tuple(2);
            out.text(&address.ip().to_canonical().to_string());
            out.int(address.port().into());
        }
        None => out.none(),
    }
}

fn protocol(request: &Request) -> &'static str {
    match request.version() {
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// PEP 3333 wants a server's name and port in any case; a Unix socket has neither.
fn unix_server() -> (String, String) {
    ("localhost".to_owned(), "80".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::marshal::tests::{Value, read};

    fn request(target: &str, fields: &[(&str, &str)]) -> Request {
        let request = Request::builder().uri(target);
        let request = fields.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        request.body("").expect("a valid request")
    }

    fn environ_of(target: &str, fields: &[(&str, &str)], length: Option<u64>) -> Value {
        let mut out = Marshal::with_capacity(0);
        let site = Site {
            root_path: "/shop".to_owned(),
            ..Site::default()
        };
        environ(
            &mut out,
            &request(target, fields),
            &site,
            &Origin::default(),
            length,
        );
        read(&mut &out.into_bytes()[..]).expect("a dictionary")
    }

    fn text(text: &str) -> Option<Value> {
        Some(Value::Text(text.to_owned()))
    }

    #[test]
    fn an_environ_has_the_variables_of_the_request() {
        let environ = environ_of("/a%20b/%C3%A9?x=%20y", &[("X-Id", "7")], Some(12));
        for (name, value) in [
            ("REQUEST_METHOD", "GET"),
            ("SCRIPT_NAME", "/shop"),
            // The bytes of the path, each one code point.
            ("PATH_INFO", "/a b/\u{c3}\u{a9}"),
            ("QUERY_STRING", "x=%20y"),
            ("RAW_URI", "/a%20b/%C3%A9?x=%20y"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("SERVER_NAME", "localhost"),
            ("SERVER_PORT", "80"),
            ("CONTENT_LENGTH", "12"),
            ("HTTP_X_ID", "7"),
            ("wsgi.url_scheme", "http"),
        ] {
            assert_eq!(environ.get(name).cloned(), text(value), "{name}");
        }
        let empty = environ_of("/", &[], None);
        assert_eq!(empty.get("CONTENT_LENGTH"), None);
        assert_eq!(empty.get("CONTENT_TYPE"), None);
        assert_eq!(empty.get("QUERY_STRING").cloned(), text(""));
    }

    /// A path cannot end its own variable, whatever it decodes to.
    #[test]
    fn a_zero_byte_in_the_path_injects_nothing() {
        let environ = environ_of("/x%00REMOTE_USER%00admin", &[], None);
        assert_eq!(
            environ.get("PATH_INFO").cloned(),
            text("/x\0REMOTE_USER\0admin")
        );
        assert_eq!(environ.get("REMOTE_USER"), None);
    }

    #[test]
    fn fields_that_could_pose_as_others_are_left_out() {
        let fields = [
            ("X_Id", "1"),
            ("Proxy", "http://evil/"),
            ("Content_Length", "5"),
            ("Transfer_Encoding", "chunked"),
            ("Content-Type", "text/plain"),
        ];
        let environ = environ_of("/", &fields, None);
        for name in [
            "HTTP_X_ID",
            "HTTP_PROXY",
            "HTTP_CONTENT_LENGTH",
            "CONTENT_LENGTH",
            "HTTP_TRANSFER_ENCODING",
            "HTTP_CONTENT_TYPE",
        ] {
            assert_eq!(environ.get(name), None, "{name}");
        }
        assert_eq!(environ.get("CONTENT_TYPE").cloned(), text("text/plain"));
    }

    #[test]
    fn values_of_one_name_are_joined() {
        let fields = [
            ("Accept", "a"),
            ("Cookie", "x=1"),
            ("accept", "b"),
            ("COOKIE", "y=2"),
            ("Accept", "c"),
        ];
        let environ = environ_of("/", &fields, None);
        assert_eq!(environ.get("HTTP_ACCEPT").cloned(), text("a,b,c"));
        assert_eq!(environ.get("HTTP_COOKIE").cloned(), text("x=1; y=2"));
    }

    #[test]
    fn the_host_of_an_absolute_target_counts() {
        let fields = [("Host", "b")];
        let environ = environ_of("http://a:80/x", &fields, None);
        assert_eq!(environ.get("HTTP_HOST").cloned(), text("a:80"));
        let request = request("http://a:80/x", &fields);
        let mut out = Marshal::with_capacity(0);
        scope(&mut out, &request, &Site::default(), &Origin::default());
        let scope = read(&mut &out.into_bytes()[..]).expect("a dictionary");
        let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
        let host = Value::Items(vec![bytes(b"host"), bytes(b"a:80")]);
        assert_eq!(scope.get("headers"), Some(&Value::Items(vec![host])));
    }

    #[test]
    fn a_scope_keeps_order_repetitions_and_bytes() {
        let mut out = Marshal::with_capacity(0);
        // (A request that is built has the fields of one name side by side.)
        let fields = [("B", "1"), ("b", "3"), ("A_b", "2")];
        let site = Site {
            root_path: "/shop".to_owned(),
            ..Site::default()
        };
        let request = request("/%C3%A9%FF?q=%41", &fields);
        scope(&mut out, &request, &site, &Origin::default());
        let scope = read(&mut &out.into_bytes()[..]).expect("a dictionary");
        assert_eq!(scope.get("path").cloned(), text("/shop/é\u{fffd}"));
        let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
        assert_eq!(scope.get("raw_path"), Some(&bytes(b"/shop/%C3%A9%FF")));
        assert_eq!(scope.get("query_string"), Some(&bytes(b"q=%41")));
        assert_eq!(scope.get("http_version").cloned(), text("1.1"));
        assert_eq!(scope.get("client"), Some(&Value::None));
        let Some(Value::Items(headers)) = scope.get("headers") else {
            panic!("a list of headers")
        };
        let pair = |name: &[u8], value: &[u8]| Value::Items(vec![bytes(name), bytes(value)]);
        let expected = [pair(b"b", b"1"), pair(b"b", b"3"), pair(b"a_b", b"2")];
        assert!(headers.ends_with(&expected), "{headers:?}");
    }
}
