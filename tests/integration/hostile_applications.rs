//! Applications that misuse the link between coring and its workers: they write to its sockets,
//! flood them, or shut them. Other clients of the same core are served meanwhile.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    Client, Coring, TempDir, assert_bytes_below, children, digest, eventually, get,
    head_with_length, noise, private_bytes, run_application, wait_for_two_workers,
};

/// Longer than anything here takes that does not wait for a flood, also on a busy machine. Floods
/// do not end.
const PROMPT: Duration = Duration::from_secs(15);

/// The application with two workers, served by one core, and a directory of files beside it.
fn run_hostile(flags: &[&str]) -> (Coring, [TempDir; 2]) {
    let files = TempDir::new();
    files.write("a.txt", "from a file");
    let mount = format!("/static={}", files.path().display());
    let fixed = ["-k", "sync", "-w", "2", "--cores", "1", "--static", &mount];
    let (server, directory) = run_application("hostile", &[&fixed[..], flags].concat());
    wait_for_two_workers(&server);
    (server, [files, directory])
}

/// Asks for a file and for a response of the application, each of which must come promptly.
fn expect_prompt(server: &Coring) {
    for _ in 0..3 {
        for path in ["/static/a.txt", "/pid"] {
            let started = Instant::now();
            let status = server.get(path).status;
            let elapsed = started.elapsed();
            assert!(
                status == 200 && elapsed < PROMPT,
                "{path} {status} {elapsed:?}"
            );
        }
    }
}

/// Waits for a line on standard error.
fn expect_line(server: &Coring, text: &str) {
    eventually(text, || server.stderr().contains(text).then_some(()));
}

fn signal(pid: Pid, signal: Signal) {
    kill_process(pid, signal).expect("a running process");
}

fn count_descriptors(server: &Coring) -> usize {
    let path = format!("/proc/{}/fd", server.pid());
    fs::read_dir(path).expect("a running process").count()
}

/// The flooding processes hold the worker's sockets also after its death.
#[test]
fn a_flood_of_valid_messages_holds_no_other_client() {
    for len in [0, 65_536] {
        let (server, _directories) = run_hostile(&[]);
        let body = server.get(&format!("/flood/{len}")).text().to_owned();
        for _ in 0..20 {
            let started = Instant::now();
            assert_eq!(server.get("/static/a.txt").text(), "from a file");
            assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
        }
        // Either worker may have this one, also the one that has no room for its response.
        assert_eq!(server.get("/pid").status, 200);
        let pid = body.parse().expect("the flooding worker");
        signal(Pid::from_raw(pid).expect("a process"), Signal::KILL);
        expect_prompt(&server);
        assert_eq!(server.stop().code, Some(0));
    }
}

/// The worker rings, but its socket is filled again before it can send. When that ends, nothing
/// rings.
#[test]
fn a_response_comes_after_a_flood_that_does_not_ring() {
    let (server, _directories) = run_hostile(&[]);
    for _ in 0..2 {
        assert_eq!(server.get("/fill").status, 200);
        for _ in 0..4 {
            assert_eq!(server.get("/pid").status, 200);
        }
    }
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn a_worker_that_sends_many_invalid_messages_is_ended() {
    for path in ["/garbage", "/few/1024", "/empty/1024"] {
        let (server, _directories) = run_hostile(&[]);
        let _ = server.connect().exchange(&get(path));
        assert_eq!(server.get("/static/a.txt").text(), "from a file");
        expect_line(&server, "it has sent 1024 messages that are not valid");
        let text = server.stderr();
        assert_eq!(text.matches("that is dropped").count(), 8, "{text}");
        expect_line(&server, "another one is started");
        expect_prompt(&server);
        assert_eq!(server.stop().code, Some(0));
    }
}

#[test]
fn a_worker_that_sends_few_invalid_messages_goes_on() {
    let (server, _directories) = run_hostile(&[]);
    assert_eq!(server.get("/few/1000").status, 200);
    expect_line(&server, "further ones are not reported");
    expect_prompt(&server);
    let text = server.stop().stderr;
    assert!(!text.contains("is killed"), "{text}");
}

/// 0: nothing is received, 1: nothing is sent.
#[test]
fn a_worker_that_shuts_its_socket_is_ended() {
    let (server, _directories) = run_hostile(&[]);
    let _ = server.connect().exchange(&get("/shut/1"));
    expect_line(&server, "another one is started");
    expect_prompt(&server);
    assert_eq!(server.stop().code, Some(0));
}

/// The kernel closes the descriptors of a message that is received without room for them.
#[test]
fn descriptors_that_a_worker_sends_do_not_reach_coring() {
    let (server, _directories) = run_hostile(&[]);
    let before = count_descriptors(&server);
    for _ in 0..4 {
        assert_eq!(server.get("/descriptors/20").status, 200);
    }
    let after = count_descriptors(&server);
    assert!(after < before + 20, "{before} {after}");
    expect_prompt(&server);
    assert_eq!(server.stop().code, Some(0));
}

/// Nothing of a dead worker stays open.
#[test]
fn descriptors_of_dead_workers_are_closed() {
    let (server, _directories) = run_hostile(&[]);
    let before = count_descriptors(&server);
    for count in 1..=8 {
        let _ = server.connect().exchange(&get("/die"));
        eventually("another worker", || {
            let started = server.stderr().matches("another one is started").count();
            (started == count && children(server.pid()).len() == 2).then_some(())
        });
    }
    eventually("closed descriptors", || {
        (count_descriptors(&server) < before + 8).then_some(())
    });
    assert_eq!(server.stop().code, Some(0));
}

/// The first response to a request stands, and its length is kept to.
#[test]
fn a_request_has_one_response_of_the_length_that_it_states() {
    let (server, _directories) = run_hostile(&[]);
    let mut client = server.connect();
    client.send(get("/twice"));
    assert_eq!(client.response().text(), "first");
    client.send(get("/static/a.txt"));
    assert_eq!(client.response().text(), "from a file");
    let mut client = server.connect();
    client.send(get("/more"));
    assert_eq!(client.head().field("content-length"), Some("5"));
    assert_eq!(client.rest().expect("an end"), b"first");
    expect_prompt(&server);
    assert_eq!(server.stop().code, Some(0));
}

/// A response that is sent faster than was granted is cut.
#[test]
fn a_response_beyond_its_credit_is_cut() {
    let (server, _directories) = run_hostile(&[]);
    let mut client = server.connect();
    client.set_receive_buffer(4096);
    client.send(get("/credit/256"));
    assert_eq!(client.head().status, 200);
    expect_line(&server, "beyond the credit");
    let body = client.rest().unwrap_or_default();
    assert!(body.len() < 256 << 16 && !body.ends_with(b"0\r\n\r\n"));
    expect_prompt(&server);
    assert_eq!(server.stop().code, Some(0));
}

/// While an event loop does not read its socket, bodies for it wait in their clients' sockets.
#[test]
fn uploads_to_a_worker_that_does_not_read_take_no_memory() {
    const BODY_BYTES: usize = 256 << 10;
    let (server, _directory) = run_application("asgi", &[]);
    let [worker] = children(server.pid())[..] else {
        panic!("one worker");
    };
    assert_eq!(server.get("/").status, 200);
    signal(worker, Signal::STOP);
    let before = private_bytes(server.pid());
    let body = noise(BODY_BYTES);
    let mut clients: Vec<_> = (0..200).map(|_| server.connect()).collect();
    thread::scope(|scope| {
        for client in &clients {
            let (mut upload, body) = (client.twin(), &body);
            scope.spawn(move || {
                upload.send(head_with_length("POST", "/digest", BODY_BYTES));
                upload.send(body);
            });
        }
        thread::sleep(Duration::from_secs(2));
        let after = private_bytes(server.pid());
        signal(worker, Signal::CONT);
        assert_bytes_below(after, before + (24 << 20));
    });
    for client in &mut clients {
        assert_eq!(client.response().text(), digest(&body));
    }
    assert_eq!(server.stop().code, Some(0));
}

/// Two workers stand still, and one of them is killed: the request that it has not received goes to
/// the other one, with what had followed it.
#[test]
fn a_body_follows_its_request_to_another_worker() {
    let (server, _directory) = run_application("asgi", &["-w", "2", "--cores", "1"]);
    eventually("two workers that are ready", || {
        let mut clients = [server.connect(), server.connect()];
        clients
            .iter_mut()
            .for_each(|client| client.send(get("/pid")));
        let [one, other] = clients.map(|mut client| client.response().text().to_owned());
        (one != other).then_some(())
    });
    let workers = children(server.pid());
    workers.iter().for_each(|pid| signal(*pid, Signal::STOP));
    let body = noise(600_000);
    let mut clients = [server.connect(), server.connect()];
    thread::scope(|scope| {
        for client in &clients {
            let (mut upload, body) = (client.twin(), &body);
            scope.spawn(move || {
                upload.send(head_with_length("POST", "/digest", body.len()));
                upload.send(body);
            });
        }
        thread::sleep(Duration::from_millis(500));
        signal(workers[0], Signal::KILL);
        thread::sleep(Duration::from_millis(500));
        signal(workers[1], Signal::CONT);
        for client in &mut clients {
            assert_eq!(client.response().text(), digest(&body));
        }
    });
    assert_eq!(server.stop().code, Some(0));
}

/// Requests that were received and not begun do not count as waiting for ever, also if their
/// clients have gone.
#[test]
fn requests_that_are_swallowed_make_room_at_their_deadlines() {
    let (server, _directories) = run_hostile(&["--queue", "4", "--queue-timeout", "1s"]);
    assert_eq!(server.get("/swallow/3").status, 200);
    // Most of these are swallowed, and the last ones are refused.
    let mut clients: Vec<_> = (0..40).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(get("/pid"));
        thread::sleep(Duration::from_millis(10));
    }
    clients.into_iter().for_each(Client::reset);
    thread::sleep(Duration::from_secs(5));
    expect_prompt(&server);
    assert_eq!(server.stop().code, Some(0));
}
