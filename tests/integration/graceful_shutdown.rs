//! How the program ends: it drains, and every connection that it had accepted gets its responses.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use coring::{Request, Response};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::support::{
    Address, Client, Coring, Family, GET, GET_AND_CLOSE, HELLO, Local, ReceivedResponse,
    eventually, get, head_with_chunks, head_with_length, is_alone, nap, read_until_told_to_close,
    request,
};

/// For a second after TERM coring accepts new requests on open connections. A request that is sent
/// this long after TERM is safely within that second.
const WITHIN_GRACE: Duration = Duration::from_millis(500);

#[test]
fn idle_connections_get_one_more_response() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &[]);
        let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(GET);
            assert!(!client.response().closes());
        }
        server.signal(Signal::TERM);
        clients.iter_mut().for_each(read_until_told_to_close);
        assert_eq!(server.wait().code, Some(0));
    }
}

#[test]
fn connections_without_a_request_get_a_response() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &[]);
        let mut clients: Vec<Client> = (0..200).map(|_| server.connect()).collect();
        server.signal(Signal::TERM);
        clients.iter_mut().for_each(read_until_told_to_close);
        assert_eq!(server.wait().code, Some(0));
    }
}

#[test]
fn silent_connections_do_not_delay_the_exit() {
    let server = Coring::start(&[]);
    let mut silent = server.connect();
    let mut idle = server.connect();
    idle.send(GET);
    idle.response();
    assert_eq!(server.stop().code, Some(0));
    silent.expect_fin();
    idle.expect_fin();
}

#[test]
fn sigint_starts_a_drain() {
    let server = Coring::start(&[]);
    let mut client = server.connect();
    server.signal(Signal::INT);
    read_until_told_to_close(&mut client);
    assert_eq!(server.wait().code, Some(0));
}

/// Connects a client that is in the middle of an upload, which `coring echo` sends back.
#[track_caller]
fn begin_upload(server: &Coring) -> Client {
    let mut client = server.connect();
    client.send(head_with_chunks("POST", "/") + "1\r\na\r\n");
    assert_eq!(client.head().status, 200);
    assert_eq!(client.chunk().expect("the first chunk"), b"a");
    client
}

/// Waits until the server has closed its listener.
#[track_caller]
fn wait_until_closed(address: &Address) {
    eventually("the listener is closed", || Client::connect(address).err());
}

#[test]
fn pitfall_32_a_drain_finishes_running_requests() {
    let mut server = Coring::start(&["echo"]);
    let mut client = begin_upload(&server);
    server.signal(Signal::TERM);
    wait_until_closed(server.address());
    thread::sleep(Duration::from_secs(2));
    assert!(server.is_running(), "it exited during an upload");
    client.send("1\r\nb\r\n0\r\n\r\n");
    assert_eq!(client.chunk().expect("the second chunk"), b"b");
    assert_eq!(client.chunk().expect("the last chunk"), b"");
    client.expect_fin();
    assert_eq!(server.wait().code, Some(0));
}

/// The drain begins while the service waits for the body of a request.
#[test]
fn the_response_to_a_running_request_has_connection_close() {
    let server = Local::start(|| {
        async |mut request: Request| {
            let body = request.body().read(100).await;
            Response::text(body.expect("a body"))
        }
    });
    let mut client = server.connect();
    client.send(head_with_length("POST", "/", 4));
    eventually("the call", || (server.count("requests") == 1).then_some(()));
    server.drain();
    thread::sleep(WITHIN_GRACE);
    client.send("body");
    let response = client.response();
    assert_eq!(response.text(), "body");
    assert!(response.closes(), "{}", response.head);
    client.expect_fin();
    server.stop();
}

/// The rest of a request's body is not another request. So the response to an upload that is not
/// yet complete has `Connection: close`, however the body is split.
#[test]
fn the_response_to_an_upload_in_a_drain_has_connection_close() {
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
        assert!(!client.response().closes());
    }
    server.signal(Signal::TERM);
    thread::sleep(WITHIN_GRACE);
    for (client, (framing, first, _)) in clients.iter_mut().zip(uploads) {
        client.send(request("POST", "/", &[framing]) + first);
    }
    thread::sleep(WITHIN_GRACE);
    for (client, (framing, first, rest)) in clients.iter_mut().zip(uploads) {
        client.send(rest);
        let response = client.response();
        assert_eq!(response.text(), "hello");
        assert!(response.closes(), "{framing}, {first:?}: {}", response.head);
        client.expect_fin();
    }
    assert_eq!(server.wait().code, Some(0));
}

/// Requests that arrive while the service is busy get a response, too. Only the last response has
/// `Connection: close`. A request that exactly fills a receive buffer is the last one, too.
#[test]
fn queued_requests_get_a_response_before_the_close() {
    let server = Local::start(|| {
        async |request: Request| {
            nap(WITHIN_GRACE).await;
            Response::text(request.path().to_owned())
        }
    });
    let (mut two, mut alone) = (server.connect(), server.connect());
    two.send(get("/first"));
    let path_len = 4096 - get("").len();
    alone.send(get(&format!("/{}", "x".repeat(path_len - 1))));
    eventually("both calls", || {
        (server.count("requests") == 2).then_some(())
    });
    two.send(get("/second"));
    server.drain();
    let response = two.response();
    assert_eq!(response.text(), "/first");
    assert!(!response.closes(), "{}", response.head);
    let response = two.response();
    assert_eq!(response.text(), "/second");
    assert!(response.closes(), "{}", response.head);
    two.expect_fin();
    let response = alone.response();
    assert_eq!(response.body.len(), path_len);
    assert!(response.closes(), "{}", response.head);
    alone.expect_fin();
    server.stop();
}

#[test]
fn a_second_signal_ends_the_program_at_once() {
    let server = Coring::start(&["echo"]);
    let mut client = begin_upload(&server);
    server.signal(Signal::TERM);
    wait_until_closed(server.address());
    // Not TERM again: within a second it is one with the first.
    server.signal(Signal::INT);
    let started = Instant::now();
    assert_eq!(server.wait().code, Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "the exit took {:?}",
        started.elapsed()
    );
    client.expect_fin_or_reset();
}

#[test]
fn a_drain_ends_at_its_timeout() {
    let server = Coring::start(&["echo", "--drain-timeout", "2s"]);
    let mut client = begin_upload(&server);
    let started = Instant::now();
    assert_eq!(server.stop().stats()["closed_by_drain"], 1);
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    client.expect_fin_or_reset();
}

/// The times and the outcome of one request.
struct Outcome {
    connected_at: Instant,
    sent_at: Instant,
    response: io::Result<Option<ReceivedResponse>>,
}

impl Outcome {
    /// Asserts what a drain guarantees. A client that was connected at `term_at` gets a response
    /// if it sends within the grace period. Any other client gets a whole response or none.
    fn check(&self, term_at: Instant) {
        let guaranteed = self.connected_at < term_at && self.sent_at < term_at + WITHIN_GRACE;
        let after = |at: Instant| at.saturating_duration_since(term_at);
        let when = (after(self.connected_at), after(self.sent_at));
        match &self.response {
            Ok(Some(response)) => assert_eq!((response.status, response.text()), (200, HELLO)),
            Ok(None) => assert!(!guaranteed, "a FIN without a response, {when:?} after TERM"),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                panic!("a response cut short, {when:?} after TERM")
            }
            Err(error) => assert!(!guaranteed, "{error}, {when:?} after TERM"),
        }
    }
}

/// Sends one request on `client` and returns its outcome.
fn ask(client: &mut Client, connected_at: Instant, request: &str) -> Outcome {
    let sent_at = Instant::now();
    let response = client.exchange(request);
    Outcome {
        connected_at,
        sent_at,
        response,
    }
}

/// Opens one connection after the other, with one request each, until the listener is closed.
fn send_on_new_connections(address: &Address) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    while let Ok(mut client) = Client::connect(address) {
        outcomes.push(ask(&mut client, Instant::now(), GET_AND_CLOSE));
    }
    outcomes
}

/// Sends one request after the other on one connection until the server closes it. Asserts that
/// this does not happen before `term_sent` is set.
fn send_on_one_connection(address: &Address, term_sent: &AtomicBool) -> Vec<Outcome> {
    let mut client = Client::connect(address).expect("a connection before TERM");
    let connected_at = Instant::now();
    let mut outcomes = Vec::new();
    loop {
        let last = ask(&mut client, connected_at, GET);
        let closes = last
            .response
            .as_ref()
            .is_ok_and(|response| response.as_ref().is_none_or(ReceivedResponse::closes));
        let is_error = last.response.is_err();
        outcomes.push(last);
        if closes {
            let is_draining = term_sent.load(Ordering::Relaxed);
            assert!(is_draining, "the server closed a connection before TERM");
        }
        if closes || is_error {
            return outcomes;
        }
    }
}

/// Sends TERM under load and checks the outcome of each request. Returns the number of requests.
fn drain_under_load() -> usize {
    let server = Coring::start(&[]);
    let address = server.address().clone();
    let term_sent = AtomicBool::new(false);
    thread::scope(|scope| {
        let new = (0..4).map(|_| scope.spawn(|| send_on_new_connections(&address)));
        let kept = (0..16).map(|_| scope.spawn(|| send_on_one_connection(&address, &term_sent)));
        let clients: Vec<ScopedJoinHandle<'_, _>> = new.chain(kept).collect();
        thread::sleep(Duration::from_millis(300));
        term_sent.store(true, Ordering::Relaxed);
        let term_at = Instant::now();
        server.signal(Signal::TERM);
        let outcomes = clients
            .into_iter()
            .map(|client| client.join().expect("no panic in a client"));
        let outcomes: Vec<Outcome> = outcomes.flatten().collect();
        outcomes.iter().for_each(|outcome| outcome.check(term_at));
        assert_eq!(server.wait().code, Some(0));
        outcomes.len()
    })
}

#[test]
fn pitfall_32_every_accepted_connection_gets_its_responses_under_load() {
    for _ in 0..10 {
        assert!(drain_under_load() > 100, "too few requests to be a load");
    }
}

/// The kernel completes the connections while the server is stopped. They are still in the
/// backlog when the server receives TERM.
#[test]
fn pitfall_15_connections_in_the_backlog_get_a_response() {
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
                assert_eq!(client.response().text(), HELLO);
            }
            drop(clients);
            assert_eq!(server.wait().code, Some(0));
        }
    }
}

/// The backlog has more connections than the process has descriptors. Each finished connection
/// frees a descriptor for the next.
#[test]
fn a_backlog_that_exceeds_the_descriptors_gets_its_responses() {
    if !is_alone("graceful_shutdown::a_backlog_that_exceeds_the_descriptors_gets_its_responses") {
        return;
    }
    // The worker does nothing else while the service waits here.
    let gate = Arc::new(Barrier::new(2));
    let held = gate.clone();
    let server = Local::start(move || {
        let held = held.clone();
        async move |request: Request| {
            if request.path() == "/hold" {
                held.wait();
                held.wait();
            }
            Response::html(HELLO)
        }
    });
    let mut holder = server.connect();
    holder.send(get("/hold"));
    gate.wait();
    let mut clients: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    let open = fs::read_dir("/proc/self/fd").expect("this process's descriptors");
    let few = Rlimit {
        current: Some(open.count() as u64 + 10),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    setrlimit(Resource::Nofile, few).expect("a lower limit");
    server.drain();
    gate.wait();
    // The clients keep their descriptors, which would make room for the server.
    for client in &mut clients {
        assert_eq!(client.response().text(), HELLO);
        client.half_close();
    }
    server.wait();
}
