//! Shared helpers: coring as a process or in this process, Python applications under it, a client
//! that sends raw bytes, the requests it sends, other programs, how much memory processes have, and
//! bounded waits. The assertions on responses stay in the tests.

mod applications;
mod client;
mod hosts;
mod local;
mod memory;
mod pipe;
mod process;
mod program;
mod requests;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs, process as std_process};

use coring::{Builder, EngineChoice, Server};

pub(crate) use applications::{
    children, digest, run_application, under_load, wait_for_notes, wait_for_two_workers, zygote,
};
pub(crate) use client::{Client, ReceivedResponse, is_timeout, read_until_told_to_close};
pub(crate) use hosts::{descriptors_left, start_server};
pub(crate) use local::{Local, nap};
pub(crate) use memory::{assert_bytes_below, private_bytes};
pub(crate) use pipe::StalledPipe;
pub(crate) use process::{Address, Coring, Ended, Family, coring, without_settings};
pub(crate) use program::{
    Finished, Program, python, python_with_tools, run, run_with, static_binary,
};
pub(crate) use requests::{
    GET, GET_AND_CLOSE, GET_HTTP_1_0, HALF_A_HEAD, get, head_with_chunks, head_with_length,
    request, request_with_body,
};

/// The longest that a test waits for an event before it fails. It says nothing about how fast
/// coring should be.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The environment variable that selects the engine under test: `uring` or `epoll`.
pub(crate) const ENGINE: &str = "CORING_ENGINE";

/// The environment variable that selects the interpreter under test; `python3` unless it is set.
pub(crate) const PYTHON: &str = "CORING_PYTHON";

/// The body of the embedded site's response to [`GET`].
pub(crate) const HELLO: &str = "<b>hello world</b>";

/// The engine under test. The program reads the same variable, so the whole suite runs on one
/// engine.
pub(crate) fn engine() -> EngineChoice {
    match env::var(ENGINE).as_deref() {
        Err(_) | Ok("auto") => EngineChoice::Auto,
        // Only the program has an engine of this name; glommio is its host there.
        Ok("uring" | "glommio") => EngineChoice::Uring,
        Ok("epoll") => EngineChoice::Epoll,
        Ok(other) => panic!("{ENGINE} is {other:?}; it must be auto, uring, epoll or glommio"),
    }
}

/// A builder for a server in this process, on the engine under test. [`start_server`] starts it in
/// the host under test.
pub(crate) fn builder() -> Builder {
    Server::builder().engine(engine())
}

/// Whether the kernel lets this process use io_uring. If not, reports that `what` is not tested.
pub(crate) fn has_io_uring(what: &str) -> bool {
    let selected = EngineChoice::Uring.probe();
    if let Err(refused) = &selected {
        report(&format!("not tested: {what}: {refused}"));
    }
    selected.is_ok()
}

/// Prints `line` on standard error, even if the test passes.
pub(crate) fn report(line: &str) {
    // A closed standard error must not fail the test.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether this process runs only the test `name`, given with its module. If not, runs that test in
/// a process of its own and asserts that it passes. For tests that change what belongs to the whole
/// process, such as its limits.
#[track_caller]
pub(crate) fn is_alone(name: &str) -> bool {
    /// This environment variable is set in a process that runs a single test.
    const ALONE: &str = "CORING_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(env::current_exe().expect("the path of this program"));
    command
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1");
    let output = command.output().expect("the output of the test");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
    false
}

/// Calls `probe` every 10 ms until it returns a value. Panics, naming `what`, after [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{what}: did not happen within {PATIENCE:?}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// A new temporary directory, removed when dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("coring-test-{}-{number}", std_process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The path of `name` in the directory.
    pub(crate) fn file(&self, name: &str) -> String {
        self.0
            .join(name)
            .into_os_string()
            .into_string()
            .expect("a temporary path in UTF-8")
    }

    /// Makes a directory in this directory.
    pub(crate) fn make(&self, name: &str) {
        fs::create_dir(self.file(name)).expect("a new directory");
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.file(name);
        fs::write(&path, content).expect("a writable directory");
        path
    }

    /// Writes a file that was last changed an hour ago, so that it has a `Last-Modified`.
    pub(crate) fn write_old(&self, name: &str, content: impl AsRef<[u8]>) {
        let file = fs::File::open(self.write(name, content)).expect("a file");
        let an_hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        file.set_modified(an_hour_ago).expect("a file that we own");
    }

    /// Copies a program into the directory, and returns its path. All users may run it. Another
    /// process writes the file: a descriptor of ours could be inherited by a program that another
    /// test starts at that moment, and a file that is open for writing cannot be run (ETXTBSY).
    pub(crate) fn install(&self, program: impl AsRef<Path>, name: &str) -> String {
        let path = self.file(name);
        let mut command = Command::new("install");
        command.arg("--mode=755").arg(program.as_ref()).arg(&path);
        run_with(&mut command, b"").succeeded();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A panic here would hide the failure of the test.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Pseudo-random bytes (xorshift64), the same for every call.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
