//! The programs in `examples/`, the code in README.md, and the unit test of an example: all are
//! built by cargo and run.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    Address, Client, GET, HELLO, PATIENCE, TempDir, engine, eventually, get, head_with_length,
    noise, request, run, run_with,
};

/// The profile with which the tests were built, so that cargo builds nothing twice.
const PROFILE: &str = if cfg!(debug_assertions) {
    "test"
} else {
    "release"
};

/// The features of these tests, so that cargo builds the library only once, and those of examples.
const FEATURES: [(&str, bool); 7] = [
    ("--features=futures-io", cfg!(feature = "futures-io")),
    ("--features=glommio", cfg!(feature = "glommio")),
    ("--features=json", true),
    ("--features=mutants", cfg!(feature = "mutants")),
    ("--features=tokio", cfg!(feature = "tokio")),
    ("--features=tokio-io", cfg!(feature = "tokio-io")),
    ("--features=tower", cfg!(feature = "tower")),
];

fn features() -> impl Iterator<Item = &'static str> {
    FEATURES
        .iter()
        .filter(|(_, is_on)| *is_on)
        .map(|(name, _)| *name)
}

/// A command that runs the example `name`. The first call builds all examples.
pub(crate) fn example(name: &str) -> Command {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let directory = FOLDER.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--examples", "--profile", PROFILE]);
        build.args(features());
        let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(
            built.expect("cargo").success(),
            "cargo failed to build the examples"
        );
        let program = Path::new(env!("CARGO_BIN_EXE_coring"));
        program.with_file_name("examples")
    });
    Command::new(directory.join(name))
}

/// A running example; killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdout: BufReader<Box<dyn Read>>,
}

impl Running {
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Self {
        Self::of(example(name).args(arguments))
    }

    pub(crate) fn of(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program of an example");
        let stdout: Box<dyn Read> = Box::new(child.stdout.take().expect("a pipe"));
        Self {
            child,
            stdout: BufReader::new(stdout),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads the next line of its standard output.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// Reads the address on which it listens from its output.
    pub(crate) fn address(&mut self) -> SocketAddr {
        let line = self.line();
        let address = line.trim_start_matches("http://").trim_end_matches('/');
        address.parse().unwrap_or_else(|_| panic!("{line:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address whose port was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address")
}

#[test]
fn hello_serves_one_page() {
    let address = free_address();
    let _server = Running::start("hello", &[&address.to_string()]);
    let mut client = eventually("a listener", || {
        Client::connect(&Address::Tcp(address)).ok()
    });
    client.send(GET);
    let response = client.response();
    assert_eq!((response.status, response.text()), (200, HELLO));
    client.send(get("/nothing"));
    assert_eq!(client.response().status, 404);
}

/// Makes a package with the code in README.md that depends on coring by its path. Only the address
/// is replaced, because the one in README.md may be in use.
#[test]
fn the_readme_compiles_in_a_package_of_its_own() {
    let coring = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(coring.join("README.md")).expect("README.md");
    let code = readme.split("```rust\n").nth(1).expect("a block of Rust");
    let (code, _) = code.split_once("```").expect("the end of the block");
    let shown = "127.0.0.1:8000";
    assert!(code.contains(shown), "{code}");
    let address = free_address();
    let directory = TempDir::new();
    fs::create_dir(directory.file("src")).expect("a new directory");
    directory.write("src/main.rs", code.replace(shown, &address.to_string()));
    // tests/run runs this test on two engines at once, and both build into one target directory.
    let name = format!("readme-package-{:?}", engine()).to_lowercase();
    let manifest = format!(
        "[package]\nname = \"{name}\"\nedition = \"2024\"\n\n\
         [dependencies]\ncoring = {{ path = {coring:?}, default-features = false }}\n\n\
         [profile.test]\nopt-level = 1\n"
    );
    directory.write("Cargo.toml", manifest);
    // With the versions of our Cargo.lock cargo works offline: they are downloaded already.
    fs::copy(coring.join("Cargo.lock"), directory.file("Cargo.lock")).expect("a copy");
    // Build into the target directory of the tests, which has coring's dependencies.
    let programs = Path::new(env!("CARGO_BIN_EXE_coring")).parent();
    let programs = programs.expect("a directory of programs");
    let target = programs.parent().expect("a directory for all profiles");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--offline", "--profile", PROFILE]);
    build.arg("--target-dir").arg(target);
    let built = build.current_dir(directory.path()).output();
    let built = built.expect("cargo runs");
    let stderr = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success() && stderr.is_empty(), "{stderr}");
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--offline", "--edges=normal", "--prefix=none"]);
    let tree = run_with(tree.current_dir(directory.path()), b"").succeeded();
    assert!(tree.contains("\nrustix "), "{tree}");
    assert!(
        !tree.contains("\nclap"),
        "the library depends on clap, which only the program needs: {tree}"
    );
    let mut program = Command::new(programs.join(name));
    let _server = Running::of(&mut program);
    let mut client = eventually("a listener", || {
        Client::connect(&Address::Tcp(address)).ok()
    });
    client.send(GET);
    let response = client.response();
    assert_eq!((response.status, response.text()), (200, HELLO));
}

#[test]
fn graceful_shutdown_finishes_a_request_after_term() {
    let mut server = Running::start("graceful_shutdown", &["127.0.0.1:0"]);
    let mut client = Client::connect(&Address::Tcp(server.address())).expect("a connection");
    client.send(GET);
    assert_eq!(client.response().text(), "done\n");
    client.send(get("/slow"));
    // The response arrives whether or not the call has begun when the signal arrives.
    let process = Pid::from_child(&server.child);
    kill_process(process, Signal::TERM).expect("a child process");
    assert_eq!(client.response().text(), "done\n");
    assert_eq!(server.line(), "every request is answered");
    assert!(server.child.wait().expect("a child process").success());
}

#[test]
fn todo_stores_lists_changes_and_deletes_entries() {
    let mut server = Running::start("todo", &["127.0.0.1:0"]);
    let mut client = Client::connect(&Address::Tcp(server.address())).expect("a connection");
    let mut ask = |method: &str, target: &str, content: &str| {
        let length = format!("Content-Length: {}", content.len());
        let fields = ["Content-Type: application/json", &length];
        client.send(request(method, target, &fields) + content);
        let response = match method {
            "HEAD" => client.head(),
            _ => client.response(),
        };
        let text = response.text().to_owned();
        (
            response.status,
            response.field("allow").map(str::to_owned),
            text,
        )
    };
    const MILK: &str = r#"{"id":1,"text":"milk","done":false}"#;
    let (status, _, created) = ask("POST", "/todos", r#"{"text":"milk"}"#);
    assert_eq!((status, &*created), (201, MILK));
    assert_eq!(
        ask("POST", "/todos", r#"{"text":"tea","done":true}"#).0,
        201
    );
    assert_eq!(ask("GET", "/todos?done=false", "").2, format!("[{MILK}]"));
    assert_eq!(ask("PATCH", "/todos/2", r#"{"text":"coffee"}"#).0, 200);
    let coffee = r#"{"id":2,"text":"coffee","done":true}"#;
    assert_eq!(ask("GET", "/todos", "").2, format!("[{MILK},{coffee}]"));
    assert_eq!(ask("HEAD", "/todos", "").0, 200);
    assert_eq!(ask("DELETE", "/todos/1", "").0, 204);
    for path in ["/todos/1", "/todos/x", "/", "/todos/"] {
        assert_eq!(ask("DELETE", path, "").0, 404, "{path}");
    }
    let (status, allow, _) = ask("GET", "/todos/2", "");
    assert_eq!(
        (status, allow.as_deref()),
        (405, Some("PATCH, DELETE, OPTIONS"))
    );
    let (status, allow, _) = ask("OPTIONS", "/todos", "");
    assert_eq!(
        (status, allow.as_deref()),
        (204, Some("GET, POST, HEAD, OPTIONS"))
    );
    let (status, _, message) = ask("POST", "/todos", "{");
    assert_eq!(status, 400);
    assert!(message.contains("line 1 column 1"), "{message}");
    assert_eq!(ask("POST", "/todos", &" ".repeat(5000)).0, 413);
    client.send(request("POST", "/todos", &["Content-Length: 0"]));
    assert_eq!(client.response().status, 415);
    let process = Pid::from_child(&server.child);
    kill_process(process, Signal::TERM).expect("a child process");
    assert!(server.child.wait().expect("a child process").success());
}

/// Runs the unit test of the example, which calls its services without a server.
#[test]
fn todo_has_a_unit_test_that_passes() {
    example("todo");
    let mut test = Command::new(env!("CARGO"));
    test.args(["test", "--quiet", "--profile", PROFILE]);
    test.args(features()).args(["--example", "todo"]);
    let ended = test.current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let ended = ended.expect("cargo runs");
    let stdout = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success() && stdout.contains("1 passed"),
        "{stdout}"
    );
}

#[test]
fn a_port_in_use_is_reported_in_one_line() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    for name in [
        "hello",
        "files",
        "upload",
        "chat_lines",
        "events",
        "todo",
        "switch_points",
    ] {
        let output = example(name).arg(&address).output().expect("its output");
        assert!(!output.status.success());
        let stderr = String::from_utf8_lossy(&output.stderr);
        let message = format!("cannot listen on {address}: ");
        assert!(stderr.contains(&message), "{name}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{name}: {stderr}");
    }
}

#[test]
fn upload_saves_each_body_and_returns_its_digest() {
    let directory = TempDir::new();
    let uploads = directory.path().to_str().expect("a path in UTF-8");
    let mut server = Running::start("upload", &["127.0.0.1:0", uploads]);
    let address = server.address();
    for len in [0, 1, 5_000_000] {
        let sent = noise(len);
        let file = directory.write("sent", &sent);
        let sum = run("sha256sum", &[&file]);
        let digest = sum.split(' ').next().expect("a digest");
        let mut client = Client::connect(&Address::Tcp(address)).expect("a listener");
        client.send(head_with_length("PUT", "/any", len));
        client.send(&sent);
        let response = client.response();
        assert_eq!((response.status, response.text().trim_end()), (201, digest));
        let saved = fs::read(directory.file(digest)).expect("a file named after the digest");
        assert!(saved == sent, "{len}: {} bytes were saved", saved.len());
    }
    let mut client = Client::connect(&Address::Tcp(address)).expect("a listener");
    client.send(GET);
    assert_eq!(client.response().status, 405);
}

/// The example removes an incomplete file, whether the client resets or half-closes the
/// connection.
#[test]
fn upload_removes_the_file_of_an_incomplete_body() {
    let directory = TempDir::new();
    let uploads = directory.path().to_str().expect("a path in UTF-8");
    let mut server = Running::start("upload", &["127.0.0.1:0", uploads]);
    let address = server.address();
    let files = || fs::read_dir(uploads).expect("the directory").count();
    for resets in [true, false] {
        let mut client = Client::connect(&Address::Tcp(address)).expect("a listener");
        client.send(head_with_length("PUT", "/any", 2_000_000));
        client.send(noise(1_000_000));
        eventually("a file that grows", || (files() == 1).then_some(()));
        if resets {
            client.reset();
        } else {
            client.half_close();
            client.expect_fin_or_reset();
        }
        eventually("an empty directory", || (files() == 0).then_some(()));
    }
}

#[test]
fn files_serves_a_directory() {
    let directory = TempDir::new();
    directory.write("index.html", "<b>files</b>");
    let content = noise(1_000_000);
    directory.write("large", &content);
    let path = directory.path().to_str().expect("a path in UTF-8");
    let mut server = Running::start("files", &["127.0.0.1:0", path]);
    let mut client = Client::connect(&Address::Tcp(server.address())).expect("a listener");
    client.send(GET);
    let response = client.response();
    assert_eq!((response.status, response.text()), (200, "<b>files</b>"));
    assert_eq!(
        response.field("content-type"),
        Some("text/html; charset=utf-8")
    );
    client.send(request("GET", "/large", &["Range: bytes=500000-"]));
    let response = client.response();
    assert!(response.status == 206 && response.body == content[500_000..]);
    client.send(get("/none"));
    assert_eq!(client.response().status, 404);
    let none = directory.file("none");
    let finished = run_with(example("files").args(["127.0.0.1:0", &none]), b"");
    assert_eq!(finished.code, Some(1));
    assert!(finished.error_line().contains(&none), "{finished:?}");
}

/// A client of the example `chat_lines`.
struct ChatClient {
    reader: BufReader<TcpStream>,
}

impl ChatClient {
    fn join(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut client = Self {
            reader: BufReader::new(stream),
        };
        assert!(client.receive_line().starts_with("you are "));
        client
    }

    fn send(&mut self, text: &str) {
        let stream = self.reader.get_mut();
        stream.write_all(text.as_bytes()).expect("a connection");
    }

    fn receive_line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line in time");
        line
    }
}

#[test]
fn chat_lines_reach_all_other_clients() {
    let mut server = Running::start("chat_lines", &["127.0.0.1:0"]);
    let address = server.address();
    let [mut one, mut two, mut three] = [(); 3].map(|()| ChatClient::join(address));
    one.send("hel");
    one.send("lo\nhow are you?\n");
    for other in [&mut two, &mut three] {
        assert_eq!(other.receive_line(), "1: hello\n");
        assert_eq!(other.receive_line(), "1: how are you?\n");
    }
    drop(two);
    three.send("fine\n");
    assert_eq!(one.receive_line(), "3: fine\n");
    let stream = three.reader.get_mut();
    stream.shutdown(Shutdown::Write).expect("a connection");
    one.send("still there?\n");
    let mut four = ChatClient::join(address);
    one.send("welcome\n");
    assert_eq!(four.receive_line(), "1: welcome\n");
}
