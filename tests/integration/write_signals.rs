//! Signals caused by failed writes: coring's own writes raise neither SIGPIPE nor SIGXFSZ, also in
//! a program that handles these signals itself. The children that a service starts get them.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use coring::{AccessLog, Files, Request, Response, fs::Root, process};
use rustix::io::Errno;
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
            let mut options = fs::OpenOptions::new();
            options.read(true).write(true).open(&log).expect("a pipe")
        });
        let logged = builder().access_log(AccessLog::File(log.into()));
        let server = Local::start_with(logged, || async |_: Request| Response::text(""));
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

/// The mask of blocked signals in the text of `/proc/…/status`.
fn blocked(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    u64::from_str_radix(mask.expect("a mask").trim(), 16).expect("a number")
}

/// A child gets both signals unblocked, as from a shell. The worker that starts it keeps them
/// blocked, and a failed write before the start raises no signal.
#[test]
fn a_child_can_be_ended_by_the_signal_of_a_failed_write() {
    if !is_alone("write_signals::a_child_can_be_ended_by_the_signal_of_a_failed_write") {
        return;
    }
    let raised = watch(SIGPIPE);
    let server = Local::start(|| {
        async |request: Request| {
            let (reader, writer) = io::pipe().expect("a pipe");
            drop(reader);
            assert_eq!(rustix::io::write(&writer, b"x"), Err(Errno::PIPE));
            let mut command = Command::new(&request.path()[1..]);
            command.arg("/proc/self/status").stdout(Stdio::piped());
            let mut child = process::spawn(&mut command).expect("a child");
            if request.path() == "/yes" {
                drop(child.stdout.take());
            }
            let output = coring::task::blocking(move || child.wait_with_output());
            let output = output.await.expect("a thread").expect("an exit");
            let own = fs::read_to_string("/proc/thread-self/status").expect("a status");
            let text = String::from_utf8(output.stdout).expect("text");
            Response::text(match output.status.signal() {
                Some(signal) => format!("signal {signal}"),
                None => format!("{:x} {:x}", blocked(&text), blocked(&own)),
            })
        }
    });
    let mut client = server.connect();
    client.send(get("/cat"));
    let both = 1_u64 << (SIGPIPE - 1) | 1 << (SIGXFSZ - 1);
    assert_eq!(client.response().text(), format!("0 {both:x}"));
    client.send(get("/yes"));
    assert_eq!(client.response().text(), format!("signal {SIGPIPE}"));
    server.stop();
    assert!(!raised.load(Ordering::Relaxed), "SIGPIPE in the server");
}
