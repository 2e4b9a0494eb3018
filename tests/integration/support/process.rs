//! coring as a process: started on an address of its own, read from its banner, and never left
//! behind.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};

use super::{Client, ENGINE, Folder, eventually};

/// Where a server can be reached.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Reads `http://127.0.0.1:80/` or `unix:/path` out of a line of the banner.
    fn find(line: &str) -> Option<Self> {
        line.split([' ', ',']).find_map(|word| {
            if let Some(path) = word.strip_prefix("unix:") {
                return Some(Self::Unix(path.into()));
            }
            let (_, rest) = word.split_once("http://")?;
            rest.split('/').next()?.parse().ok().map(Self::Tcp)
        })
    }

    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            Self::Unix(path) => panic!("{} has no port", path.display()),
        }
    }
}

/// As a URL for TCP, as a path for Unix.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}/"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The kinds of address that coring listens on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Family {
    V4,
    V6,
    Unix,
}

impl Family {
    pub(crate) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Unix];
    pub(crate) const TCP: [Self; 2] = [Self::V4, Self::V6];
}

/// A command that runs coring with nothing of our own environment that it would heed, but for the
/// engine.
pub(crate) fn coring(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coring"));
    let names = env::vars_os().map(|(name, _)| name);
    let heeded = |name: &OsString| name.to_string_lossy().starts_with("CORING_");
    for name in names.filter(|name| heeded(name) && name != ENGINE) {
        command.env_remove(name);
    }
    command.env_remove("PORT").args(arguments);
    command
}

/// A running server; killed when dropped.
pub(crate) struct Coring {
    child: Child,
    address: Address,
    stderr: Lines,
    stdout: Lines,
    _folder: Folder,
}

/// How a server ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Coring {
    /// Starts on an IPv4 address and waits until it listens.
    #[track_caller]
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_on(Family::V4, arguments)
    }

    /// Starts on a free address of `family` and waits until it listens.
    #[track_caller]
    pub(crate) fn start_on(family: Family, arguments: &[&str]) -> Self {
        let folder = Folder::new();
        let bind = match family {
            Family::V4 => "127.0.0.1:0".to_owned(),
            Family::V6 => "[::1]:0".to_owned(),
            Family::Unix => format!("unix:{}", folder.file("socket")),
        };
        let mut command = coring(arguments);
        command.args(["--bind", &bind, "--stats"]);
        Self::spawn(command, folder)
    }

    /// Starts `command`, which runs coring, and waits until it listens.
    #[track_caller]
    pub(crate) fn start_as(command: Command) -> Self {
        Self::spawn(command, Folder::new())
    }

    /// Starts `command` with `stderr` as its standard error, which is then not read here.
    #[track_caller]
    pub(crate) fn start_unread(command: Command, stderr: impl Into<Stdio>) -> Self {
        Self::start_on_socket(command, Stdio::piped(), stderr)
    }

    /// Starts `command` with these standard descriptors and waits until it listens on the Unix
    /// socket that the variable `CORING_BIND` names. Pipes are followed, others are not read here.
    #[track_caller]
    pub(crate) fn start_on_socket(
        mut command: Command,
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Self {
        let folder = Folder::new();
        let path = folder.file("socket");
        command.env("CORING_BIND", format!("unix:{path}"));
        let stdio = [Stdio::null(), stdout.into(), stderr.into()];
        let this = Self::run(command, stdio, Address::Unix(path.into()), folder);
        eventually("a server that listens", || this.try_connect().ok());
        this
    }

    #[track_caller]
    fn spawn(command: Command, folder: Folder) -> Self {
        let described = format!("{command:?}");
        let stdio = [Stdio::null(), Stdio::piped(), Stdio::piped()];
        let mut this = Self::run(command, stdio, Address::Unix(PathBuf::new()), folder);
        this.address = eventually("the banner's address", || {
            let status = this.child.try_wait().expect("our own child");
            let text = this.stderr.text();
            assert!(status.is_none(), "{described} ended ({status:?}): {text}");
            text.lines().find_map(Address::find)
        });
        this
    }

    #[track_caller]
    fn run(
        mut command: Command,
        [stdin, stdout, stderr]: [Stdio; 3],
        address: Address,
        folder: Folder,
    ) -> Self {
        let mut child = command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            stderr: Lines::follow(child.stderr.take()),
            stdout: Lines::follow(child.stdout.take()),
            child,
            address,
            _folder: folder,
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The address as other programs want it: a URL, or a Unix socket's path.
    pub(crate) fn url(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        self.try_connect().expect("a connection")
    }

    pub(crate) fn try_connect(&self) -> io::Result<Client> {
        Client::connect(&self.address)
    }

    /// Sends one request on a new connection and returns all that comes back.
    #[track_caller]
    pub(crate) fn ask(&self, request: impl AsRef<[u8]>) -> super::Answer {
        let mut client = self.connect();
        client.send(request);
        client.answer()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our own child");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Ends it by TERM and insists on exit code 0.
    #[track_caller]
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        let ended = self.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        let status = eventually("the server's end", || {
            self.child.try_wait().expect("our child")
        });
        Ended {
            code: status.code(),
            stdout: self.stdout.whole(),
            stderr: self.stderr.whole(),
        }
    }
}

impl Drop for Coring {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Each worker's share of a counter.
    #[track_caller]
    pub(crate) fn shares(&self, name: &str) -> Vec<u64> {
        let line = self.stderr.lines().find(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(' '))
        });
        let shares = line.and_then(|line| line.split(['[', ']']).nth(1));
        let shares = shares.unwrap_or_else(|| panic!("no {name} in: {}", self.stderr));
        let number = |share: &str| share.parse().expect("a number");
        shares.split_whitespace().map(number).collect()
    }

    /// The counters that `--stats` prints at the end, each with its sum over all workers.
    #[track_caller]
    pub(crate) fn stats(&self) -> HashMap<&str, u64> {
        let stats: HashMap<_, _> = self.stderr.lines().filter_map(counter).collect();
        assert!(
            stats.contains_key("requests"),
            "no counters in: {}",
            self.stderr
        );
        stats
    }
}

/// Reads a line `name total [first second …]`.
fn counter(line: &str) -> Option<(&str, u64)> {
    let mut words = line.split_whitespace();
    let (name, total) = (words.next()?, words.next()?.parse().ok()?);
    words
        .next()
        .is_some_and(|word| word.starts_with('['))
        .then_some((name, total))
}

/// What a child writes, read by a thread so that it never waits for us; nothing without a pipe.
struct Lines {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    fn follow(pipe: Option<impl Read + Send + 'static>) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let written = text.clone();
        let reader = pipe.map(|pipe| {
            thread::spawn(move || {
                let mut pipe = BufReader::new(pipe);
                let mut line = Vec::new();
                while pipe.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                    written
                        .lock()
                        .expect("a lock")
                        .push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            })
        });
        Self { text, reader }
    }

    fn text(&self) -> String {
        self.text.lock().expect("a lock").clone()
    }

    /// Everything, once the child has ended.
    fn whole(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("a reader that does not panic");
        }
        self.text()
    }
}
