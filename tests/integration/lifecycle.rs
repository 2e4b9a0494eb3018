//! How coring ends: it drains, and keeps its word to everyone whose connection it had accepted.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use coring::{Request, Response};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use crate::support::{
    Address, Answer, Client, Coring, Family, GET, HELLO, Local, eventually, is_told_to_leave, nap,
};

/// Requests that arrive this long after TERM are within the second of grace, with room to spare.
const WITHIN_GRACE: Duration = Duration::from_millis(500);

#[test]
fn idle_connections_are_answered_once_more() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &[]);
        let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(GET);
            assert!(!client.answer().closes());
        }
        server.signal(Signal::TERM);
        clients.iter_mut().for_each(is_told_to_leave);
        assert_eq!(server.wait().code, Some(0));
    }
}

#[test]
fn connections_that_never_spoke_are_answered() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &[]);
        let mut clients: Vec<Client> = (0..200).map(|_| server.connect()).collect();
        server.signal(Signal::TERM);
        clients.iter_mut().for_each(is_told_to_leave);
        assert_eq!(server.wait().code, Some(0));
    }
}

#[test]
fn silent_connections_do_not_hold_up_the_end() {
    let server = Coring::start(&[]);
    let mut silent = server.connect();
    let mut idle = server.connect();
    idle.send(GET);
    idle.answer();
    assert_eq!(server.stop().code, Some(0));
    silent.ends();
    idle.ends();
}

#[test]
fn interrupt_drains_too() {
    let server = Coring::start(&[]);
    let mut client = server.connect();
    server.signal(Signal::INT);
    is_told_to_leave(&mut client);
    assert_eq!(server.wait().code, Some(0));
}

/// A client in the middle of an upload that `echo` streams back.
#[track_caller]
fn upload_begun(server: &Coring) -> Client {
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    assert_eq!(client.head().status, 200);
    assert_eq!(client.chunk().expect("the first chunk"), b"a");
    client
}

/// Nobody listens there any more.
#[track_caller]
fn is_closed(address: &Address) {
    eventually("the listener's end", || Client::connect(address).err());
}

#[test]
fn pitfall_32_what_runs_is_finished_first() {
    let mut server = Coring::start(&["echo"]);
    let mut client = upload_begun(&server);
    server.signal(Signal::TERM);
    is_closed(server.address());
    thread::sleep(Duration::from_secs(2));
    assert!(server.is_running(), "it left an upload behind");
    client.send("1\r\nb\r\n0\r\n\r\n");
    assert_eq!(client.chunk().expect("the second chunk"), b"b");
    assert_eq!(client.chunk().expect("the last chunk"), b"");
    client.ends();
    assert_eq!(server.wait().code, Some(0));
}

/// The service has the request when the drain begins, and answers later.
#[test]
fn what_runs_is_told_to_leave() {
    let server = Local::start(|| {
        async |mut request: Request| {
            let body = request.body().read(100).await;
            Response::text(body.expect("a body"))
        }
    });
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
    eventually("the call", || (server.count("requests") == 1).then_some(()));
    server.drain();
    thread::sleep(WITHIN_GRACE);
    client.send("body");
    let answer = client.answer();
    assert_eq!(answer.text(), "body");
    assert!(answer.closes(), "{}", answer.head);
    client.ends();
    server.stop();
}

/// Bytes of a request's own body are not another request: the answer to an upload that is not yet
/// complete says that it is the last one.
#[test]
fn an_upload_in_a_drain_is_told_to_leave() {
    let chunked = "Transfer-Encoding: chunked";
    let uploads = [
        ("Content-Length: 5", "hello", ""),
        ("Content-Length: 5", "he", "llo"),
        ("Content-Length: 5", "", "hello"),
        (chunked, "", "5\r\nhello\r\n0\r\n\r\n"),
        (chunked, "5", "\r\nhello\r\n0\r\n\r\n"),
        (chunked, "5\r\nhe", "llo\r\n0\r\n\r\n"),
        (chunked, "5\r\nhello\r\n", "0\r\n\r\n"),
        (chunked, "2\r\nhe\r\n3\r\nllo\r\n", "0\r\n\r\n"),
        (chunked, "5\r\nhello\r\n0\r\nA: b", "\r\n\r\n"),
    ];
    let server = Coring::start(&["echo"]);
    let mut clients: Vec<Client> = uploads.iter().map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(GET);
        assert!(!client.answer().closes());
    }
    server.signal(Signal::TERM);
    thread::sleep(WITHIN_GRACE);
    for (client, (framing, first, _)) in clients.iter_mut().zip(uploads) {
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{first}"
        ));
    }
    thread::sleep(WITHIN_GRACE);
    for (client, (framing, first, rest)) in clients.iter_mut().zip(uploads) {
        client.send(rest);
        let answer = client.answer();
        assert_eq!(answer.text(), "hello");
        assert!(answer.closes(), "{framing}, {first:?}: {}", answer.head);
        client.ends();
    }
    assert_eq!(server.wait().code, Some(0));
}

/// What has come while the service was at work is answered, too; only the last answer says so. A
/// request that fills a block of memory is followed by nothing all the same.
#[test]
fn what_waits_is_answered_before_it_is_told_to_leave() {
    let server = Local::start(|| {
        async |request: Request| {
            nap(WITHIN_GRACE).await;
            Response::text(request.path().to_owned())
        }
    });
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut two, mut alone) = (server.connect(), server.connect());
    two.send(request("/first"));
    let path_len = 4096 - request("").len();
    alone.send(request(&format!("/{}", "x".repeat(path_len - 1))));
    eventually("both calls", || {
        (server.count("requests") == 2).then_some(())
    });
    two.send(request("/second"));
    server.drain();
    let answer = two.answer();
    assert_eq!(answer.text(), "/first");
    assert!(!answer.closes(), "{}", answer.head);
    let answer = two.answer();
    assert_eq!(answer.text(), "/second");
    assert!(answer.closes(), "{}", answer.head);
    two.ends();
    let answer = alone.answer();
    assert_eq!(answer.body.len(), path_len);
    assert!(answer.closes(), "{}", answer.head);
    alone.ends();
    server.stop();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let server = Coring::start(&["echo"]);
    let mut client = upload_begun(&server);
    server.signal(Signal::TERM);
    is_closed(server.address());
    server.signal(Signal::TERM);
    let started = Instant::now();
    assert_eq!(server.wait().code, Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "not at once: {:?}",
        started.elapsed()
    );
    client.broken();
}

#[test]
fn draining_has_a_limit() {
    let server = Coring::start(&["echo", "--drain-timeout", "2s"]);
    let mut client = upload_begun(&server);
    let started = Instant::now();
    assert_eq!(server.stop().stats()["closed_by_drain"], 1);
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    client.broken();
}

/// What one client saw of one request.
struct Seen {
    connected_at: Instant,
    sent_at: Instant,
    answer: io::Result<Option<Answer>>,
}

impl Seen {
    /// Holds coring to its word: who was connected before `term_at` is answered, and so is who was
    /// not, or the connection is refused; nothing in between.
    fn judge(&self, term_at: Instant) {
        let promised = self.connected_at < term_at && self.sent_at < term_at + WITHIN_GRACE;
        let after = |at: Instant| at.saturating_duration_since(term_at);
        let when = (after(self.connected_at), after(self.sent_at));
        match &self.answer {
            Ok(Some(answer)) => assert_eq!((answer.status, answer.text()), (200, HELLO)),
            Ok(None) => assert!(!promised, "ended without an answer, {when:?} after TERM"),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                panic!("an answer cut short, {when:?} after TERM")
            }
            Err(error) => assert!(!promised, "{error}, {when:?} after TERM"),
        }
    }
}

/// Sends one request on `client` and keeps what came of it.
fn ask(client: &mut Client, connected_at: Instant, request: &str) -> Seen {
    let sent_at = Instant::now();
    let answer = client.exchange(request);
    Seen {
        connected_at,
        sent_at,
        answer,
    }
}

/// One connection after the other, each with one request, until nobody listens.
fn new_connections(address: &Address) -> Vec<Seen> {
    let mut seen = Vec::new();
    while let Ok(mut client) = Client::connect(address) {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        seen.push(ask(&mut client, Instant::now(), request));
    }
    seen
}

/// One request after the other on one connection, until it ends; whether it was said to.
fn kept_connection(address: &Address, over: &AtomicBool) -> Vec<Seen> {
    let mut client = Client::connect(address).expect("a connection before TERM");
    let connected_at = Instant::now();
    let mut seen = Vec::new();
    loop {
        let last = ask(&mut client, connected_at, GET);
        let closes = last
            .answer
            .as_ref()
            .is_ok_and(|answer| answer.as_ref().is_none_or(Answer::closes));
        let is_error = last.answer.is_err();
        seen.push(last);
        if closes {
            assert!(over.load(Ordering::Relaxed), "told to leave before TERM");
        }
        if closes || is_error {
            return seen;
        }
    }
}

/// TERM under load; how many requests were judged.
fn drain_under_load() -> usize {
    let server = Coring::start(&[]);
    let address = server.address().clone();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let fresh = (0..4).map(|_| scope.spawn(|| new_connections(&address)));
        let kept = (0..16).map(|_| scope.spawn(|| kept_connection(&address, &over)));
        let clients: Vec<ScopedJoinHandle<'_, _>> = fresh.chain(kept).collect();
        thread::sleep(Duration::from_millis(300));
        over.store(true, Ordering::Relaxed);
        let term_at = Instant::now();
        server.signal(Signal::TERM);
        let seen = clients
            .into_iter()
            .map(|client| client.join().expect("a client"));
        let seen: Vec<Seen> = seen.flatten().collect();
        seen.iter().for_each(|seen| seen.judge(term_at));
        assert_eq!(server.wait().code, Some(0));
        seen.len()
    })
}

#[test]
fn pitfall_32_everyone_accepted_is_answered_under_load_ten_times() {
    for _ in 0..10 {
        assert!(drain_under_load() > 100, "hardly a load");
    }
}

/// Connections that the kernel made while the server was stopped, so that it has yet to take them
/// when it is told to end.
#[test]
fn pitfall_15_a_backlog_is_answered() {
    for family in Family::ALL {
        for _ in 0..3 {
            let server = Coring::start_on(family, &[]);
            server.signal(Signal::STOP);
            let mut clients: Vec<Client> = (0..200).map(|_| server.connect()).collect();
            server.signal(Signal::TERM);
            server.signal(Signal::CONT);
            for client in &mut clients {
                client.send(GET);
            }
            for client in &mut clients {
                assert_eq!(client.answer().text(), HELLO);
            }
            drop(clients);
            assert_eq!(server.wait().code, Some(0));
        }
    }
}

/// Who is answered gives a descriptor back.
#[test]
fn a_backlog_is_answered_though_descriptors_run_out() {
    let server = Coring::start(&["--cores", "1"]);
    server.signal(Signal::STOP);
    let mut clients: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    let open = fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("our own child");
    let few = Rlimit {
        current: Some(open.count() as u64 + 10),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a pid"));
    prlimit(pid, Resource::Nofile, few).expect("our own child");
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    for mut client in clients {
        assert_eq!(client.answer().text(), HELLO);
    }
    assert_eq!(server.wait().code, Some(0));
}
