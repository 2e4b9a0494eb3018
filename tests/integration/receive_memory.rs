//! The memory for bytes received from clients is bounded, even if the clients do not read.

use std::thread;
use std::time::{Duration, Instant};

use coring::{Body, HeaderValue, Limits, Request, Response, StatusCode, Upgraded, spawn};

use crate::support::{
    Client, Local, PATIENCE, TempDir, builder, head_with_chunks, head_with_length, noise, report,
    request,
};

/// The number of concurrent clients.
const CLIENTS: usize = 100;
/// The length of each client's body. It exceeds what the server and the kernel hold for one
/// connection.
const BODY_BYTES: usize = 1 << 20;
const BLOCK_BYTES: u64 = 4096;
/// The most bytes that one exchange may hold beyond the bound: a received block, another block
/// that the ring has received ahead, the request's head, the response's head, and the state of the
/// exchange.
const EXCHANGE_BYTES_MAX: u64 = 5 * BLOCK_BYTES;

/// A server that sends each body back while it arrives. It listens on a Unix socket, whose buffers
/// do not grow.
fn echo_server(directory: &TempDir, limits: Limits) -> Local {
    let builder = builder()
        .bind(format!("unix:{}", directory.file("socket")))
        .limits(limits);
    Local::start_with(builder, || {
        async |request: Request| Response::new(StatusCode::OK).with_body(request.into_body())
    })
}

/// Waits until the server has received nothing for a second.
fn wait_until_receiving_stops(server: &Local) {
    let step = Duration::from_secs(1);
    let mut received = 0;
    for _ in 0..PATIENCE.as_secs() {
        thread::sleep(step);
        let now = server.count("bytes_received");
        if now == received && now > 0 {
            return;
        }
        received = now;
    }
    panic!("the server continues to receive from clients that do not read");
}

/// Asserts that the server stops receiving when it holds about `bound_bytes` of clients that do
/// not read, and that each client gets its whole body back when it reads.
#[track_caller]
fn assert_echoes_bounded(bound_bytes: usize, request: &[u8]) {
    let mut limits = Limits::default();
    limits.receive_memory_max = Some(bound_bytes);
    let directory = TempDir::new();
    let server = echo_server(&directory, limits);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.connect()).collect();
    thread::scope(|scope| {
        for client in &clients {
            let mut sender = client.twin();
            scope.spawn(move || sender.send(request));
        }
        wait_until_receiving_stops(&server);
        let held_bytes = server.count("blocks_in_use") * BLOCK_BYTES;
        // All clients must finish before an assertion can fail.
        for client in &mut clients {
            scope.spawn(move || assert!(client.response().body == noise(BODY_BYTES)));
        }
        let most_bytes = bound_bytes as u64 + CLIENTS as u64 * EXCHANGE_BYTES_MAX;
        report(&format!(
            "unread echoes: {held_bytes} bytes are held with a bound of {bound_bytes}"
        ));
        assert!(
            held_bytes <= most_bytes,
            "{held_bytes} bytes are held, {most_bytes} are allowed"
        );
    });
    assert_eq!(server.count("responses_2xx"), CLIENTS as u64);
    assert_eq!(server.stop_and_count("blocks_in_use"), 0);
}

#[test]
fn unread_echoes_of_a_known_length_are_bounded() {
    let head = head_with_length("POST", "/", BODY_BYTES);
    let request = [head.as_bytes(), &noise(BODY_BYTES)].concat();
    assert_echoes_bounded(4 << 20, &request);
}

/// With the least bound the first bytes of all clients reach it already.
#[test]
fn unread_echoes_in_chunks_are_bounded() {
    let head = head_with_chunks("POST", "/");
    let mut request = head.as_bytes().to_vec();
    for chunk in noise(BODY_BYTES).chunks(3000) {
        request.extend(format!("{:x}\r\n", chunk.len()).bytes());
        request.extend(chunk);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    assert_echoes_bounded(Limits::RECEIVE_MEMORY_MIN, &request);
}

/// The number of small parts that a client sends.
const PARTS: usize = 2000;
/// A part that is longer than the sockets' buffers.
const FIRST_PART_BYTES: usize = 1 << 20;

/// Copies a stream, after a part that the client does not read.
async fn copy_upgraded(mut stream: Upgraded) {
    let first = stream.write(noise(FIRST_PART_BYTES)).await;
    first.expect("the client is connected");
    while let Ok(Some(part)) = stream.read().await {
        stream.write(part).await.expect("the client is connected");
    }
}

/// A response that copies the request's body, after a part that the client does not read.
fn copy_body(mut request: Request) -> Response {
    let (mut sender, body) = Body::channel(16 << 10);
    spawn(async move {
        let first = sender.write(noise(FIRST_PART_BYTES)).await;
        first.expect("the client is connected");
        while let Some(part) = request.body().part().await.expect("a complete body") {
            sender.write(part).await.expect("the client is connected");
        }
        sender.finish();
    });
    Response::text(body)
}

/// Sends `part` `PARTS` times. The server receives each by itself, in a block of its own.
fn send_parts(server: &Local, client: &mut Client, part: &str) {
    let mut received = server.count("bytes_received");
    for _ in 0..PARTS {
        client.send(part);
        received += part.len() as u64;
        let deadline = Instant::now() + PATIENCE;
        while server.count("bytes_received") < received {
            assert!(Instant::now() < deadline, "the server does not receive");
            thread::yield_now();
        }
    }
}

/// Small parts that wait to be sent back must not hold the whole blocks that they were received in.
#[test]
fn small_received_parts_that_are_queued_again_hold_few_blocks() {
    let directory = TempDir::new();
    let builder = builder().bind(format!("unix:{}", directory.file("socket")));
    let server = Local::start_with(builder, || {
        async |request: Request| match request.path() {
            "/upgraded" => {
                let protocol = HeaderValue::from_static("echo");
                Response::upgrade(&request, protocol, copy_upgraded)
            }
            _ => copy_body(request),
        }
    });
    let mut expected = noise(FIRST_PART_BYTES);
    expected.extend([b'x'; PARTS]);
    let upgrade = ["Connection: upgrade", "Upgrade: echo"];
    for (head, part, end) in [
        (request("GET", "/upgraded", &upgrade), "x", ""),
        (head_with_chunks("POST", "/"), "1\r\nx\r\n", "0\r\n\r\n"),
    ] {
        let mut client = server.connect();
        client.send(&head);
        send_parts(&server, &mut client, part);
        let blocks = server.count("blocks_in_use");
        report(&format!("{PARTS} queued parts hold {blocks} blocks"));
        client.send(end);
        let body = if end.is_empty() {
            assert_eq!(client.head().status, 101);
            client.take(expected.len()).expect("everything is copied")
        } else {
            client.response().body
        };
        assert!(body == expected, "{head}");
        assert!(blocks <= 10, "{blocks} blocks are held: {head}");
    }
    server.stop();
}
