//! Responses of Python applications that clients do not receive as fast as they are made:
//! `--response-buffer` bounds each of them, `--response-memory` all of a core.

use std::thread;
use std::time::Duration;

use crate::support::{
    Coring, TempDir, assert_bytes_below, eventually, get, private_bytes, run_application,
};

const PART_BYTES: usize = 64 << 10;

fn run_with(buffer: &str, total: &str) -> (Coring, TempDir) {
    let flags = ["--response-buffer", buffer, "--response-memory", total];
    let fixed = ["-k", "gthread", "--threads", "64", "--cores", "1"];
    run_application("wsgi", &[&fixed[..], &flags].concat())
}

/// Clients that do not read their responses.
const CLIENTS: u64 = 60;
/// Bytes that a response takes besides: its credit, two parts on their way to the socket, and one
/// part that waits for its place.
const BESIDES_BYTES: u64 = (256 + 2 * 64 + 64) << 10;
/// Bytes between what is expected and what is not.
const MARGIN_BYTES: u64 = 16 << 20;

/// How many more bytes coring takes while clients do not read their responses of 8 MiB.
/// Some of them read on in the end, and get the whole response.
fn growth(total: &str) -> u64 {
    let (server, _directory) = run_with("1m", total);
    assert_eq!(server.get("/").text(), "hello");
    let before = private_bytes(server.pid());
    let ask = |_| {
        let mut client = server.connect();
        client.set_receive_buffer(32 << 10);
        client.send(get("/parts/128"));
        client
    };
    let mut clients: Vec<_> = (0..CLIENTS).map(ask).collect();
    // All is there when it no longer grows.
    let after = eventually("the responses", || {
        let before = private_bytes(server.pid());
        thread::sleep(Duration::from_secs(2));
        let after = private_bytes(server.pid());
        (after < before + (1 << 20)).then_some(after)
    });
    // Others are served meanwhile.
    assert_eq!(server.get("/").text(), "hello");
    for client in &mut clients[..3] {
        assert_eq!(client.response().body.len(), 128 * PART_BYTES);
    }
    drop(clients);
    assert_eq!(server.stop().code, Some(0));
    after.saturating_sub(before)
}

#[test]
fn many_responses_that_are_not_read_share_a_total() {
    let bounded = growth("4m");
    assert_bytes_below(bounded, CLIENTS * BESIDES_BYTES + MARGIN_BYTES);
    let unbounded = growth("256m");
    assert_bytes_below(bounded + MARGIN_BYTES, unbounded);
}

#[test]
fn responses_are_whole_at_any_limit() {
    for (buffer, total) in [
        ("0", "0"),
        ("1", "1"),
        ("0", "1g"),
        ("1g", "0"),
        ("1g", "1g"),
    ] {
        let (server, _directory) = run_with(buffer, total);
        for count in [0, 1, 3, 64] {
            let response = server.get(&format!("/parts/{count}"));
            assert_eq!(response.body.len(), count * PART_BYTES, "{buffer} {total}");
        }
        assert_eq!(server.get("/").text(), "hello");
        assert_eq!(server.stop().code, Some(0), "{buffer} {total}");
    }
}
