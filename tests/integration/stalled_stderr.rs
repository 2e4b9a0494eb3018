//! Messages on standard error while nothing reads it: they block neither a worker nor the exit.

use std::env;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use coring::{Request, Response, messages};
use rustix::process::Signal;

use crate::support::{
    Coring, GET, HELLO, StalledPipe, TempDir, builder, coring, eventually, head_with_chunks,
    read_until_told_to_close,
};

/// Starts a server whose standard error is a pipe, and fills the pipe.
#[track_caller]
fn start_and_fill_stderr(arguments: &[&str]) -> (Coring, StalledPipe) {
    let pipe = StalledPipe::new();
    let server = Coring::start_with_stderr(coring(arguments), pipe.writer());
    pipe.fill();
    (server, pipe)
}

/// Sends TERM and asserts that the server exits with code 0 although its standard error is full.
#[track_caller]
fn assert_term_ends(server: Coring) {
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn term_drains_a_server_whose_standard_error_is_full() {
    let (server, _pipe) = start_and_fill_stderr(&["--stats"]);
    server.signal(Signal::HUP);
    let mut client = server.connect();
    client.send(GET);
    assert_eq!(client.response().text(), HELLO);
    server.signal(Signal::TERM);
    read_until_told_to_close(&mut client);
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn a_banner_that_cannot_be_written_does_not_block_the_server() {
    let pipe = StalledPipe::new();
    pipe.fill();
    let server = Coring::start_with_stderr(coring(&[]), pipe.writer());
    assert_eq!(server.ask(GET).text(), HELLO);
    assert_term_ends(server);
}

#[test]
fn a_second_signal_ends_a_server_whose_standard_error_is_full() {
    let (server, _pipe) = start_and_fill_stderr(&["echo", "--stats"]);
    let mut client = server.connect();
    client.send(head_with_chunks("POST", "/") + "1\r\na\r\n");
    assert_eq!(client.head().status, 200);
    server.signal(Signal::TERM);
    eventually("the listener is closed", || server.try_connect().err());
    // Not TERM again: within a second it is one with the first.
    server.signal(Signal::INT);
    let started = Instant::now();
    assert_eq!(server.wait().code, Some(0));
    assert!(started.elapsed() < Duration::from_secs(10));
    client.expect_fin_or_reset();
}

#[test]
fn a_message_about_a_moved_directory_does_not_block_a_worker() {
    let parent = TempDir::new();
    let path = parent.file("site");
    fs::create_dir(&path).expect("a new directory");
    parent.write("site/a", "content");
    let (server, _pipe) =
        start_and_fill_stderr(&["serve", &path, "--cores", "1", "--file-cache", "0"]);
    assert_eq!(server.get("/a").text(), "content");
    fs::rename(&path, parent.file("moved")).expect("a renamed directory");
    // The server checks the directory's path twice a second and reports that the directory is gone.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        server.get("/a");
        thread::sleep(Duration::from_millis(100));
    }
    assert_term_ends(server);
}

#[test]
fn a_message_about_a_failed_access_log_does_not_delay_the_exit() {
    let (server, _pipe) = start_and_fill_stderr(&["--access-log", "/dev/full"]);
    // The log writes a line within a second after its request.
    for _ in 0..3 {
        assert_eq!(server.ask(GET).text(), HELLO);
        thread::sleep(Duration::from_secs(1));
    }
    let started = Instant::now();
    assert_term_ends(server);
    // At exit the server waits for the log's thread. A thread blocked on standard error would make
    // that wait long.
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_failed_start_has_its_exit_code_although_standard_error_is_full() {
    let no_directory = ["serve", "/no/such/directory"];
    for (arguments, code) in [
        (&no_directory[..], 78),
        (&["--no-such-flag"], 2),
        (&["-b", "nonsense"], 78),
    ] {
        let pipe = StalledPipe::new();
        pipe.fill();
        let mut command = coring(arguments);
        command.stdout(Stdio::null()).stderr(pipe.writer());
        let mut child = command.spawn().expect("coring");
        let status = eventually("its exit", || child.try_wait().expect("a child process"));
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

/// Another process that shares the pipe may set O_NONBLOCK on it.
#[test]
fn messages_are_complete_on_a_pipe_that_another_process_made_nonblocking() {
    let pipe = StalledPipe::new();
    pipe.fill();
    pipe.set_nonblocking(true);
    let server = Coring::start_with_stderr(coring(&["--stats"]), pipe.writer());
    let mut messages = pipe.follow();
    // The pipe has room from now on: at its end the server does not wait long for a reader.
    eventually("the banner", || {
        messages.text().contains("  serves  ").then_some(())
    });
    assert_eq!(server.stop().code, Some(0));
    let text = messages.whole();
    let text = text.trim_start_matches('.');
    assert!(text.starts_with("coring "), "{text}");
    for word in ["  serves  ", "draining: ", "\nlog_lines_dropped 0 ["] {
        assert!(text.contains(word), "no `{word}` in {text}");
    }
}

/// The server is a second process, which runs this same test and then serves, because the program
/// has no service that panics.
#[test]
fn a_message_about_a_panic_does_not_block_a_worker() {
    const SERVES: &str = "CORING_TEST_SERVES_PANICS";
    if env::var_os(SERVES).is_some() {
        messages::report_panics();
        let bind = env::var("CORING_BIND").expect("an address");
        let served = builder().bind(bind).cores(1).serve(|| {
            async |request: Request| match request.path() {
                "/" => Response::html(HELLO),
                _ => panic!("planted"),
            }
        });
        return served.expect("a server");
    }
    let this = env::current_exe().expect("a path");
    let name = "stalled_stderr::a_message_about_a_panic_does_not_block_a_worker";
    let mut command = Command::new(this);
    command
        .args(["--exact", name, "--nocapture"])
        .env(SERVES, "1");
    let pipe = StalledPipe::new();
    let server = Coring::start_with_stderr(command, pipe.writer());
    pipe.fill();
    for _ in 0..10 {
        assert_eq!(server.get("/panic").status, 500);
        assert_eq!(server.ask(GET).text(), HELLO);
    }
    drop(server);
    let text = pipe.follow().whole();
    assert!(!text.contains("panic"), "{text}");
}
