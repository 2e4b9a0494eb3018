//! Signals caused by failed writes: coring's own writes raise neither SIGPIPE nor SIGXFSZ, also in
//! a program that handles these signals itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use coring::{AccessLog, Files, fs::Root};
use rustix::process::{Resource, Rlimit, setrlimit};
use signal_hook::consts::{SIGPIPE, SIGXFSZ};

use crate::support::{GET, Local, TempDir, builder, eventually, get, is_alone, noise, run};

/// A flag that is set when `signal` reaches any thread of this process.
fn watch(signal: i32) -> Arc<AtomicBool> {
    let raised = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal, raised.clone()).expect("a handler");
    raised
}

#[test]
fn a_client_that_resets_during_a_file_raises_no_signal() {
    if !is_alone("write_signals::a_client_that_resets_during_a_file_raises_no_signal") {
        return;
    }
    let raised = watch(SIGPIPE);
    let directory = TempDir::new();
    directory.write("file", noise(20_000_000));
    let root = Root::open(directory.path()).expect("a directory");
    let server = Local::start(move || Files::new(root.clone()));
    for round in 0..40 {
        let mut client = server.connect();
        client.send(get("/file"));
        assert_eq!(client.head().status, 200);
        // If the client half-closed before the reset, the send fails with EPIPE, not ECONNRESET.
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
    if !is_alone("write_signals::an_access_log_that_cannot_be_written_raises_no_signal") {
        return;
    }
    let (raised, too_large) = (watch(SIGPIPE), watch(SIGXFSZ));
    let directory = TempDir::new();
    let pipe = directory.file("pipe");
    run("mkfifo", &[&pipe]);
    let limit = Rlimit {
        current: Some(10),
        maximum: None,
    };
    setrlimit(Resource::Fsize, limit).expect("a lower limit");
    for log in [pipe, directory.file("log")] {
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
        client.send(GET);
        assert_eq!(client.response().status, 200);
        drop(client);
        server.stop();
    }
    assert!(!raised.load(Ordering::Relaxed), "SIGPIPE");
    assert!(!too_large.load(Ordering::Relaxed), "SIGXFSZ");
}
