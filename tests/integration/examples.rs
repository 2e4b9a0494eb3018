//! The examples as their readers meet them: built by cargo, started, spoken to.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};

use crate::serve::request;
use crate::support::{
    Address, Client, Folder, GET, HELLO, PATIENCE, engine, eventually, noise, run, run_with,
};

/// The profile that the tests were built by, so that nothing is built twice.
const PROFILE: &str = if cfg!(debug_assertions) {
    "test"
} else {
    "release"
};

/// The example's program.
pub(crate) fn example(name: &str) -> Command {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--examples", "--profile", PROFILE]);
        build.args(["--features", "json"]);
        if cfg!(feature = "mutants") {
            build.args(["--features", "mutants"]);
        }
        let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(built.expect("cargo").success(), "the examples are built");
        let program = Path::new(env!("CARGO_BIN_EXE_coring"));
        program.with_file_name("examples")
    });
    Command::new(folder.join(name))
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
            .expect("a program that is built");
        let stdout: Box<dyn Read> = Box::new(child.stdout.take().expect("a pipe"));
        Self {
            child,
            stdout: BufReader::new(stdout),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// The address that it says it listens on.
    fn address(&mut self) -> SocketAddr {
        let line = self.line();
        let address = line.trim_start_matches("http://").trim_end_matches('/');
        address.parse().unwrap_or_else(|_| panic!("{line:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody had a moment ago.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address")
}

#[test]
fn hello_answers() {
    let address = free_address();
    let _server = Running::start("hello", &[&address.to_string()]);
    let mut client = eventually("a listener", || {
        Client::connect(&Address::Tcp(address)).ok()
    });
    client.send(GET);
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, HELLO));
    client.send(GET.replace("/ ", "/nothing "));
    assert_eq!(client.answer().status, 404);
}

/// A package of somebody else's, with the code that README.md shows and coring by its path. Only
/// the address is another one: the one shown may be taken here.
#[test]
fn the_readme_compiles_in_a_package_of_its_own() {
    let coring = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(coring.join("README.md")).expect("our README.md");
    let code = readme.split("```rust\n").nth(1).expect("a block of Rust");
    let (code, _) = code.split_once("```").expect("its end");
    let shown = "127.0.0.1:8000";
    assert!(code.contains(shown), "{code}");
    let address = free_address();
    let folder = Folder::new();
    fs::create_dir(folder.file("src")).expect("a new folder");
    folder.write("src/main.rs", code.replace(shown, &address.to_string()));
    // Suites that run side by side build into one folder.
    let name = format!("of-somebody-else-{:?}", engine()).to_lowercase();
    let manifest = format!(
        "[package]\nname = \"{name}\"\nedition = \"2024\"\n\n\
         [dependencies]\ncoring = {{ path = {coring:?}, default-features = false }}\n\n\
         [profile.test]\nopt-level = 1\n"
    );
    folder.write("Cargo.toml", manifest);
    // The same versions as ours, which are here.
    fs::copy(coring.join("Cargo.lock"), folder.file("Cargo.lock")).expect("a copy");
    // Into the folder of the tests: what coring depends on is built there.
    let programs = Path::new(env!("CARGO_BIN_EXE_coring")).parent();
    let programs = programs.expect("a folder of programs");
    let target = programs.parent().expect("a folder for all profiles");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--offline", "--profile", PROFILE]);
    build.arg("--target-dir").arg(target);
    let built = build.current_dir(folder.path()).output();
    let built = built.expect("cargo runs");
    let stderr = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success() && stderr.is_empty(), "{stderr}");
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--offline", "--edges=normal", "--prefix=none"]);
    let tree = run_with(tree.current_dir(folder.path()), b"").succeeded();
    assert!(tree.contains("\nrustix "), "{tree}");
    assert!(
        !tree.contains("\nclap"),
        "only the program has flags: {tree}"
    );
    let mut program = Command::new(programs.join(name));
    let _server = Running::of(&mut program);
    let mut client = eventually("a listener", || {
        Client::connect(&Address::Tcp(address)).ok()
    });
    client.send(GET);
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, HELLO));
}

#[test]
fn graceful_shutdown_answers_what_was_asked() {
    let mut server = Running::start("graceful_shutdown", &["127.0.0.1:0"]);
    let mut client = Client::connect(&Address::Tcp(server.address())).expect("a connection");
    client.send(GET);
    assert_eq!(client.answer().text(), "done\n");
    client.send(GET.replace("/ ", "/slow "));
    // Whether the call has begun by then or not, it is answered.
    let process = Pid::from_child(&server.child);
    kill_process(process, Signal::TERM).expect("a process to be told");
    assert_eq!(client.answer().text(), "done\n");
    assert_eq!(server.line(), "every request is answered");
    assert!(server.child.wait().expect("its end").success());
}

#[test]
fn todo_keeps_what_it_is_given() {
    let mut server = Running::start("todo", &["127.0.0.1:0"]);
    let mut client = Client::connect(&Address::Tcp(server.address())).expect("a connection");
    let mut ask = |method: &str, target: &str, content: &str| {
        client.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{content}",
            content.len()
        ));
        let answer = match method {
            "HEAD" => client.head(),
            _ => client.answer(),
        };
        let text = answer.text().to_owned();
        (
            answer.status,
            answer.field("allow").map(str::to_owned),
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
    let (status, _, told) = ask("POST", "/todos", "{");
    assert_eq!(status, 400);
    assert!(told.contains("line 1 column 1"), "{told}");
    assert_eq!(ask("POST", "/todos", &" ".repeat(5000)).0, 413);
    client.send(request("POST", "/todos", &["Content-Length: 0"]));
    assert_eq!(client.answer().status, 415);
    let process = Pid::from_child(&server.child);
    kill_process(process, Signal::TERM).expect("a process to be told");
    assert!(server.child.wait().expect("its end").success());
}

/// The unit test of an example, which calls its services without a server.
#[test]
fn todo_is_tested_without_a_server() {
    example("todo");
    let mut test = Command::new(env!("CARGO"));
    test.args([
        "test",
        "--quiet",
        "--profile",
        PROFILE,
        "--features",
        "json",
    ]);
    if cfg!(feature = "mutants") {
        test.args(["--features", "mutants"]);
    }
    test.args(["--example", "todo"]);
    let ended = test.current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let ended = ended.expect("cargo runs");
    let stdout = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success() && stdout.contains("1 passed"),
        "{stdout}"
    );
}

#[test]
fn a_taken_port_is_told_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    for name in ["hello", "files", "upload", "chat_lines", "events", "todo"] {
        let ended = example(name).arg(&address).output().expect("an end");
        assert!(!ended.status.success());
        let stderr = String::from_utf8_lossy(&ended.stderr);
        let told = format!("cannot listen on {address}: ");
        assert!(stderr.contains(&told), "{name}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{name}: {stderr}");
    }
}

#[test]
fn tasks_take_as_long_as_the_longest() {
    let ended = example("tasks").output().expect("an end");
    let stdout = String::from_utf8_lossy(&ended.stdout);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(
        lines[..3],
        ["one: 1 of 3", "two: 1 of 3", "three: 1 of 3"],
        "{stdout}"
    );
    assert_eq!(lines.len(), 3 * 3 + 1, "{stdout}");
    let total = lines.last().expect("a line");
    let together = total.strip_prefix("together ").expect("a total");
    let (together, rest) = together.split_once(" s, ").expect("a total");
    assert_eq!(rest, "one after the other 2.7 s");
    let together: f64 = together.parse().expect("a number");
    assert!((1.2..2.7).contains(&together), "{total}");
}

#[test]
fn upload_saves_what_it_tells_the_digest_of() {
    let folder = Folder::new();
    let uploads = folder.path().to_str().expect("a path in UTF-8");
    let mut server = Running::start("upload", &["127.0.0.1:0", uploads]);
    let address = server.address();
    for len in [0, 1, 5_000_000] {
        let sent = noise(len);
        let file = folder.write("sent", &sent);
        let sum = run("sha256sum", &[&file]);
        let digest = sum.split(' ').next().expect("a digest");
        let mut client = Client::connect(&Address::Tcp(address)).expect("a listener");
        client.send(format!(
            "PUT /any HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n"
        ));
        client.send(&sent);
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().trim_end()), (201, digest));
        let saved = fs::read(folder.file(digest)).expect("a file of that name");
        assert!(saved == sent, "{len}: {} bytes were saved", saved.len());
    }
    let mut client = Client::connect(&Address::Tcp(address)).expect("a listener");
    client.send(GET);
    assert_eq!(client.answer().status, 405);
}

/// Whether its peer breaks off or says that no more will come: of half a body nothing stays.
#[test]
fn upload_keeps_nothing_of_what_does_not_come_whole() {
    let folder = Folder::new();
    let uploads = folder.path().to_str().expect("a path in UTF-8");
    let mut server = Running::start("upload", &["127.0.0.1:0", uploads]);
    let address = server.address();
    let files = || fs::read_dir(uploads).expect("our folder").count();
    for breaks_off in [true, false] {
        let mut client = Client::connect(&Address::Tcp(address)).expect("a listener");
        client.send("PUT /any HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n");
        client.send(noise(1_000_000));
        eventually("a file that grows", || (files() == 1).then_some(()));
        if breaks_off {
            client.reset();
        } else {
            client.half_close();
            client.broken();
        }
        eventually("an empty folder", || (files() == 0).then_some(()));
    }
}

#[test]
fn files_serves_a_folder() {
    let folder = Folder::new();
    folder.write("index.html", "<b>files</b>");
    let content = noise(1_000_000);
    folder.write("large", &content);
    let path = folder.path().to_str().expect("a path in UTF-8");
    let mut server = Running::start("files", &["127.0.0.1:0", path]);
    let mut client = Client::connect(&Address::Tcp(server.address())).expect("a listener");
    client.send(GET);
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, "<b>files</b>"));
    assert_eq!(
        answer.field("content-type"),
        Some("text/html; charset=utf-8")
    );
    client.send(request("GET", "/large", &["Range: bytes=500000-"]));
    let answer = client.answer();
    assert!(answer.status == 206 && answer.body == content[500_000..]);
    client.send(request("GET", "/none", &[]));
    assert_eq!(client.answer().status, 404);
    let none = folder.file("none");
    let finished = run_with(example("files").args(["127.0.0.1:0", &none]), b"");
    assert_eq!(finished.code, Some(1));
    assert!(finished.error_line().contains(&none), "{finished:?}");
}

#[test]
fn events_reach_every_page() {
    let mut server = Running::start("events", &["127.0.0.1:0"]);
    let address = Address::Tcp(server.address());
    let connect = || Client::connect(&address).expect("a listener");
    let mut speaker = connect();
    speaker.send(GET);
    assert!(
        speaker
            .answer()
            .text()
            .contains("new EventSource(\"/events\")")
    );
    let mut pages = [(); 3].map(|()| {
        let mut page = connect();
        page.send(request("GET", "/events", &[]));
        let head = page.head();
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        page
    });
    let mut say = |words: &str, status| {
        let length = format!("Content-Length: {}", words.len());
        speaker.send(request("POST", "/say", &[&length]));
        speaker.send(words);
        assert_eq!(speaker.answer().status, status);
    };
    for (words, event) in [
        ("hello", "data: hello\n\n"),
        ("two\nlines", "data: two\ndata: lines\n\n"),
    ] {
        say(words, 204);
        for page in &mut pages {
            assert_eq!(page.chunk().expect("an event"), event.as_bytes());
        }
    }
    let [first, mut second, _] = pages;
    first.reset();
    say("still there?", 204);
    assert_eq!(second.chunk().expect("an event"), b"data: still there?\n\n");
}

/// One who takes part in a chat.
struct Person {
    reader: BufReader<TcpStream>,
}

impl Person {
    fn join(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut person = Self {
            reader: BufReader::new(stream),
        };
        assert!(person.hears().starts_with("you are "));
        person
    }

    fn says(&mut self, words: &str) {
        let stream = self.reader.get_mut();
        stream.write_all(words.as_bytes()).expect("a listener");
    }

    fn hears(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line in time");
        line
    }
}

#[test]
fn chat_lines_reach_everybody_else() {
    let mut server = Running::start("chat_lines", &["127.0.0.1:0"]);
    let address = server.address();
    let [mut one, mut two, mut three] = [(); 3].map(|()| Person::join(address));
    one.says("hel");
    one.says("lo\nhow are you?\n");
    for other in [&mut two, &mut three] {
        assert_eq!(other.hears(), "1: hello\n");
        assert_eq!(other.hears(), "1: how are you?\n");
    }
    drop(two);
    three.says("fine\n");
    assert_eq!(one.hears(), "3: fine\n");
    let stream = three.reader.get_mut();
    stream.shutdown(Shutdown::Write).expect("a connection");
    one.says("still there?\n");
    let mut four = Person::join(address);
    one.says("welcome\n");
    assert_eq!(four.hears(), "1: welcome\n");
}
