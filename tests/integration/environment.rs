//! What the program takes from its surroundings: variables, a terminal, and flags of other servers.

use crate::support::{Coring, GET, HELLO, TempDir, coring, eventually, run_with, without_settings};

#[test]
fn an_empty_variable_counts_as_unset() {
    let mut command = coring(&["--stats"]);
    command.env("PORT", "0");
    for name in [
        "BIND",
        "CORES",
        "HEAD_TIMEOUT",
        "PIN",
        "MAX_BODY",
        "ACCESS_LOG_SKIP",
    ] {
        command.env(format!("CORING_{name}"), "");
    }
    let server = Coring::start_as(command);
    assert!(
        server.stderr().contains("http://0.0.0.0:"),
        "{}",
        server.stderr()
    );
    server.stop();
}

#[test]
fn a_message_about_a_value_names_the_variable_that_has_it() {
    for (name, value, words) in [
        ("CORING_HEAD_TIMEOUT", "soon", "for 'CORING_HEAD_TIMEOUT'"),
        ("CORING_MAX_HEAD", "9", "CORING_MAX_HEAD is 9; it must be"),
    ] {
        let flag = name
            .to_lowercase()
            .replace("coring_", "--")
            .replace('_', "-");
        let finished = run_with(coring(&[]).env(name, value), b"");
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        let is_named = finished.stderr.contains(words) && !finished.stderr.contains(&flag);
        assert!(is_named, "{}", finished.stderr);
        // The flag takes precedence, so it is to blame.
        let finished = run_with(coring(&[&flag, value]).env(name, value), b"");
        assert!(finished.stderr.contains(&flag), "{}", finished.stderr);
    }
}

#[test]
fn the_variable_of_a_flag_that_is_given_is_not_read() {
    for arguments in [
        &["--cores", "1", "serve", "/none"][..],
        &["--cores=1", "serve", "/none"],
        &["serve", "/none", "--cores", "1"],
    ] {
        let finished = run_with(coring(arguments).env("CORING_CORES", "abc"), b"");
        // The directory is missing.
        assert_eq!(finished.code, Some(78), "{}", finished.stderr);
    }
}

#[test]
fn the_banner_names_unknown_variables_and_the_limit_of_connections() {
    let arguments = ["-b", "127.0.0.1:0", "--max-connections", "7", "--stats"];
    let mut command = coring(&arguments);
    command.env("CORING_HEADTIMEOUT", "1s");
    let server = Coring::start_as(command);
    // The banner is one message, so the whole of it is there with its last row.
    let hint = "CORING_HEADTIMEOUT is no variable of coring's; did you mean CORING_HEAD_TIMEOUT?";
    let banner = eventually("a hint", || {
        Some(server.stderr()).filter(|banner| banner.contains(hint))
    });
    let most = "up to 7 at a time (--max-connections)";
    assert!(banner.contains(most), "{banner}");
    assert_eq!(server.ask(GET).text(), HELLO);
    server.stop();
    let server = Coring::start_as(coring(&["-b", "127.0.0.1:0"]));
    eventually("the limit", || {
        server.stderr().contains("ulimit -n)").then_some(())
    });
}

#[test]
fn a_number_that_is_none_is_explained() {
    for (arguments, reason) in [
        (["--cores", "0"], "expected a whole number, 1 or more"),
        (
            ["--max-connections", "x"],
            "expected a whole number, 0 or more",
        ),
        (
            ["--max-fields", "257"],
            "expected a whole number from 1 to 256",
        ),
    ] {
        let finished = run_with(&mut coring(&arguments), b"");
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        assert!(finished.stderr.contains(reason), "{}", finished.stderr);
    }
}

#[test]
fn flags_of_other_servers_get_an_answer_with_the_right_one() {
    let directory = TempDir::new();
    let path = directory.path().to_str().expect("a path in UTF-8");
    for (arguments, hint) in [
        (&["--port", "8000"][..], "--bind 127.0.0.1:PORT"),
        (&["serve", "-p", "8000"], "--bind 127.0.0.1:PORT"),
        (&["serve", "--directory", "x"], "coring serve DIR"),
        (&["8000"], "coring --bind 127.0.0.1:8000"),
        (&["-w", "4", "main:app"], "application: coring run APP"),
        (&["--threads", "4"], "application: coring run APP"),
        (&[path], &format!("coring serve {path}")),
    ] {
        let finished = run_with(&mut coring(arguments), b"");
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        assert!(finished.stderr.contains(hint), "{}", finished.stderr);
    }
    let finished = run_with(&mut coring(&["serve", "--prot", "80"]), b"");
    let text = &finished.stderr;
    let is_plain = text.contains("'--prot'") && !text.contains("-- --prot");
    assert!(is_plain, "{text}");
    let finished = run_with(coring(&["serve", "8000"]).current_dir(path), b"");
    assert_eq!(finished.code, Some(78), "{}", finished.stderr);
    let hint = "for a port: coring serve --bind";
    assert!(finished.error_line().contains(hint), "{}", finished.stderr);
}

/// Serves with standard output on a terminal. Prints what the terminal shows for a request. Then
/// sends many requests, and reads from the terminal when all are answered. Prints the number of
/// lines.
const ON_TERMINAL: &str = r#"
import os, pty, select, socket, subprocess, sys, urllib.parse
terminal, side = pty.openpty()
command = [sys.argv[1], "serve", "--cores", "1", "--bind", "127.0.0.1:0"]
coring = subprocess.Popen(command, stdout=side, stderr=subprocess.PIPE, text=True)
for line in coring.stderr:
    if "http://" in line:
        url = urllib.parse.urlsplit(line.split()[1])
        break

def ask(count):
    client.sendall(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n" * count)
    received = b""
    while received.count(b"\r\n\r\ncontent") < count:
        more = client.recv(1 << 20)
        assert more
        received += more

try:
    client = socket.create_connection((url.hostname, url.port))
    ask(1)
    shown = b""
    while b"\n" not in shown:
        shown += os.read(terminal, 1000)
    print(shown.decode())
    for _ in range(30):
        ask(100)
    lines = 0
    while lines < 3000 and select.select([terminal], [], [], 10)[0]:
        lines += os.read(terminal, 1 << 16).count(b"\n")
    print(lines, "lines")
finally:
    coring.kill()
"#;

#[test]
fn serve_logs_requests_to_a_terminal() {
    let directory = TempDir::new();
    directory.write("file", "content");
    let arguments = ["-c", ON_TERMINAL, env!("CARGO_BIN_EXE_coring")];
    let mut command = without_settings("python3", &arguments);
    command.current_dir(directory.path());
    let printed = run_with(&mut command, b"").succeeded();
    assert!(
        printed.contains("\"GET /file HTTP/1.1\" 200 7 "),
        "{printed}"
    );
    assert!(printed.contains("3000 lines"), "{printed}");
}
