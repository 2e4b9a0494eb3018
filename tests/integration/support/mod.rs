//! What the tests share: the server as a process, a client of raw bytes, other programs, and waits
//! that end. It refuses to judge: what is right is for the tests to say.

mod client;
mod local;
mod pipe;
mod process;
mod program;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs, process as std_process};

use coring::{Builder, EngineChoice, Server};

pub(crate) use client::{Answer, Client, is_timeout, is_told_to_leave};
pub(crate) use local::{Local, nap};
pub(crate) use pipe::StalledPipe;
pub(crate) use process::{Address, Coring, Ended, Family, coring};
pub(crate) use program::{Finished, Program, python, run, run_with};

/// What takes longer than this does not come any more. A bound for failures, not a measure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The variable of our environment that says on which engine to test: uring or epoll.
pub(crate) const ENGINE: &str = "CORING_ENGINE";

/// A whole request that keeps its connection.
pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: coring\r\n\r\n";

/// The embedded site's answer to [`GET`].
pub(crate) const HELLO: &str = "<b>hello world</b>";

/// The engine that the tests are about: the variable that the program itself heeds, so that the
/// whole suite can be run on each.
pub(crate) fn engine() -> EngineChoice {
    match env::var(ENGINE).as_deref() {
        Err(_) | Ok("auto") => EngineChoice::Auto,
        Ok("uring") => EngineChoice::Uring,
        Ok("epoll") => EngineChoice::Epoll,
        Ok(other) => panic!("{ENGINE} is {other:?}"),
    }
}

/// A server in this process, on that engine.
pub(crate) fn builder() -> Builder {
    Server::builder().engine(engine())
}

/// Whether there is a ring to be had here; says so where there is none, for `what` is then not
/// tested.
pub(crate) fn has_io_uring(what: &str) -> bool {
    let selected = EngineChoice::Uring.probe();
    if let Err(refused) = &selected {
        report(&format!("not tested: {what}: {refused}"));
    }
    selected.is_ok()
}

/// Said on the terminal even where the test passes.
pub(crate) fn report(line: &str) {
    // A terminal that is gone is no failure of the server.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Asks `probe` until it has something; panics, naming `what`, when it never does.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// A folder of its own for a test, gone with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("coring-test-{}-{number}", std_process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The path of `name` in the folder, as text.
    pub(crate) fn file(&self, name: &str) -> String {
        self.0
            .join(name)
            .into_os_string()
            .into_string()
            .expect("a path in UTF-8")
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.file(name);
        fs::write(&path, content).expect("a file that can be written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A test that failed has more to say than that its folder stays.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Bytes without a pattern, the same ones each time (xorshift64).
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
