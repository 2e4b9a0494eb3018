//! Responses that do not end, to very many clients of the example `events`: whoever does not read
//! costs a bounded amount of memory, and the others get every event.

use coring::EngineChoice;

use crate::examples::{Running, example};
use crate::resources::{affordable, private_bytes};
use crate::support::{Address, Client, Folder, engine, has_io_uring, python, report};

/// Clients in all, and how many of them do not read.
const CLIENTS: usize = 1000;
const SILENT: usize = 300;
/// Rounds of events. All events of a round are read before the next one begins, so no reader is
/// ever slower than its room allows, however slow the machine is.
const ROUNDS: usize = 20;
const EVENTS: usize = 16;
/// Small enough for being copied to each client: nothing is shared between them.
const EVENT_BYTES: usize = 2000;
/// What the example lets wait for a client (`WAITING_BYTES_MAX`).
const WAITING_BYTES_MAX: usize = 64 << 10;

/// The example, on the engine that the tests are about, at a Unix socket: unlike that of TCP, its
/// buffer does not grow, so clients that do not read soon fill it.
fn events(socket: &str) -> Running {
    if engine() != EngineChoice::Epoll {
        return Running::start("events", &[socket]);
    }
    let program = example("events").get_program().to_owned();
    let program = program.into_string().expect("a path in UTF-8");
    let mut refused = python("refuse_io_uring.py", &["EPERM", &program, socket]);
    Running::of(&mut refused)
}

/// The event of a round: its number, and so many letters.
fn words(number: usize) -> String {
    format!("{number:08}{}", "x".repeat(EVENT_BYTES - 8))
}

fn join(address: &Address) -> Client {
    let mut client = Client::connect(address).expect("a listener");
    client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
    client
}

#[test]
fn a_thousand_event_streams_some_of_which_are_not_read() {
    has_io_uring("a thousand event streams on the ring");
    let folder = Folder::new();
    let socket = folder.file("socket");
    let mut server = events(&format!("unix:{socket}"));
    assert!(server.line().contains(&socket), "it listens");
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
            let said = speaker
                .exchange(&format!(
                    "POST /say HTTP/1.1\r\nHost: a\r\nContent-Length: {EVENT_BYTES}\r\n\r\n{}",
                    words(number)
                ))
                .expect("an answer");
            assert_eq!(said.map(|answer| answer.status), Some(204));
        }
        let expected: String = numbers
            .map(|number| format!("data: {}\n\n", words(number)))
            .collect();
        for reader in &mut readers {
            let mut events = Vec::new();
            while events.len() < expected.len() {
                let part = reader.chunk().expect("an event");
                assert!(!part.is_empty(), "no reader is cut off");
                events.extend(part);
            }
            assert!(events == expected.as_bytes(), "every event, in order");
        }
    }
    let each = private_bytes(server.pid()).saturating_sub(fresh_bytes) / clients as u64;
    report(&format!(
        "event streams: {each} bytes for each of {clients} clients, {silent} of which do not read"
    ));
    // Three times what may wait: in the body's queue, in the connection's, and in flight.
    let bound = (silent * 3 * (WAITING_BYTES_MAX + 8192)) / clients + 16_384;
    if !cfg!(asan) {
        assert!(each < bound as u64, "{each} of {bound} bytes");
    }
    // They were cut off, and can tell.
    let cut = unread.pop().expect("a client").broken();
    let whole = ROUNDS * EVENTS * EVENT_BYTES;
    assert!(cut.len() < whole && !cut.ends_with(b"0\r\n\r\n"));
}
