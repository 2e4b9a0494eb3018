//! `coring run` behind a proxy: whose X-Forwarded fields count, by whose rules.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use crate::support::{Coring, Family, TempDir, coring, request, run_application, run_with};

const FIELDS: [&str; 2] = ["X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"];

/// The scheme and the client that the application sees.
fn origin(server: &Coring, fields: &[&str]) -> String {
    let response = server.ask(request("GET", "/origin", fields));
    match response.status {
        200 => response.text().to_owned(),
        status => status.to_string(),
    }
}

#[test]
fn a_proxy_on_this_machine_is_trusted_by_the_rules_of_the_interface() {
    let (wsgi, _directory) = run_application("wsgi", &[]);
    assert_eq!(origin(&wsgi, &FIELDS), "https 127.0.0.1");
    assert_eq!(origin(&wsgi, &[]), "http 127.0.0.1");
    let contradiction = ["X-Forwarded-Proto: https", "X-Forwarded-Ssl: off"];
    assert_eq!(origin(&wsgi, &contradiction), "400");
    let (asgi, _directory) = run_application("asgi", &[]);
    assert_eq!(origin(&asgi, &FIELDS), "https 1.2.3.4");
    assert_eq!(origin(&asgi, &contradiction), "https 127.0.0.1");
    assert_eq!(asgi.stop().code, Some(0));
}

#[test]
fn flags_choose_whom_to_trust_and_whose_rules_apply() {
    for (flags, expected) in [
        (
            &["--forwarded-allow-ips", "10.0.0.0/8"][..],
            "http 127.0.0.1",
        ),
        (&["--forwarded-allow-ips", "*"], "https 1.2.3.4"),
        (&["--no-proxy-headers"], "http 127.0.0.1"),
        (&["--no-proxy-headers", "--proxy-headers"], "https 1.2.3.4"),
        (&["--proxy-compat", "gunicorn"], "https 127.0.0.1"),
    ] {
        let (server, _directory) = run_application("asgi", flags);
        assert_eq!(origin(&server, &FIELDS), expected, "{flags:?}");
    }
}

/// Responds with the scheme of the request.
const ORIGIN: &str = "
def app(environ, start_response):
    scheme = environ['wsgi.url_scheme'].encode()
    start_response('200 OK', [('Content-Length', str(len(scheme)))])
    return [scheme]
";

#[test]
fn a_unix_peer_is_trusted() {
    let directory = TempDir::new();
    let flags = ["run", "origin:app", "--app-dir", &directory.file("")];
    directory.write("origin.py", ORIGIN);
    let server = Coring::start_on(Family::Unix, &flags);
    let response = server.ask(request("GET", "/", &FIELDS));
    assert_eq!(response.text(), "https");
}

/// Any user may connect to an abstract socket, so its peers are trusted only if all are.
#[test]
fn a_peer_on_an_abstract_socket_is_not_trusted() {
    let directory = TempDir::new();
    directory.write("origin.py", ORIGIN);
    let name = format!("coring-origin-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let flags = ["run", "origin:app", "--app-dir", &directory.file("")];
    for (trusted, scheme) in [("127.0.0.1", "http"), ("*", "https")] {
        let list = format!("--forwarded-allow-ips={trusted}");
        let bind = format!("--bind=unix:@{name}");
        let mut command = coring(&[&flags[..], &[&list, &bind, "--stats"]].concat());
        command.env_remove("FORWARDED_ALLOW_IPS");
        let server = Coring::start_as(command);
        let mut stream = UnixStream::connect_addr(&address).expect("a connection");
        let fields = [FIELDS[1], "Connection: close"];
        write!(stream, "{}", request("GET", "/", &fields)).expect("a peer");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response");
        assert!(
            response.ends_with(&format!("\r\n\r\n{scheme}")),
            "{response}"
        );
        server.stop();
    }
}

/// The kernel does not tell the address of a peer that has reset its connection. That peer must not
/// be taken for one on a Unix socket.
#[test]
fn a_client_that_resets_is_not_trusted() {
    let (server, directory) = run_application("asgi", &["--forwarded-allow-ips", "10.0.0.1"]);
    for _ in 0..200 {
        let mut client = server.connect();
        client.send(request("GET", "/origin", &FIELDS));
        client.reset();
    }
    assert_eq!(origin(&server, &FIELDS), "http 127.0.0.1");
    server.stop();
    let ledger = std::fs::read_to_string(directory.file("ledger")).expect("a ledger");
    assert!(ledger.contains("http 127.0.0.1"), "{ledger}");
    assert!(!ledger.contains("1.2.3.4"), "{ledger}");
}

/// As in uvicorn, a word that is no address is the name of a proxy.
#[test]
fn names_of_proxies_count_in_the_field_only() {
    let flags = ["--forwarded-allow-ips", "localhost,127.0.0.1,inner"];
    let (server, _directory) = run_application("asgi", &flags);
    let origin_of = |chain: &str| {
        let chain = format!("X-Forwarded-For: {chain}");
        origin(&server, &[&chain, "X-Forwarded-Proto: https"])
    };
    assert_eq!(origin_of("1.2.3.4, inner, localhost"), "https 1.2.3.4");
    assert_eq!(origin_of("1.2.3.4, outer"), "https 127.0.0.1");
    let note = "note    `localhost`, `inner` among the trusted proxies is no address";
    assert!(server.stderr().contains(note), "{}", server.stderr());
    let (server, _directory) = run_application("asgi", &["--forwarded-allow-ips", "localhost"]);
    assert_eq!(origin(&server, &FIELDS), "http 127.0.0.1");
}

#[test]
fn a_wrong_list_of_proxies_is_refused() {
    let run = |flags: &[&str], variable: Option<&str>| {
        let fixed = ["run", "none.py", "--bind=127.0.0.1:0"];
        let strict = ["--proxy-compat", "gunicorn"];
        let mut command = coring(&[&fixed[..], &strict, flags].concat());
        command.env_remove("FORWARDED_ALLOW_IPS");
        if let Some(list) = variable {
            command.env("FORWARDED_ALLOW_IPS", list);
        }
        let finished = run_with(&mut command, b"");
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        finished.stderr
    };
    let error = run(&["--forwarded-allow-ips", "proxy"], None);
    assert!(error.contains("`proxy` is neither an address"), "{error}");
    let error = run(&[], Some("10.0.0.1/8"));
    let expected = "error: FORWARDED_ALLOW_IPS: `10.0.0.1/8` is not the start of a network; give \
                    10.0.0.0/8";
    assert!(error.contains(expected), "{error}");
    // A flag takes precedence over the variable, so that one is not read.
    let mut command = coring(&[
        "run",
        "none.py",
        "--bind=127.0.0.1:0",
        "--forwarded-allow-ips=*",
    ]);
    let finished = run_with(command.env("FORWARDED_ALLOW_IPS", "proxy"), b"");
    assert!(
        !finished.stderr.contains("FORWARDED"),
        "{}",
        finished.stderr
    );
}
