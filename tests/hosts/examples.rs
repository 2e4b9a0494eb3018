//! The example programs that need a host's feature, built and run.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::{Client, answering_server, ask_often, many};

/// A running example; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Builds the example as these tests were built, and starts it on a free port. Returns its address.
fn start(name: &str) -> (Running, SocketAddr) {
    let profile = if cfg!(debug_assertions) {
        "test"
    } else {
        "release"
    };
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--example", name, "--profile", profile]);
    // Those of these tests, so that cargo builds the library only once.
    build.args(["--features", "glommio,tokio"]);
    for (feature, is_on) in [
        ("futures-io", cfg!(feature = "futures-io")),
        ("json", cfg!(feature = "json")),
        ("mutants", cfg!(feature = "mutants")),
        ("tokio-io", cfg!(feature = "tokio-io")),
        ("tower", cfg!(feature = "tower")),
    ] {
        if is_on {
            build.args(["--features", feature]);
        }
    }
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(
        build.status().expect("cargo").success(),
        "it does not build"
    );
    let tests = std::env::current_exe().expect("this program");
    let directory = tests.parent().and_then(|deps| deps.parent());
    let program = directory.expect("a directory").join("examples").join(name);
    let mut command = Command::new(program);
    let child = command.arg("127.0.0.1:0").stdout(Stdio::piped()).spawn();
    let mut running = Running(child.expect("the example"));
    let mut line = String::new();
    let stdout = running.0.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let address = line.trim_end().strip_prefix("listening on ");
    let address = address.and_then(|address| address.parse().ok());
    (running, address.expect("an address"))
}

#[test]
fn in_tokio() {
    let (_running, address) = start("in_tokio");
    let mut client = Client::to(address);
    assert_eq!(client.get("/"), "<b>hello world</b>");
    assert_eq!(client.get("/sleep"), "slept in tokio\n");
    let ask = format!("/ask/{}", answering_server());
    let answer = client.get(&ask);
    assert!(answer.starts_with("GET / HTTP/1.1\r\n"), "{answer}");
    assert!(client.get("/ask/127.0.0.1:1").starts_with("127.0.0.1:1: "));
    ask_often(address, many(), &["/", "/sleep", &ask]);
}

#[test]
fn in_glommio() {
    if !crate::glommio::is_available() {
        return;
    }
    let (_running, address) = start("in_glommio");
    let mut client = Client::to(address);
    assert_eq!(client.get("/"), "<b>hello world</b>");
    assert_eq!(client.get("/sleep"), "slept in glommio\n");
    assert!(client.get("/file/Cargo.toml").contains("name = \"coring\""));
    assert!(client.get("/file/none").contains("No such file"));
    ask_often(address, many(), &["/", "/sleep", "/file/Cargo.toml"]);
}
