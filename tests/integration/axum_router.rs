//! The example `axum`: a `Router` of axum served by coring. It is a crate of its own with
//! dependencies of its own, so it is built here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::examples::Running;
use crate::support::{
    Address, Client, GET, assert_bytes_below, get, head_with_chunks, head_with_length,
    private_bytes, report, request, request_with_body,
};

/// Builds the example into the target directory of the tests, once. `None` if its dependencies can
/// be neither found nor downloaded.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = PROGRAM.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/axum");
        let mut fetch = Command::new(env!("CARGO"));
        fetch.args(["fetch", "--quiet", "--locked"]);
        let fetched = fetch.current_dir(&folder).output().expect("cargo");
        let stderr = String::from_utf8_lossy(&fetched.stderr);
        // Not a fault of the network: coring's dependencies have changed.
        assert!(!stderr.contains("--locked"), "{stderr}");
        if !fetched.status.success() {
            return None;
        }
        let programs = Path::new(env!("CARGO_BIN_EXE_coring")).parent();
        let target = programs.and_then(Path::parent).expect("a target directory");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "--offline", "--target-dir"]);
        let built = build.arg(target).current_dir(&folder).status();
        assert!(built.expect("cargo").success(), "it does not build");
        Some(target.join("debug/axum-on-coring"))
    });
    if built.is_none() {
        report("not tested: a router of axum: its crates could not be downloaded");
    }
    built.as_deref()
}

/// Starts the example with these arguments after its address.
fn start(arguments: &[&str]) -> Option<(Running, Client)> {
    let mut command = Command::new(program()?);
    let mut server = Running::of(command.arg("127.0.0.1:0").args(arguments));
    let address = Address::Tcp(server.address());
    Some((server, Client::connect(&address).expect("a listener")))
}

#[test]
fn a_router_of_axum_answers() {
    let Some((_server, mut client)) = start(&[]) else {
        return;
    };
    let mut ask = |request: String| {
        client.send(request);
        let response = client.response();
        (response.status, response.text().to_owned())
    };
    for _ in 0..2 {
        assert_eq!(ask(GET.to_owned()), (200, "<b>hello world</b>".to_owned()));
        assert_eq!(ask(get("/none")), (404, String::new()));
        assert_eq!(ask(get("/peer")), (200, "127.0.0.1\n".to_owned()));
        assert_eq!(ask(get("/sleep")), (200, "slept in coring\n".to_owned()));
    }
    let json = |content: &str| {
        let length = format!("Content-Length: {}", content.len());
        let fields = ["Content-Type: application/json", &length];
        request("POST", "/greet", &fields) + content
    };
    let greeting = r#"{"greeting":"hello you"}"#.to_owned();
    assert_eq!(ask(json(r#"{"name": "you"}"#)), (200, greeting));
    assert_eq!(ask(json("{")).0, 400);
    // The head is that of GET, although axum has dropped the body.
    client.send(request("HEAD", "/", &[]));
    let head = client.head();
    let length = head.field("content-length");
    assert_eq!((head.status, length), (200, Some("18")));
    // WebSocket is refused, and the connection goes on.
    let fields = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    client.send(request("GET", "/socket", &fields));
    assert_eq!(client.response().status, 426);
    client.send(GET);
    assert_eq!(client.response().status, 200);
}

#[test]
fn a_router_of_axum_receives_bodies_and_has_its_own_limit() {
    let Some((_server, mut client)) = start(&[]) else {
        return;
    };
    client.send(request_with_body("POST", "/text", "hello"));
    assert_eq!(client.response().text(), "hello");
    const LENGTH: usize = 5 << 20;
    client.send(head_with_length("POST", "/length", LENGTH));
    client.send(vec![b'x'; LENGTH]);
    assert_eq!(client.response().text(), format!("{LENGTH}\n"));
    client.send(head_with_chunks("POST", "/length") + "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    assert_eq!(client.response().text(), "5\n");
    // A byte more than axum's limit. The rest is never sent.
    client.send(head_with_length("POST", "/text", LENGTH));
    client.send(vec![b'x'; (2 << 20) + 1]);
    let response = client.response();
    assert_eq!(response.status, 413);
    assert!(response.text().ends_with("length limit exceeded"));
}

#[test]
fn a_router_of_axum_streams_a_gibibyte_in_little_memory() {
    let Some((server, mut client)) = start(&[]) else {
        return;
    };
    client.send(GET);
    assert_eq!(client.response().status, 200);
    let before = private_bytes(server.pid());
    let mut most = before;
    client.send(get("/zeros/1024"));
    assert_eq!(client.head().status, 200);
    let (mut received, mut looks) = (0_usize, 0);
    loop {
        let len = client.chunk().expect("a chunk").len();
        if len == 0 {
            break;
        }
        received += len;
        if received >> 26 > looks {
            looks = received >> 26;
            most = most.max(private_bytes(server.pid()));
        }
    }
    assert_eq!(received, 1 << 30);
    assert_bytes_below(most - before, 64 << 20);
}

#[test]
fn a_router_of_axum_awaits_tokio_in_its_runtime() {
    let Some((_server, mut client)) = start(&["tokio"]) else {
        return;
    };
    for (path, text) in [
        ("/sleep/tokio", "slept in tokio\n"),
        ("/sleep", "slept in coring\n"),
        ("/sleep/tokio", "slept in tokio\n"),
    ] {
        client.send(get(path));
        assert_eq!(client.response().text(), text);
    }
}
