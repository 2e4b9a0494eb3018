//! The memory for bytes received from clients is bounded, even if the clients do not read.

use std::thread;
use std::time::Duration;

use coring::{Limits, Request, Response, StatusCode};

use crate::support::{
    Client, Local, PATIENCE, TempDir, builder, head_with_chunks, head_with_length, noise, report,
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
