//! Python applications while coring lacks descriptors.

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::support::{
    Client, Coring, eventually, get, head_with_length, request, run_application, wait_for_notes,
};

/// Lets the server open no descriptor with the number `files` or a higher one. The result undoes
/// that.
fn limit_descriptors(server: &Coring, files: u64) -> impl FnOnce() {
    let pid = Pid::from_raw(server.pid().cast_signed());
    let set = move |limit| prlimit(pid, Resource::Nofile, limit).expect("our own process");
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(files);
    let before = set(Rlimit { current, maximum });
    move || {
        set(before);
    }
}

/// Fewer than the server has at any time.
const NONE_FREE: u64 = 8;

/// A connection that the server has accepted. The request is not one for the application.
fn accepted(server: &Coring) -> Client {
    let mut client = server.connect();
    client.send(request("OPTIONS", "*", &[]));
    assert_eq!(client.response().status, 204);
    client
}

/// More requests wait than the socket holds that the worker receives from.
#[test]
fn requests_that_wait_are_answered_though_there_are_no_descriptors_left() {
    let (server, directory) = run_application("wsgi", &["-k", "sync", "--cores", "1"]);
    let mut slow = server.connect();
    slow.send(get("/wait/release"));
    wait_for_notes(&directory, "wait release", 1);
    let mut clients: Vec<Client> = (0..250).map(|_| accepted(&server)).collect();
    let undo = limit_descriptors(&server, NONE_FREE);
    let long = request("GET", "/", &[&format!("X: {}", "x".repeat(12_000))]);
    for client in &mut clients {
        client.send(&long);
    }
    directory.write("release", "");
    assert_eq!(slow.response().text(), "waited");
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    undo();
    assert_eq!(server.get("/").text(), "hello");
    assert_eq!(server.stop().code, Some(0));
}

/// A core learns of its workers when it has its first request.
#[test]
fn a_core_meets_its_workers_though_there_are_no_descriptors_left() {
    for (name, flags) in [("wsgi", &["-k", "sync"][..]), ("asgi", &[])] {
        let flags = [flags, &["-w", "2", "--cores", "1", "--queue-timeout", "5s"]].concat();
        let (server, _directory) = run_application(name, &flags);
        let mut client = accepted(&server);
        let undo = limit_descriptors(&server, NONE_FREE);
        client.send(get("/"));
        assert_eq!(client.response().text(), "hello", "{name}");
        undo();
        assert_eq!(server.get("/").text(), "hello", "{name}");
        assert_eq!(server.stop().code, Some(0));
    }
}

/// A body that is kept in a file has a descriptor besides that of its client. Other clients still
/// get a response when these have taken all that they may.
#[test]
fn clients_get_a_response_while_bodies_hold_all_descriptors() {
    const FILES: u64 = 256;
    let (server, _directory) = run_application("wsgi", &["-k", "sync", "--cores", "1"]);
    assert_eq!(server.get("/").text(), "hello");
    let open = fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("a running process");
    let undo = limit_descriptors(&server, FILES);
    let count = FILES.saturating_sub(open.count() as u64).div_ceil(2);
    let mut uploads: Vec<Client> = (0..count).map(|_| accepted(&server)).collect();
    for upload in &mut uploads {
        upload.send(head_with_length("POST", "/digest", 1 << 20));
    }
    // A quarter of the descriptors is reserved, so the last ones have no file.
    for upload in uploads.iter_mut().rev().take(40) {
        assert_eq!(upload.response().status, 503);
    }
    let status = server.get("/").status;
    assert!(matches!(status, 200 | 503), "{status}");
    drop(uploads);
    eventually("a response after the uploads", || {
        (server.get("/").status == 200).then_some(())
    });
    undo();
    let stderr = server.stop().stderr;
    assert!(
        stderr.contains("a request body cannot be kept: "),
        "{stderr}"
    );
}
