//! Every limit at 0, at 1, at its least and greatest valid value, and beyond: the server serves
//! with it, or names the wrong limit and the cure.

use std::time::Duration;

use coring::{Error, ErrorKind, Limits, Request, Response};

use crate::support::{
    Client, Coring, GET_HTTP_1_0, Local, TempDir, builder, coring, is_timeout, request, run_with,
};

async fn hello(_: Request) -> Response {
    Response::text("hello")
}

/// Asserts that the server responds to the shortest request, whose head fits the least limits. If
/// `may_time_out`, a timeout of the server is so short that it may close the connection first.
#[track_caller]
fn assert_served(mut client: Client, may_time_out: bool, what: &str) {
    match client.exchange(GET_HTTP_1_0) {
        Ok(Some(response)) if response.status == 200 => {}
        Ok(_) if may_time_out => {}
        Err(error) if may_time_out && !is_timeout(&error) => {}
        other => panic!("{what}: {other:?}"),
    }
}

/// A field of [`Limits`]: its name, a function that sets it, and its least and greatest valid
/// values. The function clamps the value to the field's type; `None` means no limit.
type Field = (&'static str, fn(&mut Limits, Option<u64>), u64, u64);

/// The value of a field that cannot be `None`.
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
        // A value beyond the range of the field's type cannot be set.
        values.extend(most.checked_add(1).filter(|&beyond| beyond < 65_536));
        values.dedup();
        for value in values.into_iter().map(Some).chain([None]) {
            let mut limits = Limits::default();
            set(&mut limits, value);
            let what = format!("{name}: {value:?}");
            if value.is_none_or(|value| (least..=most).contains(&value)) {
                let server = Local::start_within(limits, || hello);
                let may_time_out = name.ends_with("_timeout") && value == Some(1);
                assert_served(server.connect(), may_time_out, &what);
                server.stop();
                continue;
            }
            let error: Error = builder().limits(limits).start(|| hello).expect_err(&what);
            assert_eq!(error.kind(), ErrorKind::Configuration, "{what}");
            let message = error.to_string();
            let is_low = value.is_some_and(|value| value < least);
            let cures: &[&str] = if is_low {
                &["raise it", "at least"]
            } else {
                &["at most"]
            };
            let has_cure = cures.iter().any(|cure| message.contains(cure));
            assert!(message.contains(name) && has_cure, "{what}: {message}");
        }
    }
}

/// With `body_bytes_max` 0, requests with an empty body or none are served, others are refused.
#[test]
fn a_body_limit_of_0_admits_only_empty_bodies() {
    let mut limits = Limits::default();
    limits.body_bytes_max = Some(0);
    let server = Local::start_within(limits, || hello);
    let ask = |framing: &[&str], body: &str| {
        let mut client = server.connect();
        client.send(request("PUT", "/", framing) + body);
        client.response().status
    };
    assert_eq!(ask(&[], ""), 200);
    assert_eq!(ask(&["Content-Length: 0"], ""), 200);
    assert_eq!(ask(&["Content-Length: 1"], ""), 413);
    assert_eq!(ask(&["Transfer-Encoding: chunked"], "0\r\n\r\n"), 200);
}

/// A flag, the values that coring refuses, and values with which it serves.
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
    let directory = TempDir::new();
    directory.write("index.html", "hello");
    let directory = directory.path().to_str().expect("a path in UTF-8");
    for (flag, refused, served) in FLAGS {
        for value in refused {
            let what = format!("{flag} {value}");
            let ended = run_with(&mut coring(&["serve", directory, flag, value]), b"");
            assert_eq!(ended.code, Some(2), "{what}: {}", ended.stderr);
            let message = &ended.stderr;
            assert!(
                message.contains(flag) && message.contains(value),
                "{what}: {message}"
            );
        }
        for value in served {
            let what = format!("{flag} {value}");
            let server = Coring::start(&["serve", directory, "--cores", "1", flag, value]);
            assert_served(server.connect(), value.ends_with("ms"), &what);
            server.stop();
        }
    }
}
