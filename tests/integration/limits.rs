//! Every limit that a flag sets: requests within the limit are served, and others get an error
//! response or the end of their connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use coring::{Limits, Request, Response, Server};

use crate::support::{
    Client, Coring, GET, HALF_A_HEAD, Local, ReceivedResponse, TempDir, eventually, get,
    head_with_chunks, head_with_length, is_timeout, noise, request, request_with_body,
};

/// A fraction of the one-second timeouts that the tests set.
const WHILE: Duration = Duration::from_millis(200);

/// Makes a request with the given length, number of fields, or length of the target or body.
type RequestOf = fn(usize) -> String;

/// A head of exactly `len` bytes, padded by a field.
fn head_of(len: usize) -> String {
    let padding = len - request("GET", "/", &["X: "]).len();
    request("GET", "/", &[&format!("X: {}", "x".repeat(padding))])
}

/// A request with a target of `len` bytes.
fn target_of(len: usize) -> String {
    get(&format!("/{}", "t".repeat(len - 1)))
}

/// A request with `count` fields.
fn fields_of(count: usize) -> String {
    // `Host` is a field, too.
    request("GET", "/", &vec!["X: y"; count - 1])
}

/// A request with a body of `len` bytes.
fn body_of(len: usize) -> String {
    request_with_body("POST", "/", &"b".repeat(len))
}

/// A request with a body of one chunk of `len` bytes.
fn chunks_of(len: usize) -> String {
    let head = head_with_chunks("POST", "/");
    format!("{head}{len:x}\r\n{}\r\n0\r\n\r\n", "b".repeat(len))
}

/// Asserts that with `flag` set to `limit`, a request at the limit is served, and one beyond it is
/// answered with `status`.
#[track_caller]
fn assert_limit(flag: &str, limit: usize, request: RequestOf, status: u16) {
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
fn max_head_limits_the_length_of_a_head() {
    assert_limit("--max-head", 1000, head_of, 431);
    assert_limit("--max-head", 16384, head_of, 431);
    assert_limit("--max-head", 65535, head_of, 431);
}

#[test]
fn max_target_limits_the_length_of_a_target() {
    assert_limit("--max-target", 1, target_of, 414);
    assert_limit("--max-target", 100, target_of, 414);
    assert_limit("--max-target", 8192, target_of, 414);
}

#[test]
fn max_fields_limits_the_number_of_fields() {
    for limit in [1, 10, 100, 256] {
        assert_limit("--max-fields", limit, fields_of, 431);
    }
}

#[test]
fn max_body_limits_the_length_of_a_body() {
    assert_limit("--max-body", 1, body_of, 413);
    assert_limit("--max-body", 1000, body_of, 413);
}

/// The response to a chunked body may have begun before the limit is reached. The server then cuts
/// it short.
#[test]
fn max_body_limits_the_length_of_a_chunked_body() {
    let server = Coring::start(&["echo", "--max-body", "1000"]);
    assert_eq!(server.ask(chunks_of(1000)).body.len(), 1000);
    let mut client = server.connect();
    client.send(chunks_of(1001));
    if let Ok(response) = client.try_response() {
        assert_eq!(response.map(|response| response.status), Some(413));
    }
    client.expect_fin_or_reset();
}

#[test]
fn the_defaults_are_as_documented() {
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
    let head = |len: u32| head_with_length("POST", "/", len);
    assert_eq!(server.ask(head((16 << 20) + 1)).status, 413);
    let mut client = server.connect();
    client.send(head(16 << 20));
    let body = noise(16 << 20);
    let mut sender = client.twin();
    thread::scope(|scope| {
        scope.spawn(|| sender.send(&body));
        assert!(client.response().body == body);
    });
}

/// Asserts that the server ends the connection after a timeout. If no response has begun, it may
/// send a 408 first.
#[track_caller]
fn assert_times_out(mut client: Client) {
    match client.try_response() {
        Ok(Some(ReceivedResponse { status, head, .. })) => assert_eq!(status, 408, "{head}"),
        Ok(None) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}"),
    }
    client.expect_fin_or_reset();
}

/// Stops the server and asserts that `expected` connections ended because of a timeout.
#[track_caller]
fn assert_timeouts(server: Coring, expected: u64) {
    assert_eq!(server.stop().stats()["closed_by_timeout"], expected);
}

#[test]
fn head_timeout_ends_an_incomplete_head() {
    let server = Coring::start(&["--head-timeout", "1s"]);
    let mut half = server.connect();
    half.send(HALF_A_HEAD);
    assert_times_out(half);
    let mut later = server.connect();
    later.send(GET);
    assert_eq!(later.response().status, 200);
    later.send(HALF_A_HEAD);
    assert_times_out(later);
    assert_timeouts(server, 2);
}

/// Each byte is progress, but the timeout applies to the head as a whole.
#[test]
fn pitfall_30_head_timeout_ends_a_head_sent_byte_by_byte() {
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
        client.expect_fin_or_reset();
    });
    assert_timeouts(server, 1);
}

#[test]
fn head_timeout_ends_a_connection_without_a_request() {
    let server = Coring::start(&["--head-timeout", "1s"]);
    assert_times_out(server.connect());
}

#[test]
fn idle_timeout_ends_an_idle_connection() {
    let server = Coring::start(&["--idle-timeout", "1s"]);
    let mut client = server.connect();
    for _ in 0..3 {
        client.send(GET);
        assert_eq!(client.response().status, 200);
        thread::sleep(WHILE);
    }
    client.expect_fin();
    assert_eq!(server.stop().stats()["closed_by_fault"], 0);
}

/// Some clients send an empty line after a body (RFC 9112 §2.2). It is not the beginning of a
/// request, so it starts no head timeout and does not delay a drain.
#[test]
fn an_empty_line_after_a_body_starts_no_head_timeout() {
    let post = request_with_body("POST", "/", "abc") + "\r\n";
    let ask = |client: &mut Client| {
        client.send(&post);
        assert_eq!(client.response().text(), "abc");
    };
    let server = Coring::start(&["echo", "--head-timeout", "1s"]);
    let mut client = server.connect();
    ask(&mut client);
    thread::sleep(Duration::from_secs(2));
    ask(&mut client);
    assert_timeouts(server, 0);

    let server = Coring::start(&["echo", "--head-timeout", "1m"]);
    let mut client = server.connect();
    ask(&mut client);
    let started = Instant::now();
    assert_timeouts(server, 0);
    client.expect_fin();
    let drained = started.elapsed();
    assert!(
        drained < Duration::from_secs(20),
        "the drain took {drained:?}"
    );
}

#[test]
fn body_timeout_ends_an_incomplete_body() {
    let server = Coring::start(&["echo", "--body-timeout", "1s"]);
    for request in [
        head_with_length("POST", "/", 9),
        head_with_length("POST", "/", 9) + "half",
        head_with_chunks("POST", "/") + "4\r\nhalf\r\n",
    ] {
        let mut client = server.connect();
        client.send(request);
        assert_times_out(client);
    }
    assert_timeouts(server, 3);
}

/// The client does not read. The server closes the connection and frees the queued response.
#[test]
fn write_timeout_ends_a_response_that_is_not_read() {
    let server = Coring::start(&["echo", "--write-timeout", "1s", "--max-body", "0"]);
    let mut client = server.connect();
    client.send(head_with_length("POST", "/", 99_999_999));
    let part = noise(1 << 20);
    let sent = (0..99).find_map(|_| client.try_send(&part).err());
    let error = sent.expect("the server stops receiving");
    assert!(!is_timeout(&error), "the connection is still open: {error}");
    assert_timeouts(server, 1);
}

/// The client reads slowly but steadily. The server must not close the connection, although the
/// socket buffer accepts no bytes for much longer than the timeout.
#[test]
fn write_timeout_spares_a_slow_client() {
    let mut limits = Limits::default();
    limits.write_timeout = Some(Duration::from_millis(2000));
    let server = Local::start_within(limits, || {
        async |_: Request| Response::text(vec![b'x'; 32 << 20])
    });
    let mut client = server.connect();
    client.set_receive_buffer(1 << 20);
    client.send(GET);
    // Read fast at first, so that the server's socket buffer grows.
    client.take(8 << 20).expect("a part of the response");
    for _ in 0..50 {
        client.take(20 << 10).expect("a part of the response");
        thread::sleep(WHILE / 2);
    }
    assert_eq!(server.count("closed_by_timeout"), 0);
    // Now the client stops reading.
    eventually("the write timeout", || {
        (server.count("closed_by_timeout") == 1).then_some(())
    });
    server.stop();
}

/// The minimum rate applies to the response as a whole, not to each send of a large file.
#[test]
fn min_rate_ends_a_slow_download() {
    let directory = TempDir::new();
    directory.write("large", noise(40 << 20));
    let limits = ["--min-rate", "8m", "--write-timeout", "2s"];
    let server = Coring::serve(&directory, &limits);
    let mut client = server.connect();
    client.set_receive_buffer(64 << 10);
    client.send(get("/large"));
    let taken = (0..400).find_map(|_| {
        thread::sleep(WHILE / 2);
        client.take(100 << 10).err()
    });
    let error = taken.expect("the server closes the connection before the end of the file");
    assert!(!is_timeout(&error), "the connection is still open: {error}");
    assert_timeouts(server, 1);
}

/// The client sends all the time, but too slowly.
#[test]
fn min_rate_ends_a_slow_upload() {
    let server = Coring::start(&["echo", "--min-rate", "1m", "--body-timeout", "3s"]);
    let mut client = server.connect();
    client.send(head_with_length("POST", "/", 100_000));
    let mut sender = client.twin();
    thread::scope(|scope| {
        scope.spawn(move || {
            (0..100).all(|_| {
                thread::sleep(WHILE);
                sender.try_send("ten bytes.").is_ok()
            })
        });
        client.expect_fin_or_reset();
    });
    assert_timeouts(server, 1);
}

/// The same if a spawned task reads the body.
#[test]
fn min_rate_ends_a_slow_upload_that_a_task_reads() {
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
    client.send(head_with_length("POST", "/", 100_000));
    let mut sender = client.twin();
    let is_refused = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let send_again = |_: &usize| {
                thread::sleep(WHILE);
                sender.try_send("ten bytes.").is_ok() && !is_refused.load(Ordering::Relaxed)
            };
            (0..100).take_while(send_again).count()
        });
        assert_eq!(client.response().status, 408);
        is_refused.store(true, Ordering::Relaxed);
        sending.join().expect("a sender")
    });
    assert!(sent < 50, "the server accepted {sent} slow parts");
    server.stop();
}

/// A server whose response to `/long` just fills the buffer of a Unix socket, so that the next
/// response cannot be sent until the client reads.
fn server_that_fills_the_buffer(directory: &TempDir, limits: Limits) -> Local {
    let builder = Server::builder()
        .bind(format!("unix:{}", directory.file("socket")))
        .limits(limits);
    Local::start_with(builder, || {
        async |request: Request| {
            let len = request.path().len();
            Response::text("x".repeat(if len > 1 { 212_000 } else { 60_000 }))
        }
    })
}

/// A client begins a head while earlier responses wait to be read. The connection is not idle,
/// neither then nor after these responses: the head timeout applies, not the idle timeout.
#[test]
fn head_timeout_applies_after_a_delayed_response() {
    let mut limits = Limits::default();
    limits.head_timeout = Some(Duration::from_millis(1000));
    limits.idle_timeout = Some(Duration::from_millis(600_000));
    let directory = TempDir::new();
    let server = server_that_fills_the_buffer(&directory, limits);
    let mut client = server.connect();
    client.send(get("/long") + GET + "GET / HT");
    thread::sleep(7 * WHILE);
    client.send("T");
    thread::sleep(7 * WHILE);
    assert_eq!(client.response().body.len(), 212_000);
    assert_eq!(client.response().body.len(), 60_000);
    assert_eq!(client.response().status, 408);
    client.expect_fin();
    server.stop();
}

/// Reads the whole body and then sends it back.
async fn read_and_echo(mut request: Request) -> Response {
    let body = request.body().read(1000).await;
    Response::text(body.expect("a small body"))
}

#[test]
fn timeouts_and_the_minimum_rate_may_have_the_greatest_value() {
    let mut limits = Limits::default();
    limits.head_timeout = Some(Duration::MAX);
    limits.body_timeout = Some(Duration::MAX);
    limits.write_timeout = Some(Duration::MAX);
    limits.idle_timeout = Some(Duration::MAX);
    limits.drain_timeout = Some(Duration::MAX);
    limits.bytes_per_second_min = Some(u64::MAX);
    let server = Local::start_within(limits, || read_and_echo);
    let mut client = server.connect();
    for _ in 0..2 {
        let request = body_of(100);
        let (head, body) = request.split_at(request.len() - 100);
        client.send(head);
        thread::sleep(WHILE);
        client.send(body);
        assert_eq!(client.response().body.len(), 100);
        thread::sleep(WHILE);
    }
    server.drain();
    client.expect_fin();
    assert_eq!(server.count("task_panics"), 0);
    server.stop();
}

/// Even with the shortest idle timeout, a connection ends only when its responses are sent.
#[test]
fn the_shortest_idle_timeout_does_not_cut_responses() {
    let mut limits = Limits::default();
    limits.idle_timeout = Some(Duration::from_millis(1));
    let directory = TempDir::new();
    let server = server_that_fills_the_buffer(&directory, limits);
    for _ in 0..2 {
        let mut client = server.connect();
        client.send(get("/long") + GET);
        thread::sleep(WHILE);
        assert_eq!(client.response().body.len(), 212_000);
        assert_eq!(client.response().body.len(), 60_000);
        client.expect_fin();
    }
    server.stop();
}

#[test]
fn max_connections_refuses_further_connections() {
    let server = Coring::start(&["--cores", "1", "--max-connections", "4"]);
    let mut held: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    for client in &mut held {
        client.send(GET);
        assert_eq!(client.response().status, 200);
    }
    let mut excess = server.connect();
    excess.send(GET);
    let response = excess.response();
    assert_eq!((response.status, response.closes()), (503, true));
    excess.expect_fin();
    drop(held);
    eventually("a response after others have left", || {
        let response = server.connect().exchange(GET);
        response
            .ok()
            .flatten()
            .filter(|response| response.status == 200)
    });
    assert!(server.stop().stats()["connections_shed"] >= 1);
}

/// After a refusal the server continues to receive, so that a client that reads only after it has
/// sent everything gets the response. The number of bytes is bounded.
#[test]
fn the_bytes_received_after_a_refusal_are_bounded() {
    let server = Coring::start(&["echo", "--max-body", "1000"]);
    let head = |len: u64| head_with_length("POST", "/", len);
    let part = noise(1 << 20);
    let mut patient = server.connect();
    patient.send(head(12 << 20));
    for _ in 0..12 {
        patient.send(&part);
    }
    assert_eq!(patient.response().status, 413);
    let mut endless = server.connect();
    endless.send(head(1 << 40));
    let sent = (0..256).find(|_| endless.try_send(&part).is_err());
    let sent = sent.expect("the server closes the connection");
    assert!(sent < 64, "{sent} MiB were sent after the refusal");
    let ended = server.stop();
    assert!(
        ended.stats()["bytes_received"] < 40 << 20,
        "{}",
        ended.stderr
    );
}

/// When the memory for receiving is used up, clients wait; all of them get their responses.
#[test]
fn max_receive_memory_makes_clients_wait() {
    let server = Coring::start(&["echo", "--cores", "1", "--max-receive-memory", "4m"]);
    let body = noise(4 << 20);
    let head = head_with_length("POST", "/", body.len());
    let clients: Vec<Client> = (0..64).map(|_| server.connect()).collect();
    thread::scope(|scope| {
        for mut client in clients {
            let (mut sender, head, body) = (client.twin(), &head, &body);
            scope.spawn(move || {
                sender.send(head);
                sender.send(body);
            });
            scope.spawn(move || {
                // All clients send while none of them reads. Together that exceeds the bound.
                thread::sleep(WHILE * 5);
                assert!(client.response().body == *body);
            });
        }
    });
    assert_eq!(server.stop().stats()["responses_2xx"], 64);
}

#[test]
fn cores_sets_the_number_of_workers() {
    let ended = Coring::start(&["--cores", "1"]).stop();
    assert_eq!(ended.shares("requests"), [0], "one worker");
}
