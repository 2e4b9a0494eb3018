//! `coring run`: views that start processes, end the process, or write in a language that the
//! locale does not have; standard streams that are closed.

use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::{Coring, coring, eventually, without_settings};

const DIRECTORY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/integration/support/applications"
);

const CLASSES: [[&str; 3]; 3] = [
    ["views:app", "-k", "sync"],
    ["views:app", "-k", "gthread"],
    ["views:asgi", "-k", "asgi"],
];

fn views(arguments: &[&str]) -> Command {
    let fixed = ["run", "--bind", "127.0.0.1:0", "--app-dir", DIRECTORY];
    let mut command = coring(&[&fixed[..], arguments].concat());
    command.env_remove("LC_ALL").env("LANG", "C");
    command
}

#[test]
fn views_may_start_processes_and_threads() {
    for arguments in CLASSES {
        let server = Coring::start_as(views(&arguments));
        for (path, body) in [
            ("/spawn", "[1, 4, 9]"),
            ("/forkserver", "[1, 4, 9]"),
            ("/fork", "[1, 4, 9]"),
            ("/subprocess", "piped\n"),
            ("/child", "0"),
            ("/timer", "the timer"),
            ("/input", "''"),
            ("/", "done"),
        ] {
            assert_eq!(server.get(path).text(), body, "{arguments:?} {path}");
        }
        assert_eq!(server.stop().code, Some(0));
    }
}

#[test]
fn views_may_exit() {
    for arguments in CLASSES {
        let server = Coring::start_as(views(&arguments));
        for (path, status) in [("/exit", 500), ("/", 200), ("/end", 502), ("/", 200)] {
            assert_eq!(server.get(path).status, status, "{arguments:?} {path}");
        }
        let text = server.stop().stderr;
        assert!(text.contains("SystemExit: 1"), "{text}");
        assert!(text.contains("has ended (exit status: 7)"), "{text}");
    }
}

/// Python cannot write every character in the locale `C` unless it is told to.
#[test]
fn output_has_every_character_in_the_locale_c() {
    for arguments in CLASSES {
        let server = Coring::start_as(views(&arguments));
        assert_eq!(server.get("/output").text(), "done");
        eventually("the line of the logger", || {
            server.stderr().contains("logged \u{2603}").then_some(())
        });
        let ended = server.stop();
        assert_eq!(ended.stdout, "printed \u{2603}\n", "{arguments:?}");
    }
}

/// A view closes the standard streams; then coring itself is started without them.
#[test]
fn standard_streams_may_be_closed() {
    for arguments in CLASSES {
        let server = Coring::start_as(views(&arguments));
        for path in ["/closed", "/", "/exit", "/"] {
            let status = if path == "/exit" { 500 } else { 200 };
            assert_eq!(server.get(path).status, status, "{arguments:?} {path}");
        }
        assert_eq!(server.stop().code, Some(0));
        let mut shell = without_settings("sh", &["-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"]);
        shell
            .args([env!("CARGO_BIN_EXE_coring"), "run", "--app-dir", DIRECTORY])
            .args(arguments);
        let server = Coring::start_on_socket(shell, Stdio::null(), Stdio::null());
        for path in ["/output", "/input", "/exit", "/subprocess"] {
            let status = if path == "/exit" { 500 } else { 200 };
            assert_eq!(server.get(path).status, status, "{arguments:?} {path}");
        }
        server.signal(Signal::TERM);
        assert_eq!(server.wait().code, Some(0), "{arguments:?}");
    }
}
