//! Other programs: run to their end within a bound, their output kept.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// No program of ours needs longer, however slow the machine.
const BOUND: Duration = Duration::from_secs(120);

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// The only line on stderr: an error is said once, and on one line.
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

/// Runs `program` to its end and insists on exit code 0; its standard output.
#[track_caller]
pub(crate) fn run<S: AsRef<str>>(program: &str, arguments: &[S]) -> String {
    run_with(
        Command::new(program).args(arguments.iter().map(AsRef::as_ref)),
        b"",
    )
    .succeeded()
}

impl Finished {
    /// Insists on exit code 0; the standard output.
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
        let stdout = scope.spawn(|| whole(stdout));
        let stderr = scope.spawn(|| whole(stderr));
        scope.spawn(move || {
            // A program may end without having read it all.
            stdin.take().map(|mut stdin| stdin.write_all(input))
        });
        let code = end(&mut child);
        (
            code,
            stdout.join().expect("a reader"),
            stderr.join().expect("a reader"),
        )
    });
    let code =
        code.unwrap_or_else(|| panic!("{command:?}: not done in {BOUND:?}\n{stdout}{stderr}"));
    Finished {
        code,
        stdout,
        stderr,
    }
}

fn whole(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    pipe.expect("a pipe")
        .read_to_end(&mut bytes)
        .expect("a pipe that can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Its exit code; nothing where it had to be killed.
fn end(child: &mut Child) -> Option<Option<i32>> {
    let started = Instant::now();
    while started.elapsed() < BOUND {
        if let Some(status) = child.try_wait().expect("our own child") {
            return Some(status.code());
        }
        thread::sleep(Duration::from_millis(10));
    }
    // It fails only when the program has ended in the last moment.
    let _ = child.kill();
    child.wait().expect("our own child");
    None
}

/// A command that runs one of the scripts beside this file.
pub(crate) fn python(script: &str, arguments: &[&str]) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/support");
    let mut command = Command::new("python3");
    command.arg(folder.join(script)).args(arguments);
    command
}

/// A program that runs beside the test; killed when dropped.
pub(crate) struct Program(Child);

impl Program {
    /// Starts `command` and waits for its first line, which says that it is ready.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut this = Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let mut ready = [0];
        let stdout = this.0.stdout.as_mut().expect("a pipe");
        stdout
            .read_exact(&mut ready)
            .unwrap_or_else(|_| panic!("{command:?} ended early"));
        this
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
