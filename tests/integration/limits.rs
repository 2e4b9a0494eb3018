//! Every limit on the command line has its effect: what stays below it passes, what goes beyond it
//! is answered or cut.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use coring::{Limits, Request, Response, Server};

use crate::support::{Answer, Client, Coring, Folder, GET, Local, eventually, is_timeout, noise};

/// Long enough to tell one deadline of a second from the defaults of ten and more.
const WHILE: Duration = Duration::from_millis(200);

/// Makes a request that has the given number of something.
type RequestOf = fn(usize) -> String;

/// A head of exactly `len` bytes, padded by a field.
fn head_of(len: usize) -> String {
    let bare = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
    bare.replace("X: ", &format!("X: {}", "x".repeat(len - bare.len())))
}

/// A request with a target of `len` bytes.
fn target_of(len: usize) -> String {
    format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "t".repeat(len - 1))
}

/// A request with `count` fields.
fn fields_of(count: usize) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(count - 1)
    )
}

fn body_of(len: usize) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n{}",
        "b".repeat(len)
    )
}

fn chunks_of(len: usize) -> String {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    format!("{head}{len:x}\r\n{}\r\n0\r\n\r\n", "b".repeat(len))
}

/// With the flag at `limit`, as by default, `limit` passes and one more is answered by `status`.
#[track_caller]
fn limits(flag: &str, limit: usize, request: RequestOf, status: u16) {
    let server = Coring::start(&["echo", flag, &limit.to_string()]);
    let fits = server.ask(request(limit));
    assert_ne!(fits.status, status, "{flag} {limit}: {}", fits.head);
    assert!(!fits.closes(), "{flag} {limit}: {}", fits.head);
    let excess = server.ask(request(limit + 1));
    assert_eq!(
        (excess.status, excess.closes()),
        (status, true),
        "{flag}: {}",
        excess.head
    );
}

#[test]
fn max_head() {
    limits("--max-head", 1000, head_of, 431);
    limits("--max-head", 16384, head_of, 431);
    limits("--max-head", 65535, head_of, 431);
}

#[test]
fn max_target() {
    limits("--max-target", 1, target_of, 414);
    limits("--max-target", 100, target_of, 414);
    limits("--max-target", 8192, target_of, 414);
}

#[test]
fn max_fields() {
    for limit in [1, 10, 100, 256] {
        limits("--max-fields", limit, fields_of, 431);
    }
}

#[test]
fn max_body() {
    limits("--max-body", 1, body_of, 413);
    limits("--max-body", 1000, body_of, 413);
}

/// The answer to a chunked body may have begun before the limit is reached; then it is cut.
#[test]
fn max_body_in_chunks() {
    let server = Coring::start(&["echo", "--max-body", "1000"]);
    assert_eq!(server.ask(chunks_of(1000)).body.len(), 1000);
    let mut client = server.connect();
    client.send(chunks_of(1001));
    if let Ok(answer) = client.try_answer() {
        assert_eq!(answer.map(|answer| answer.status), Some(413));
    }
    client.broken();
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let server = Coring::start(&["echo"]);
    let rows: [(RequestOf, usize, u16); 3] = [
        (head_of, 16384, 431),
        (target_of, 8192, 414),
        (fields_of, 100, 431),
    ];
    for (request, limit, status) in rows {
        assert_eq!(server.ask(request(limit)).status, 200);
        assert_eq!(server.ask(request(limit + 1)).status, status);
    }
    let head = |len: u32| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n");
    assert_eq!(server.ask(head((16 << 20) + 1)).status, 413);
    let mut client = server.connect();
    client.send(head(16 << 20));
    let body = noise(16 << 20);
    let mut sender = client.twin();
    thread::scope(|scope| {
        scope.spawn(|| sender.send(&body));
        assert!(client.answer().body == body);
    });
}

/// The connection ends by a deadline: 408 where an answer could still be given, then the end.
#[track_caller]
fn times_out(mut client: Client) {
    match client.try_answer() {
        Ok(Some(Answer { status, head, .. })) => assert_eq!(status, 408, "{head}"),
        Ok(None) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}"),
    }
    client.broken();
}

#[track_caller]
fn counts_timeouts(server: Coring, expected: u64) {
    assert_eq!(server.stop().stats()["closed_by_timeout"], expected);
}

#[test]
fn head_timeout() {
    let server = Coring::start(&["--head-timeout", "1s"]);
    let mut half = server.connect();
    half.send("GET / HTTP/1.1\r\nHo");
    times_out(half);
    let mut later = server.connect();
    later.send(GET);
    assert_eq!(later.answer().status, 200);
    later.send("GET / HTTP/1.1\r\nHo");
    times_out(later);
    counts_timeouts(server, 2);
}

/// Each byte is progress, but a head has one deadline as a whole.
#[test]
fn pitfall_30_head_timeout_for_a_byte_at_a_time() {
    let server = Coring::start(&["--head-timeout", "1s"]);
    let mut client = server.connect();
    let mut sender = client.twin();
    thread::scope(|scope| {
        scope.spawn(move || {
            GET.bytes().take(20).all(|byte| {
                thread::sleep(WHILE);
                sender.try_send([byte]).is_ok()
            })
        });
        client.broken();
    });
    counts_timeouts(server, 1);
}

#[test]
fn head_timeout_for_a_client_that_never_speaks() {
    let server = Coring::start(&["--head-timeout", "1s"]);
    times_out(server.connect());
}

#[test]
fn idle_timeout() {
    let server = Coring::start(&["--idle-timeout", "1s"]);
    let mut client = server.connect();
    for _ in 0..3 {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
        thread::sleep(WHILE);
    }
    client.ends();
    assert_eq!(server.stop().stats()["closed_by_fault"], 0);
}

/// RFC 9112 §2.2: some clients send an empty line after a body. It begins no request.
#[test]
fn no_head_timeout_behind_an_empty_line() {
    const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n";
    let asks = |client: &mut Client| {
        client.send(POST);
        assert_eq!(client.answer().text(), "abc");
    };
    let server = Coring::start(&["echo", "--head-timeout", "1s"]);
    let mut client = server.connect();
    asks(&mut client);
    thread::sleep(Duration::from_secs(2));
    asks(&mut client);
    counts_timeouts(server, 0);

    let server = Coring::start(&["echo", "--head-timeout", "1m"]);
    let mut client = server.connect();
    asks(&mut client);
    let asked = Instant::now();
    counts_timeouts(server, 0);
    client.ends();
    let waited = asked.elapsed();
    assert!(waited < Duration::from_secs(20), "drained for {waited:?}");
}

#[test]
fn body_timeout() {
    let server = Coring::start(&["echo", "--body-timeout", "1s"]);
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let mut client = server.connect();
        client.send(request);
        times_out(client);
    }
    counts_timeouts(server, 3);
}

/// Who does not read is cut, and so can no longer hold what is queued for it.
#[test]
fn write_timeout() {
    let server = Coring::start(&["echo", "--write-timeout", "1s", "--max-body", "0"]);
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n");
    let part = noise(1 << 20);
    let sent = (0..99).find_map(|_| client.try_send(&part).err());
    let error = sent.expect("the server to stop reading");
    assert!(!is_timeout(&error), "the server holds on: {error}");
    counts_timeouts(server, 1);
}

/// Who reads slowly but steadily is not cut, though the kernel takes nothing more of the answer for
/// much longer than the limit.
#[test]
fn write_timeout_for_a_slow_reader() {
    let mut limits = Limits::default();
    limits.write_timeout = Some(Duration::from_millis(2000));
    let server = Local::start_within(limits, || {
        async |_: Request| Response::text(vec![b'x'; 32 << 20])
    });
    let mut client = server.connect();
    client.receive_at_most(1 << 20);
    client.send(GET);
    // A fast beginning, so that the server's buffer grows.
    client.take(8 << 20).expect("a piece of the answer");
    for _ in 0..50 {
        client.take(20 << 10).expect("a piece of the answer");
        thread::sleep(WHILE / 2);
    }
    assert_eq!(server.count("closed_by_timeout"), 0);
    // Then it stops.
    eventually("the end", || {
        (server.count("closed_by_timeout") == 1).then_some(())
    });
    server.stop();
}

/// An answer that is a large file is held to the rate as a whole, not send by send.
#[test]
fn min_rate_of_a_file() {
    let folder = Folder::new();
    folder.write("large", noise(40 << 20));
    let folder = folder.path().to_str().expect("a path in UTF-8");
    let limits = ["--min-rate", "8m", "--write-timeout", "2s"];
    let server = Coring::start(&[&["serve", folder][..], &limits].concat());
    let mut client = server.connect();
    client.receive_at_most(64 << 10);
    client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    let taken = (0..400).find_map(|_| {
        thread::sleep(WHILE / 2);
        client.take(100 << 10).err()
    });
    let error = taken.expect("an end before the file's");
    assert!(!is_timeout(&error), "the server holds on: {error}");
    counts_timeouts(server, 1);
}

/// There is progress all the time, but too little.
#[test]
fn min_rate() {
    let server = Coring::start(&["echo", "--min-rate", "1m", "--body-timeout", "3s"]);
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let mut sender = client.twin();
    thread::scope(|scope| {
        scope.spawn(move || {
            (0..100).all(|_| {
                thread::sleep(WHILE);
                sender.try_send("ten bytes.").is_ok()
            })
        });
        client.broken();
    });
    counts_timeouts(server, 1);
}

/// The same where a coroutine of its own reads the body.
#[test]
fn min_rate_whoever_reads() {
    let mut limits = Limits::default();
    limits.body_timeout = Some(Duration::from_millis(2000));
    limits.bytes_per_second_min = Some(1_000_000);
    let server = Local::start_within(limits, || {
        async |request: Request| {
            let mut body = request.into_body();
            let reader = coring::spawn(async move { body.read(1_000_000).await.is_ok() });
            Response::text(format!("{:?}", reader.await))
        }
    });
    let mut client = server.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let mut sender = client.twin();
    let is_over = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let goes_on = |_: &usize| {
                thread::sleep(WHILE);
                sender.try_send("ten bytes.").is_ok() && !is_over.load(Ordering::Relaxed)
            };
            (0..100).take_while(goes_on).count()
        });
        assert_eq!(client.answer().status, 408);
        is_over.store(true, Ordering::Relaxed);
        sending.join().expect("a sender")
    });
    assert!(sent < 50, "it may trickle for ever");
    server.stop();
}

/// A server whose answer to `/long` just fills a Unix socket's buffer: the next has to wait.
fn filling_server(folder: &Folder, limits: Limits) -> Local {
    let builder = Server::builder()
        .bind(format!("unix:{}", folder.file("socket")))
        .limits(limits);
    Local::start_with(builder, || {
        async |request: Request| {
            let len = request.path().len();
            Response::text("x".repeat(if len > 1 { 212_000 } else { 60_000 }))
        }
    })
}

/// A head that was begun is not idle while an earlier answer is owed, nor after it.
#[test]
fn head_timeout_behind_an_answer() {
    let mut limits = Limits::default();
    limits.head_timeout = Some(Duration::from_millis(1000));
    limits.idle_timeout = Some(Duration::from_millis(600_000));
    let folder = Folder::new();
    let server = filling_server(&folder, limits);
    let mut client = server.connect();
    client.send(format!(
        "GET /long HTTP/1.1\r\nHost: a\r\n\r\n{GET}GET / HT"
    ));
    thread::sleep(7 * WHILE);
    client.send("T");
    thread::sleep(7 * WHILE);
    assert_eq!(client.answer().body.len(), 212_000);
    assert_eq!(client.answer().body.len(), 60_000);
    assert_eq!(client.answer().status, 408);
    client.ends();
    server.stop();
}

/// Echoes a body that the service has read whole.
async fn store_and_echo(mut request: Request) -> Response {
    let body = request.body().read(1000).await;
    Response::text(body.expect("a small body"))
}

#[test]
fn a_time_may_be_as_large_as_a_number() {
    let mut limits = Limits::default();
    limits.head_timeout = Some(Duration::MAX);
    limits.body_timeout = Some(Duration::MAX);
    limits.write_timeout = Some(Duration::MAX);
    limits.idle_timeout = Some(Duration::MAX);
    limits.drain_timeout = Some(Duration::MAX);
    limits.bytes_per_second_min = Some(u64::MAX);
    let server = Local::start_within(limits, || store_and_echo);
    let mut client = server.connect();
    for _ in 0..2 {
        let request = body_of(100);
        let (head, body) = request.split_at(request.len() - 100);
        client.send(head);
        thread::sleep(WHILE);
        client.send(body);
        assert_eq!(client.answer().body.len(), 100);
        thread::sleep(WHILE);
    }
    server.drain();
    client.ends();
    assert_eq!(server.count("task_panics"), 0);
    server.stop();
}

/// With hardly any patience for idle ones, a connection still ends only when its answers are sent.
#[test]
fn a_time_may_be_next_to_nothing() {
    let mut limits = Limits::default();
    limits.idle_timeout = Some(Duration::from_millis(1));
    let folder = Folder::new();
    let server = filling_server(&folder, limits);
    for _ in 0..2 {
        let mut client = server.connect();
        client.send(format!("GET /long HTTP/1.1\r\nHost: a\r\n\r\n{GET}"));
        thread::sleep(WHILE);
        assert_eq!(client.answer().body.len(), 212_000);
        assert_eq!(client.answer().body.len(), 60_000);
        client.ends();
    }
    server.stop();
}

#[test]
fn max_connections() {
    let server = Coring::start(&["--cores", "1", "--max-connections", "4"]);
    let mut held: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    for client in &mut held {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
    }
    let mut excess = server.connect();
    excess.send(GET);
    let answer = excess.answer();
    assert_eq!((answer.status, answer.closes()), (503, true));
    excess.ends();
    drop(held);
    eventually("room after others left", || {
        let answer = server.connect().exchange(GET);
        answer.ok().flatten().filter(|answer| answer.status == 200)
    });
    assert!(server.stop().stats()["connections_shed"] >= 1);
}

/// After a refusal the server goes on receiving, so that a client which reads only when it has sent
/// everything gets the answer. It does not go on for ever.
#[test]
fn what_is_received_after_a_refusal_is_bounded() {
    let server = Coring::start(&["echo", "--max-body", "1000"]);
    let head = |len: u64| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n");
    let part = noise(1 << 20);
    let mut patient = server.connect();
    patient.send(head(12 << 20));
    for _ in 0..12 {
        patient.send(&part);
    }
    assert_eq!(patient.answer().status, 413);
    let mut endless = server.connect();
    endless.send(head(1 << 40));
    let sent = (0..256).find(|_| endless.try_send(&part).is_err());
    let sent = sent.expect("an end of the connection");
    assert!(sent < 64, "{sent} MiB were sent after the refusal");
    let ended = server.stop();
    assert!(
        ended.stats()["bytes_received"] < 40 << 20,
        "{}",
        ended.stderr
    );
}

/// At the bound of the memory for receiving clients wait, and nobody is lost.
#[test]
fn max_receive_memory() {
    let server = Coring::start(&["echo", "--cores", "1", "--max-receive-memory", "4m"]);
    let body = noise(4 << 20);
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let clients: Vec<Client> = (0..64).map(|_| server.connect()).collect();
    thread::scope(|scope| {
        for mut client in clients {
            let (mut sender, head, body) = (client.twin(), &head, &body);
            scope.spawn(move || {
                sender.send(head);
                sender.send(body);
            });
            scope.spawn(move || {
                // All of them send while nobody reads: that is more than the bound.
                thread::sleep(WHILE * 5);
                assert!(client.answer().body == *body);
            });
        }
    });
    assert_eq!(server.stop().stats()["responses_2xx"], 64);
}

#[test]
fn cores() {
    let ended = Coring::start(&["--cores", "1"]).stop();
    assert_eq!(ended.shares("requests"), [0], "one worker");
}
