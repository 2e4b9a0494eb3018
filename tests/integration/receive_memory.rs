//! The memory that a server takes for what its clients send: bounded, whatever the clients do.

use std::thread;
use std::time::Duration;

use coring::{Limits, Request, Response, StatusCode};

use crate::support::{Client, Folder, Local, PATIENCE, builder, noise, report};

/// Clients at a time.
const CLIENTS: usize = 100;
/// What each client sends. It is more than the server and the kernel hold for one connection.
const BODY_BYTES: usize = 1 << 20;
const BLOCK_BYTES: u64 = 4096;
/// What one exchange may hold beyond the bound: a received piece, one more that the ring has
/// received ahead, a request's head, the head of its answer, and the exchange's own state.
const EXCHANGE_BYTES_MAX: u64 = 5 * BLOCK_BYTES;

/// A server that sends each body back while it arrives. A Unix socket's buffers have a fixed size.
fn echo_server(folder: &Folder, limits: Limits) -> Local {
    let builder = builder()
        .bind(format!("unix:{}", folder.file("socket")))
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
    panic!("the server goes on receiving from clients that do not read");
}

/// Clients that send and do not read are slowed down when the server holds `bound_bytes`, and get
/// their whole echo as soon as they read.
#[track_caller]
fn unread_echoes_are_bounded(bound_bytes: usize, request: &[u8]) {
    let mut limits = Limits::default();
    limits.receive_memory_max = Some(bound_bytes);
    let folder = Folder::new();
    let server = echo_server(&folder, limits);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.connect()).collect();
    thread::scope(|scope| {
        for client in &clients {
            let mut sender = client.twin();
            scope.spawn(move || sender.send(request));
        }
        wait_until_receiving_stops(&server);
        let held_bytes = server.count("blocks_in_use") * BLOCK_BYTES;
        // Let all clients end before anything is judged.
        for client in &mut clients {
            scope.spawn(move || assert!(client.answer().body == noise(BODY_BYTES)));
        }
        let most_bytes = bound_bytes as u64 + CLIENTS as u64 * EXCHANGE_BYTES_MAX;
        report(&format!(
            "unread echoes: {held_bytes} bytes are held with a bound of {bound_bytes}"
        ));
        assert!(held_bytes <= most_bytes, "{most_bytes} are allowed");
    });
    assert_eq!(server.count("responses_2xx"), CLIENTS as u64);
    assert_eq!(server.stop_and_count("blocks_in_use"), 0);
}

#[test]
fn unread_echoes_of_a_known_length_are_bounded() {
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
    let request = [head.as_bytes(), &noise(BODY_BYTES)].concat();
    unread_echoes_are_bounded(4 << 20, &request);
}

/// The least bound: the clients' first pieces alone reach it.
#[test]
fn unread_echoes_in_chunks_are_bounded() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut request = head.as_bytes().to_vec();
    for chunk in noise(BODY_BYTES).chunks(3000) {
        request.extend(format!("{:x}\r\n", chunk.len()).bytes());
        request.extend(chunk);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    unread_echoes_are_bounded(Limits::RECEIVE_MEMORY_MIN, &request);
}
