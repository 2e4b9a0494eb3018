//! Other programs: run to their end within a time limit, with their output captured.

use std::env;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The longest that a program may run, even on a slow machine.
const TIME_MAX: Duration = Duration::from_secs(120);

/// The exit code and the output of a program.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// The only line on standard error. Panics if there are more: an error message has one line.
    #[track_caller]
    pub(crate) fn error_line(&self) -> &str {
        let mut lines = self.stderr.lines();
        let line = lines.next().expect("a line on stderr");
        assert!(
            lines.next().is_none(),
            "more than one line: {}",
            self.stderr
        );
        line
    }
}

/// Runs `program` to its end, asserts exit code 0, and returns its standard output.
#[track_caller]
pub(crate) fn run<S: AsRef<str>>(program: &str, arguments: &[S]) -> String {
    run_with(
        Command::new(program).args(arguments.iter().map(AsRef::as_ref)),
        b"",
    )
    .succeeded()
}

impl Finished {
    /// Asserts exit code 0 and returns the standard output.
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs `command` to its end with `input` on its standard input.
#[track_caller]
pub(crate) fn run_with(command: &mut Command, input: &[u8]) -> Finished {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error} (tests/run installs what is needed)"));
    let (mut stdin, stdout, stderr) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (code, stdout, stderr) = thread::scope(|scope| {
        let stdout = scope.spawn(|| read_all(stdout));
        let stderr = scope.spawn(|| read_all(stderr));
        scope.spawn(move || {
            // Writing fails if the program ends without reading all of its input.
            stdin.take().map(|mut stdin| stdin.write_all(input))
        });
        let code = wait_or_kill(&mut child);
        (
            code,
            stdout.join().expect("a reader"),
            stderr.join().expect("a reader"),
        )
    });
    let code =
        code.unwrap_or_else(|| panic!("{command:?}: ran for {TIME_MAX:?}\n{stdout}{stderr}"));
    Finished {
        code,
        stdout,
        stderr,
    }
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    pipe.expect("a pipe")
        .read_to_end(&mut bytes)
        .expect("a readable pipe");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until the child has exited and returns its exit code. Kills it after [`TIME_MAX`] and
/// returns `None`.
fn wait_or_kill(child: &mut Child) -> Option<Option<i32>> {
    let started = Instant::now();
    while started.elapsed() < TIME_MAX {
        if let Some(status) = child.try_wait().expect("a child process") {
            return Some(status.code());
        }
        thread::sleep(Duration::from_millis(10));
    }
    // This fails only if the program has just exited.
    let _ = child.kill();
    child.wait().expect("a child process");
    None
}

/// A command that runs one of the Python scripts in this directory.
pub(crate) fn python(script: &str, arguments: &[&str]) -> Command {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/support");
    let mut command = Command::new("python3");
    command.arg(directory.join(script)).args(arguments);
    command
}

/// A program that runs in the background; killed when dropped.
pub(crate) struct Program(Child);

impl Program {
    /// Starts `command` and waits for its first output, which it writes when it is ready.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut this = Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let mut ready = [0];
        let stdout = this.0.stdout.as_mut().expect("a pipe");
        stdout
            .read_exact(&mut ready)
            .unwrap_or_else(|_| panic!("{command:?} exited before it was ready"));
        this
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only if the program has exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The static binary that `tests/run` builds.
#[track_caller]
pub(crate) fn static_binary() -> PathBuf {
    let profile = Path::new(env!("CARGO_BIN_EXE_coring")).parent();
    let target = profile
        .and_then(Path::parent)
        .expect("the target directory");
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let path = target.join(triple).join("release/coring");
    assert!(path.exists(), "no {}: tests/run builds it", path.display());
    path
}

/// The interpreter that has the tools of `deploy/tests/requirements.txt`, which `tests/run`
/// installs.
#[track_caller]
pub(crate) fn python_with_tools() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy/bin/python");
    assert!(
        path.exists(),
        "no {}: run tests/run, which installs tools there",
        path.display()
    );
    path
}
