//! The library in a program with signal dispositions of its own: a failed write is an error, never
//! a signal.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, thread};

use coring::{AccessLog, Files, fs::Root};
use rustix::process::{Resource, Rlimit, setrlimit};
use signal_hook::consts::{SIGPIPE, SIGXFSZ};

use crate::support::{Folder, Local, builder, eventually, noise, run};

/// Set in the process that a test has for itself.
const ALONE: &str = "CORING_TEST_ALONE";

/// Whether this process is the test's own. If not, the test named `name` is run in one.
fn is_alone(name: &str) -> bool {
    if env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = Command::new(env::current_exe().expect("the tests' own path"));
    command
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1");
    let output = command.output().expect("the tests once more");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
    false
}

/// Tells whether `signal` has reached any thread of this process.
fn watch(signal: i32) -> Arc<AtomicBool> {
    let raised = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal, raised.clone()).expect("a handler");
    raised
}

#[test]
fn a_client_that_resets_during_a_file_raises_no_signal() {
    if !is_alone("signals::a_client_that_resets_during_a_file_raises_no_signal") {
        return;
    }
    let raised = watch(SIGPIPE);
    let folder = Folder::new();
    folder.write("file", noise(20_000_000));
    let root = Root::open(folder.path()).expect("a folder");
    let server = Local::start(move || Files::new(root.clone()));
    for round in 0..40 {
        let mut client = server.connect();
        client.send("GET /file HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.head().status, 200);
        // Of a client that has ended its side the kernel says EPIPE at once, not ECONNRESET.
        if round % 2 == 0 {
            client.half_close();
        }
        thread::sleep(Duration::from_millis(round % 7));
        client.reset();
        eventually("the connection's end", || {
            (server.count("connections_open") == 0).then_some(())
        });
        assert!(!raised.load(Ordering::Relaxed), "SIGPIPE in round {round}");
    }
    server.stop();
}

#[test]
fn an_access_log_that_cannot_be_written_raises_no_signal() {
    if !is_alone("signals::an_access_log_that_cannot_be_written_raises_no_signal") {
        return;
    }
    let (raised, too_large) = (watch(SIGPIPE), watch(SIGXFSZ));
    let folder = Folder::new();
    let pipe = folder.file("pipe");
    run("mkfifo", &[&pipe]);
    let limit = Rlimit {
        current: Some(10),
        maximum: None,
    };
    setrlimit(Resource::Fsize, limit).expect("a lower limit");
    for log in [pipe, folder.file("log")] {
        let reader = log.ends_with("pipe").then(|| {
            let mut options = std::fs::OpenOptions::new();
            options.read(true).write(true).open(&log).expect("a pipe")
        });
        let logged = builder().access_log(AccessLog::File(log.into()));
        let server = Local::start_with(logged, || {
            async |_: coring::Request| coring::Response::text("")
        });
        drop(reader);
        let mut client = server.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer().status, 200);
        drop(client);
        server.stop();
    }
    assert!(!raised.load(Ordering::Relaxed), "SIGPIPE");
    assert!(!too_large.load(Ordering::Relaxed), "SIGXFSZ");
}
