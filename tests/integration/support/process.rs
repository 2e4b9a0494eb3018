//! coring as a child process: it listens on a free address, which is read from its banner, and it
//! is killed when the test ends.

use std::collections::HashMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};

use super::{Client, ENGINE, PYTHON, ReceivedResponse, TempDir, eventually, get};

/// The address of a server.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// Finds `http://127.0.0.1:80/` or `unix:/path` in a line of the banner.
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

/// A URL for TCP, a path for a Unix socket.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}/"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The kinds of address that coring can listen on.
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

/// A command that runs coring without the environment variables that it reads, except [`ENGINE`]
/// and [`PYTHON`].
pub(crate) fn coring(arguments: &[&str]) -> Command {
    without_settings(env!("CARGO_BIN_EXE_coring"), arguments)
}

/// A command that runs a program as [`coring`] runs the one under test.
pub(crate) fn without_settings(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    let names = env::vars_os().map(|(name, _)| name);
    let is_read = |name: &OsString| name.to_string_lossy().starts_with("CORING_");
    let is_kept = |name: &OsString| name == ENGINE || name == PYTHON;
    for name in names.filter(|name| is_read(name) && !is_kept(name)) {
        command.env_remove(name);
    }
    command.env_remove("PORT").args(arguments);
    command
}

/// A running coring process; killed when dropped.
pub(crate) struct Coring {
    child: Child,
    address: Address,
    stderr: Lines,
    stdout: Lines,
    _directory: TempDir,
}

/// The exit code and the output of a coring process that has ended.
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
        let directory = TempDir::new();
        let bind = match family {
            Family::V4 => "127.0.0.1:0".to_owned(),
            Family::V6 => "[::1]:0".to_owned(),
            Family::Unix => format!("unix:{}", directory.file("socket")),
        };
        let mut command = coring(arguments);
        command.args(["--bind", &bind, "--stats"]);
        Self::spawn(command, directory)
    }

    /// Starts `coring serve` for `directory` with more flags and waits until it listens.
    #[track_caller]
    pub(crate) fn serve(directory: &TempDir, flags: &[&str]) -> Self {
        let path = directory.path().to_str().expect("a path in UTF-8");
        Self::start(&[&["serve", path], flags].concat())
    }

    /// Starts `command`, which runs coring, and waits until it listens.
    #[track_caller]
    pub(crate) fn start_as(command: Command) -> Self {
        Self::spawn(command, TempDir::new())
    }

    /// Starts `command` with `stderr` as its standard error and waits until it listens.
    #[track_caller]
    pub(crate) fn start_with_stderr(command: Command, stderr: impl Into<Stdio>) -> Self {
        Self::start_on_socket(command, Stdio::piped(), stderr)
    }

    /// Starts `command` with these standard descriptors and waits until it listens on a Unix
    /// socket, which the variable `CORING_BIND` names. Reads its output if a descriptor is
    /// [`Stdio::piped`].
    #[track_caller]
    pub(crate) fn start_on_socket(
        mut command: Command,
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Self {
        let directory = TempDir::new();
        let path = directory.file("socket");
        command.env("CORING_BIND", format!("unix:{path}"));
        let stdio = [Stdio::null(), stdout.into(), stderr.into()];
        let this = Self::run(command, stdio, Address::Unix(path.into()), directory);
        eventually("the server listens", || this.try_connect().ok());
        this
    }

    #[track_caller]
    fn spawn(command: Command, directory: TempDir) -> Self {
        let described = format!("{command:?}");
        let stdio = [Stdio::null(), Stdio::piped(), Stdio::piped()];
        let mut this = Self::run(command, stdio, Address::Unix(PathBuf::new()), directory);
        this.address = eventually("the banner's address", || {
            let status = this.child.try_wait().expect("a child process");
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
        directory: TempDir,
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
            _directory: directory,
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The address as a URL, or the path of a Unix socket.
    pub(crate) fn url(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The standard error of the process so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// The standard output of the process so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        self.try_connect().expect("a connection")
    }

    pub(crate) fn try_connect(&self) -> io::Result<Client> {
        Client::connect(&self.address)
    }

    /// Sends one request on a new connection and reads the response.
    #[track_caller]
    pub(crate) fn ask(&self, request: impl AsRef<[u8]>) -> ReceivedResponse {
        let mut client = self.connect();
        client.send(request);
        client.response()
    }

    /// Sends a GET request on a new connection and reads the response.
    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> ReceivedResponse {
        self.ask(get(target))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child process");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child process").is_none()
    }

    /// Sends TERM and asserts that the process exits with code 0.
    #[track_caller]
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        let ended = self.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended
    }

    /// Waits until the process has exited.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        let status = eventually("the server's exit", || {
            self.child.try_wait().expect("a child process")
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
        // Both fail only if the process has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The values of the counter `name`, one per worker.
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

    /// The counters that `--stats` prints at exit, each with its sum over all workers.
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

/// The output of a child process, of which only whole lines count. A thread reads it, so that the
/// child never waits for the test. It stays empty if the output is not a pipe.
pub(crate) struct Lines {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    pub(super) fn follow(pipe: Option<impl Read + Send + 'static>) -> Self {
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

    /// The output so far.
    pub(crate) fn text(&self) -> String {
        self.text.lock().expect("a lock").clone()
    }

    /// Waits until the pipe is closed and returns all of the output.
    pub(crate) fn whole(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic in the reader");
        }
        self.text()
    }
}
