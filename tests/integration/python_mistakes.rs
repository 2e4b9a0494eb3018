//! `coring run`: typical mistakes. Each gets one line with its cause and its cure, below the
//! traceback of the application if there is one, and the exit status of the table in `--help`.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::geteuid;

use crate::support::{Finished, PYTHON, TempDir, coring, run_with};

const GOOD: &str = "\
def app(environ, start_response):
    pass

def make():
    return app
";

/// Runs `coring run` in a directory, as a command that is expected to fail.
fn run_in(directory: &TempDir, arguments: &[&str]) -> Command {
    let mut command = coring(&["run"]);
    command
        .args(arguments)
        .current_dir(directory.path())
        .env_remove("VIRTUAL_ENV");
    if !arguments.contains(&"--bind") {
        command.args(["--bind", "127.0.0.1:0"]);
    }
    if arguments.contains(&"--python") {
        command.env_remove(PYTHON);
    }
    command
}

/// Asserts the exit status, and the last line of the output: it has the parts of `words`, which are
/// separated by ellipses, in this order. Other lines are those of a traceback of the application.
#[track_caller]
fn expect(command: &mut Command, code: i32, words: &str) -> Finished {
    let finished = run_with(command, b"");
    let text = &finished.stderr;
    assert_eq!(finished.code, Some(code), "{command:?}: {text}");
    let last = text.lines().last().expect("a line");
    let mut rest = last
        .strip_prefix("coring: ")
        .unwrap_or_else(|| panic!("{text}"));
    for word in words.split(" … ") {
        let at = rest
            .find(word)
            .unwrap_or_else(|| panic!("no {word:?} in: {text}"));
        rest = &rest[at + word.len()..];
    }
    assert!(!text.contains("coring:_coring"), "{text}");
    finished
}

#[track_caller]
fn expect_one_line(command: &mut Command, code: i32, words: &str) {
    let finished = expect(command, code, words);
    finished.error_line();
}

#[track_caller]
fn expect_traceback(command: &mut Command, code: i32, words: &str, last_frame: &str) {
    let finished = expect(command, code, words);
    assert!(finished.stderr.contains(last_frame), "{}", finished.stderr);
}

/// Writes a program that stands in for an interpreter.
fn write_program(directory: &TempDir, name: &str, script: &str) -> String {
    let written = directory.write(&format!("{name}.sh"), format!("#!/bin/sh\n{script}\n"));
    directory.install(written, name)
}

/// A directory with modules that have an application, none, or two.
fn modules() -> TempDir {
    let directory = TempDir::new();
    directory.write("good.py", GOOD);
    directory.write("none.py", "x = 1\n");
    directory.write("number.py", "app = 5\n");
    directory.write(
        "two.py",
        "def app(e, s): pass\ndef application(e, s): pass\n",
    );
    directory.write("factory.py", "def create_app(config): return config\n");
    directory.write("_coring.py", GOOD);
    directory.write("logging.py", GOOD);
    directory.make("web");
    directory.write("web/site.py", GOOD);
    directory
}

#[test]
fn a_wrong_name_of_the_application_is_explained() {
    let directory = modules();
    for (app, words) in [
        (
            "nowhere:app",
            "no module `nowhere` … good.py … correct the name",
        ),
        (
            "nowhere.py",
            "no file … /nowhere.py … has _coring.py … correct the name",
        ),
        ("none.py", "none.py has none of app, … as in none.py:NAME"),
        ("number.py", "`number.py:app` is an int … an application is"),
        ("none:x", "`none:x` is an int … an application is"),
        (
            "good:missing",
            "good.py has no `missing` … it has app, make … as in good:NAME",
        ),
        ("two.py", "`app` and `application` … as in two.py:app"),
        (
            "good:make",
            "`good:make` is not called as an application is … write good:make()",
        ),
        ("good.app", "no module `good.app` … write good:app"),
        ("good:app(", "cannot be understood after the colon"),
        (
            "web",
            "/web is a directory … has site.py … as in web/main.py",
        ),
        (".", "`.` names no module … FILE.py"),
        ("/etc/passwd", "names no module … FILE.py"),
        ("_coring.py", "`_coring` is a name of coring's own … rename"),
        (
            "_coring:app",
            "`_coring` is a name of coring's own … rename",
        ),
        ("logging.py", "another module `logging` … rename the file"),
    ] {
        expect_one_line(&mut run_in(&directory, &[app]), 4, words);
    }
    for app in ["factory.py", "factory:create_app()"] {
        let words = "`create_app()` … 1 required … 'config' … give its arguments";
        expect_one_line(&mut run_in(&directory, &[app]), 4, words);
    }
}

#[test]
fn an_application_that_fails_is_shown_with_its_traceback() {
    let directory = TempDir::new();
    directory.write("missing.py", "import not_installed.parts\n");
    directory.write("missing_name.py", "from json import nothing\n");
    directory.write("syntax.py", "x = 1\ndef app(:\n");
    directory.write(
        "raises.py",
        "def connect():\n    raise OSError('no database')\nconnect()\n",
    );
    directory.write("exits.py", "import sys\nsys.exit(3)\n");
    directory.write(
        "startup.py",
        "async def app(scope, receive, send):\n    \
             if scope['type'] == 'lifespan':\n        \
                 await receive()\n        \
                 await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n",
    );
    for (app, words, last_frame) in [
        (
            "missing.py",
            "`not_installed` … is not installed for / … install the package … -m pip install",
            "missing.py\", line 1",
        ),
        (
            "missing_name.py",
            "ImportError … 'nothing'",
            "missing_name.py\", line 1",
        ),
        ("syntax.py", "syntax.py, line 2", "syntax.py\", line 2"),
        (
            "raises.py",
            "OSError: no database",
            "raises.py\", line 2, in connect",
        ),
        (
            "exits.py",
            "ended the process … __main__",
            "exits.py\", line 2",
        ),
    ] {
        let mut command = run_in(&directory, &[app]);
        expect_traceback(&mut command, 4, words, last_frame);
    }
    let mut command = run_in(&directory, &["startup.py"]);
    let finished = run_with(&mut command, b"");
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("no database"),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_file_without_permission_is_named() {
    let directory = TempDir::new();
    let path = directory.write("secret.py", GOOD);
    let permissions = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(&path, permissions).expect("our file");
    for (app, words) in [
        ("secret.py", "secret.py … cannot be read … permissions"),
        ("secret:app", "secret.py … cannot be read … permissions"),
    ] {
        let mut command = run_in(&directory, &[app]);
        if geteuid().is_root() {
            // Without this the permissions of files do not apply to root.
            let program = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
            command = within(&program, &command);
        }
        expect_one_line(&mut command, 4, words);
    }
}

/// The same command, run by another program.
fn within(program: &[&str], command: &Command) -> Command {
    let mut other = Command::new(program[0]);
    other
        .args(&program[1..])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().expect("a directory"));
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}

#[test]
fn a_wrong_interpreter_is_named() {
    let directory = TempDir::new();
    directory.write("good.py", GOOD);
    directory.make("empty");
    let mut command = run_in(&directory, &["good.py"]);
    command
        .env_remove(PYTHON)
        .env("PATH", directory.file("empty"));
    expect_one_line(&mut command, 1, "no Python … --python");
    let wrong = |python: &str, code: i32, words: &str| {
        let mut command = run_in(&directory, &["good.py", "--python", python]);
        expect_one_line(&mut command, code, words);
    };
    wrong(
        "/nowhere/python",
        1,
        "`/nowhere/python` is missing … --python",
    );
    wrong(
        "./good.py",
        1,
        "`./good.py` is missing or not executable … --python",
    );
    let silent = write_program(&directory, "silent", "exit 5");
    let words = format!("ended before it was ready … exit status: 5 … `{silent}`");
    wrong(&silent, 3, &words);
    // Only the number of the version is wrong.
    let old = "exec python3 -c 'import sys; sys.version_info = (3, 7, 16); exec(sys.argv.pop(1))' \
               \"$2\" \"$3\" \"$4\"";
    let old = write_program(&directory, "old", old);
    wrong(&old, 1, "is Python 3.7.16 … 3.8 … --python");
}

#[test]
fn wrong_flags_are_explained() {
    let directory = TempDir::new();
    directory.write("good.py", GOOD);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("its address").to_string();
    for (arguments, code, words) in [
        (
            &["good.py", "--bind", &taken][..],
            1,
            "has the port … choose another port",
        ),
        (
            &["good.py", "--app-dir", "/nowhere"],
            4,
            "/nowhere … --app-dir",
        ),
        (&["good.py", "--chdir", "/nowhere"], 4, "/nowhere … --chdir"),
        (
            &["good.py", "--static", "/s=/nowhere"],
            78,
            "`/nowhere` … create it … --static /PATH=DIR",
        ),
        (
            &["good.py", "--reload", "--reload-dir", "/nowhere"],
            78,
            "`/nowhere` … create it … --reload-dir DIR",
        ),
        (
            &["good.py", "--env-file", "/nowhere"],
            78,
            "--env-file /nowhere … check the path",
        ),
        (
            &["good.py", "-k", "asgi"],
            4,
            "is a WSGI application … sync, gthread or gevent",
        ),
    ] {
        expect_one_line(&mut run_in(&directory, arguments), code, words);
    }
    for (arguments, words) in [
        (
            &["good.py", "--worker-clas", "sync"][..],
            "'--worker-class'",
        ),
        (
            &["good.py", "-k", "my.Worker"],
            "auto, sync, gthread, gevent and asgi",
        ),
        (&["good.py", "-w", "0"], "invalid value '0' for '--workers"),
        (&["good.py", "-w", "x"], "a whole number, 1 or more"),
        (&[], "coring run APP"),
    ] {
        let finished = run_with(&mut run_in(&directory, arguments), b"");
        assert_eq!(finished.code, Some(2), "{arguments:?}: {}", finished.stderr);
        assert!(
            finished.stderr.contains(words),
            "{arguments:?}: {}",
            finished.stderr
        );
    }
}

#[test]
fn a_forgotten_run_is_noticed() {
    for app in ["app.py", "main:app"] {
        let finished = run_with(&mut coring(&[app]), b"");
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        let tip = format!("coring run {app}\n");
        assert!(finished.stderr.ends_with(&tip), "{}", finished.stderr);
    }
    let finished = run_with(&mut coring(&["ecko"]), b"");
    assert!(!finished.stderr.contains("Python"), "{}", finished.stderr);
}

/// A module that starts a server of its own, for example, never returns from its import.
#[test]
fn an_import_that_takes_long_is_reported() {
    let directory = TempDir::new();
    directory.write("server.py", "import time\ntime.sleep(60)\n");
    let command = run_in(&directory, &["server.py"]);
    let mut limited = within(&["timeout", "12"], &command);
    let stderr = run_with(&mut limited, b"").stderr;
    let line = "coring: `server.py` is still starting after 5 s; does it start a server itself";
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with(line), "{stderr}");
}
