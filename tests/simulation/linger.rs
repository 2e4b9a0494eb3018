//! How long a connection is kept after its last response for a client that is still sending.

use coring::sim::{Faults, Received, Simulated, World};
use coring::{Limits, Request, Response};

/// How long the server waits for a client that sends 10 bytes every `period_ms`, after it has
/// refused the client's request. In ms; at most `end_ms`.
fn lingers_ms(period_ms: u64, end_ms: u64) -> u64 {
    let world = World::new(1, Faults::none(), false);
    let limits = Limits::default();
    let service = || async |_: Request| Response::text("");
    let mut server = world.enter(|| Simulated::new(&world, 1, &limits, service));
    let client = world.connect(0).expect("a listener");
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n");
    let begin_ms = world.now_ms();
    let mut next_send_ms = begin_ms + period_ms;
    let mut response = Vec::new();
    let ended_ms = loop {
        let next_ms = server.next_ms(0).unwrap_or(next_send_ms).min(next_send_ms);
        world.advance(next_ms);
        if world.now_ms() >= next_send_ms {
            client.send(&[b'x'; 10]);
            next_send_ms += period_ms;
        }
        server.step(0);
        while let Received::Bytes(bytes) = client.read(1000) {
            response.extend(bytes);
        }
        let has_ended = server.metrics()[0].connections_open.get() == 0;
        if !response.is_empty() && has_ended || world.now_ms() >= begin_ms + end_ms {
            break world.now_ms() - begin_ms;
        }
    };
    assert!(
        response.starts_with(b"HTTP/1.1 413 "),
        "{}",
        response.escape_ascii()
    );
    server.stop();
    while server.next_ms(0).is_some() {
        server.step(0);
    }
    assert_eq!(world.violation(), None);
    ended_ms
}

#[test]
fn a_client_may_send_for_half_a_minute_and_pause_for_two_seconds() {
    let time_ms = u64::try_from(Limits::LINGER_TIME.as_millis()).expect("30 s");
    let pause_ms = u64::try_from(Limits::LINGER_PAUSE.as_millis()).expect("2 s");
    let lingered_ms = lingers_ms(500, 2 * time_ms);
    assert!(
        (time_ms..time_ms + 1000).contains(&lingered_ms),
        "{lingered_ms}"
    );
    let lingered_ms = lingers_ms(pause_ms + 500, time_ms);
    assert!(
        (pause_ms..pause_ms + 500).contains(&lingered_ms),
        "{lingered_ms}"
    );
}
