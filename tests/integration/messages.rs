//! Messages on standard error while its reader stalls: they hold up neither a worker nor the end
//! of the process.

use std::env;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use coring::{Request, Response, messages};
use rustix::process::Signal;

use crate::serve::get;
use crate::support::{
    Coring, Folder, GET, HELLO, StalledPipe, builder, coring, eventually, is_told_to_leave,
};

/// A server whose standard error becomes a full pipe once it has started.
#[track_caller]
fn stalled(arguments: &[&str]) -> (Coring, StalledPipe) {
    let pipe = StalledPipe::new();
    let server = Coring::start_unread(coring(arguments), pipe.writer());
    pipe.fill();
    (server, pipe)
}

/// Ends the server by TERM while its standard error is full.
#[track_caller]
fn ends_by_term(server: Coring) {
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn term_drains_a_server_whose_standard_error_is_full() {
    let (server, _pipe) = stalled(&["--stats"]);
    server.signal(Signal::HUP);
    let mut client = server.connect();
    client.send(GET);
    assert_eq!(client.answer().text(), HELLO);
    server.signal(Signal::TERM);
    is_told_to_leave(&mut client);
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn a_banner_that_cannot_be_written_does_not_hold_up_the_server() {
    let pipe = StalledPipe::new();
    pipe.fill();
    let server = Coring::start_unread(coring(&[]), pipe.writer());
    assert_eq!(server.ask(GET).text(), HELLO);
    ends_by_term(server);
}

#[test]
fn a_second_signal_ends_a_server_whose_standard_error_is_full() {
    let (server, _pipe) = stalled(&["echo", "--stats"]);
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    assert_eq!(client.head().status, 200);
    server.signal(Signal::TERM);
    // The two signals are told apart only if the first was taken before the second is sent.
    eventually("the listener's end", || server.try_connect().err());
    server.signal(Signal::TERM);
    let started = Instant::now();
    assert_eq!(server.wait().code, Some(0));
    assert!(started.elapsed() < Duration::from_secs(10));
    client.broken();
}

#[test]
fn a_folder_that_is_moved_does_not_stop_a_worker_whose_standard_error_is_full() {
    let parent = Folder::new();
    let path = parent.file("site");
    fs::create_dir(&path).expect("a new folder");
    parent.write("site/a", "content");
    let (server, _pipe) = stalled(&["serve", &path, "--cores", "1", "--file-cache", "0"]);
    assert_eq!(get(&server, "/a").text(), "content");
    fs::rename(&path, parent.file("moved")).expect("a renamed folder");
    // The folder's path is followed twice a second.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        get(&server, "/a");
        thread::sleep(Duration::from_millis(100));
    }
    ends_by_term(server);
}

#[test]
fn an_access_log_that_fails_does_not_hold_up_the_end_where_standard_error_is_full() {
    let (server, _pipe) = stalled(&["--access-log", "/dev/full"]);
    // A line is written a second after its request.
    for _ in 0..3 {
        assert_eq!(server.ask(GET).text(), HELLO);
        thread::sleep(Duration::from_secs(1));
    }
    let started = Instant::now();
    ends_by_term(server);
    // The thread of the log was not held up, so its end is not waited for.
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_start_that_fails_has_its_exit_status_where_standard_error_is_full() {
    let wrong = ["serve", "/no/such/folder"];
    for (arguments, code) in [
        (&wrong[..], 78),
        (&["--no-such-flag"], 2),
        (&["-b", "nonsense"], 78),
    ] {
        let pipe = StalledPipe::new();
        pipe.fill();
        let mut command = coring(arguments);
        command.stdout(Stdio::null()).stderr(pipe.writer());
        let mut child = command.spawn().expect("coring");
        let status = eventually("its end", || child.try_wait().expect("our own child"));
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

/// Another process that has the same pipe may make it non-blocking.
#[test]
fn messages_are_whole_on_a_pipe_that_another_process_made_nonblocking() {
    let pipe = StalledPipe::new();
    pipe.fill();
    pipe.set_nonblocking(true);
    let server = Coring::start_unread(coring(&["--stats"]), pipe.writer());
    let filling = thread::spawn(move || pipe.read_to_end());
    assert_eq!(server.stop().code, Some(0));
    let text = String::from_utf8(filling.join().expect("a reader")).expect("text");
    let text = text.trim_start_matches('.');
    assert!(text.starts_with("coring "), "{text}");
    for word in ["  serves  ", "draining: ", "\nlog_lines_dropped 0 ["] {
        assert!(text.contains(word), "no `{word}` in {text}");
    }
}

/// The server is another process, which runs this test to have a service that panics.
#[test]
fn a_panic_does_not_hold_up_a_worker_whose_standard_error_is_full() {
    const SERVES: &str = "CORING_TEST_SERVES_PANICS";
    if env::var_os(SERVES).is_some() {
        messages::report_panics();
        let bind = env::var("CORING_BIND").expect("an address");
        let served = builder().bind(bind).cores(1).serve(|| {
            async |request: Request| match request.path() {
                "/" => Response::html(HELLO),
                _ => panic!("as it was asked to"),
            }
        });
        return served.expect("a server");
    }
    let this = env::current_exe().expect("a path");
    let name = "messages::a_panic_does_not_hold_up_a_worker_whose_standard_error_is_full";
    let mut command = Command::new(this);
    command
        .args(["--exact", name, "--nocapture"])
        .env(SERVES, "1");
    let pipe = StalledPipe::new();
    let server = Coring::start_unread(command, pipe.writer());
    pipe.fill();
    for _ in 0..10 {
        assert_eq!(get(&server, "/panic").status, 500);
        assert_eq!(server.ask(GET).text(), HELLO);
    }
    drop(server);
    let text = String::from_utf8(pipe.read_to_end()).expect("text");
    assert!(!text.contains("panic"), "{text}");
}
