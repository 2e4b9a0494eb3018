//! Endless responses to many clients, sent by the example `events`: a client that does not read
//! costs a bounded amount of memory, and each client that reads gets every event.

use coring::EngineChoice;

use crate::examples::{Running, example};
use crate::resources::affordable;
use crate::support::{
    Address, Client, TempDir, assert_bytes_below, engine, get, has_io_uring, private_bytes, python,
    report, request_with_body,
};

/// The number of clients.
const CLIENTS: usize = 1000;
/// The number of clients that do not read.
const SILENT: usize = 300;
/// Rounds of events. The reading clients read all events of a round before the next one begins,
/// so they never exceed the bound on queued bytes, even on a slow machine.
const ROUNDS: usize = 20;
const EVENTS: usize = 16;
/// Small enough to be copied to each client: the clients share no memory.
const EVENT_BYTES: usize = 2000;
/// The most bytes that the example queues for a client (`WAITING_BYTES_MAX`).
const WAITING_BYTES_MAX: usize = 64 << 10;

/// Starts the example on the engine under test and on a Unix socket. The buffer of a Unix socket
/// does not grow, so a client that does not read fills it soon.
fn start_events(socket: &str) -> Running {
    if engine() != EngineChoice::Epoll {
        return Running::start("events", &[socket]);
    }
    let program = example("events").get_program().to_owned();
    let program = program.into_string().expect("a path in UTF-8");
    let mut refused = python("refuse_io_uring.py", &["EPERM", &program, socket]);
    Running::of(&mut refused)
}

/// The text of event `number`, padded to [`EVENT_BYTES`].
fn event_text(number: usize) -> String {
    format!("{number:08}{}", "x".repeat(EVENT_BYTES - 8))
}

fn join(address: &Address) -> Client {
    let mut client = Client::connect(address).expect("a listener");
    client.send(get("/lobby/events"));
    client
}

#[test]
fn a_thousand_event_streams_of_which_some_are_not_read() {
    has_io_uring("a thousand event streams on the ring");
    let directory = TempDir::new();
    let socket = directory.file("socket");
    let mut server = start_events(&format!("unix:{socket}"));
    let line = server.line();
    assert!(line.contains(&socket), "not the listener's address: {line}");
    let address = Address::Unix(socket.into());
    let clients = affordable(CLIENTS);
    let silent = SILENT.min(clients / 3);
    let mut speaker = Client::connect(&address).expect("a listener");
    let fresh_bytes = private_bytes(server.pid());
    let mut unread: Vec<Client> = (0..silent).map(|_| join(&address)).collect();
    let mut readers: Vec<Client> = (silent..clients)
        .map(|_| {
            let mut client = join(&address);
            assert_eq!(client.head().status, 200);
            client
        })
        .collect();
    for round in 0..ROUNDS {
        let numbers = round * EVENTS..(round + 1) * EVENTS;
        for number in numbers.clone() {
            let response = speaker
                .exchange(&request_with_body(
                    "POST",
                    "/lobby/say",
                    &event_text(number),
                ))
                .expect("a response");
            assert_eq!(response.map(|response| response.status), Some(204));
        }
        let expected: String = numbers
            .map(|number| format!("id: {}\ndata: {}\n\n", number + 1, event_text(number)))
            .collect();
        for reader in &mut readers {
            let mut events = Vec::new();
            while events.len() < expected.len() {
                let chunk = reader.chunk().expect("an event");
                assert!(!chunk.is_empty(), "the server cut off a reading client");
                events.extend(chunk);
            }
            assert!(events == expected.as_bytes(), "missing or reordered events");
        }
    }
    let each = private_bytes(server.pid()).saturating_sub(fresh_bytes) / clients as u64;
    report(&format!(
        "event streams: {each} bytes for each of {clients} clients, {silent} of which do not read"
    ));
    // A silent client may have the bound in each of: the body's queue, the connection's queue, and
    // the sends in flight.
    let bound = (silent * 3 * (WAITING_BYTES_MAX + 8192)) / clients + 16_384;
    assert_bytes_below(each, bound as u64);
    // The silent clients were cut off, without the last chunk.
    let received = unread.pop().expect("a client").expect_fin_or_reset();
    let all = ROUNDS * EVENTS * EVENT_BYTES;
    assert!(received.len() < all && !received.ends_with(b"0\r\n\r\n"));
}
