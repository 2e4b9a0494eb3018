//! Every limit at 0, at 1, at the least and the largest valid value, and beyond: the server
//! works within it, or says which limit is wrong and how to mend it.

use std::time::Duration;

use coring::{Error, ErrorKind, Limits, Request, Response};

use crate::support::{Client, Coring, Folder, Local, builder, coring, is_timeout, run_with};

/// The shortest request: its head fits into the smallest limits.
const SHORTEST: &str = "GET / HTTP/1.0\r\n\r\n";

async fn hello(_: Request) -> Response {
    Response::text("hello")
}

/// Asks once. A server whose time limit is next to nothing may close the connection first.
#[track_caller]
fn is_served(mut client: Client, is_hasty: bool, what: &str) {
    match client.exchange(SHORTEST) {
        Ok(Some(answer)) if answer.status == 200 => {}
        Ok(_) if is_hasty => {}
        Err(error) if is_hasty && !is_timeout(&error) => {}
        other => panic!("{what}: {other:?}"),
    }
}

/// A field of the limits: its name, how it is set (as far as the value fits; none: no limit), and
/// its least and largest valid values.
type Field = (&'static str, fn(&mut Limits, Option<u64>), u64, u64);

/// A field that must have a value.
fn small(value: Option<u64>) -> u16 {
    value.map_or(u16::MAX, |value| value.try_into().unwrap_or(u16::MAX))
}

fn size(value: Option<u64>) -> Option<usize> {
    value.map(|value| value.try_into().unwrap_or(usize::MAX))
}

fn time(ms: Option<u64>) -> Option<Duration> {
    ms.map(Duration::from_millis)
}

const FIELDS: [Field; 12] = [
    ("head_timeout", |l, v| l.head_timeout = time(v), 1, u64::MAX),
    ("body_timeout", |l, v| l.body_timeout = time(v), 1, u64::MAX),
    (
        "write_timeout",
        |l, v| l.write_timeout = time(v),
        1,
        u64::MAX,
    ),
    ("idle_timeout", |l, v| l.idle_timeout = time(v), 1, u64::MAX),
    (
        "bytes_per_second_min",
        |l, v| l.bytes_per_second_min = v,
        1,
        u64::MAX,
    ),
    (
        "head_bytes_max",
        |l, v| l.head_bytes_max = small(v),
        18,
        65_535,
    ),
    (
        "target_bytes_max",
        |l, v| l.target_bytes_max = small(v),
        1,
        65_535,
    ),
    (
        "fields_max",
        |l, v| l.fields_max = v.map_or(256, |v| small(Some(v))),
        1,
        256,
    ),
    ("body_bytes_max", |l, v| l.body_bytes_max = v, 0, u64::MAX),
    (
        "connections_max",
        |l, v| l.connections_max = size(v),
        1,
        u64::MAX,
    ),
    (
        "receive_memory_max",
        |l, v| l.receive_memory_max = size(v),
        2 << 20,
        u64::MAX,
    ),
    (
        "drain_timeout",
        |l, v| l.drain_timeout = time(v),
        0,
        u64::MAX,
    ),
];

#[test]
fn every_field_of_the_limits_at_its_extremes() {
    for (name, set, least, most) in FIELDS {
        let mut values = vec![0, 1, least.saturating_sub(1), least, most];
        // What the field's type cannot hold cannot be asked for.
        values.extend(most.checked_add(1).filter(|&beyond| beyond < 65_536));
        values.dedup();
        for value in values.into_iter().map(Some).chain([None]) {
            let mut limits = Limits::default();
            set(&mut limits, value);
            let what = format!("{name}: {value:?}");
            if value.is_none_or(|value| (least..=most).contains(&value)) {
                let server = Local::start_within(limits, || hello);
                let is_hasty = name.ends_with("_timeout") && value == Some(1);
                is_served(server.connect(), is_hasty, &what);
                server.stop();
                continue;
            }
            let error: Error = builder().limits(limits).start(|| hello).expect_err(&what);
            assert_eq!(error.kind(), ErrorKind::Configuration, "{what}");
            let says = error.to_string();
            let is_low = value.is_some_and(|value| value < least);
            let cure = if is_low { "raise" } else { "lower" };
            assert!(says.contains(name) && says.contains(cure), "{what}: {says}");
        }
    }
}

/// Without request bodies, a request that has none is served, and another is refused.
#[test]
fn no_request_bodies() {
    let mut limits = Limits::default();
    limits.body_bytes_max = Some(0);
    let server = Local::start_within(limits, || hello);
    let ask = |framing: &str| {
        let mut client = server.connect();
        client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\n{framing}"));
        client.answer().status
    };
    assert_eq!(ask("\r\n"), 200);
    assert_eq!(ask("Content-Length: 0\r\n\r\n"), 200);
    assert_eq!(ask("Content-Length: 1\r\n\r\n"), 413);
    assert_eq!(ask("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 200);
}

/// A flag with the values that are refused, and those within which the server works.
type Flag = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const LARGEST: &str = "18446744073709551615";

const FLAGS: [Flag; 13] = [
    ("--head-timeout", &["0", "8761h"], &["1ms", "1", "8760h"]),
    ("--body-timeout", &["0", "8761h"], &["1ms", "1", "8760h"]),
    ("--write-timeout", &["0", "8761h"], &["1ms", "1", "8760h"]),
    ("--idle-timeout", &["0", "8761h"], &["1ms", "1", "8760h"]),
    ("--drain-timeout", &["0", "8761h"], &["1ms", "1", "8760h"]),
    ("--min-rate", &["16777216t"], &["0", "1", LARGEST]),
    (
        "--max-head",
        &["0", "1", "17", "64k", LARGEST],
        &["18", "65535"],
    ),
    ("--max-target", &["0", "64k", LARGEST], &["1", "65535"]),
    ("--max-fields", &["0", "257", "65536"], &["1", "256"]),
    (
        "--max-body",
        &["18446744073709551616"],
        &["0", "1", LARGEST],
    ),
    (
        "--max-connections",
        &["18446744073709551616"],
        &["0", "1", LARGEST],
    ),
    (
        "--max-receive-memory",
        &["0", "1", "2097151"],
        &["2m", LARGEST],
    ),
    (
        "--file-cache",
        &["18446744073709551616"],
        &["0", "1", LARGEST],
    ),
];

#[test]
fn every_flag_of_a_limit_at_its_extremes() {
    let folder = Folder::new();
    folder.write("index.html", "hello");
    let folder = folder.path().to_str().expect("a path in UTF-8");
    for (flag, refused, served) in FLAGS {
        for value in refused {
            let what = format!("{flag} {value}");
            let ended = run_with(&mut coring(&["serve", folder, flag, value]), b"");
            assert_eq!(ended.code, Some(2), "{what}: {}", ended.stderr);
            let says = &ended.stderr;
            assert!(
                says.contains(flag) && says.contains(value),
                "{what}: {says}"
            );
        }
        for value in served {
            let what = format!("{flag} {value}");
            let server = Coring::start(&["serve", folder, "--cores", "1", flag, value]);
            is_served(server.connect(), value.ends_with("ms"), &what);
            server.stop();
        }
    }
}
