//! Every limit at 0, at 1, at the least and the largest valid value, and beyond: the server
//! works within it, or says which limit is wrong and how to mend it.

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

/// A field of the limits: its name, how it is set (as far as the value fits), and its least and
/// largest valid values.
type Field = (&'static str, fn(&mut Limits, u64), u64, u64);

fn small(value: u64) -> u16 {
    value.try_into().unwrap_or(u16::MAX)
}

fn size(value: u64) -> usize {
    value.try_into().unwrap_or(usize::MAX)
}

const FIELDS: [Field; 12] = [
    ("head_timeout_ms", |l, v| l.head_timeout_ms = v, 1, u64::MAX),
    ("body_timeout_ms", |l, v| l.body_timeout_ms = v, 1, u64::MAX),
    (
        "write_timeout_ms",
        |l, v| l.write_timeout_ms = v,
        1,
        u64::MAX,
    ),
    ("idle_timeout_ms", |l, v| l.idle_timeout_ms = v, 1, u64::MAX),
    (
        "bytes_per_second_min",
        |l, v| l.bytes_per_second_min = v,
        0,
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
    ("fields_max", |l, v| l.fields_max = small(v), 1, 256),
    ("body_bytes_max", |l, v| l.body_bytes_max = v, 0, u64::MAX),
    (
        "connections_max",
        |l, v| l.connections_max = size(v),
        0,
        u64::MAX,
    ),
    (
        "receive_memory_max",
        |l, v| l.receive_memory_max = size(v),
        2 << 20,
        u64::MAX,
    ),
    (
        "drain_timeout_ms",
        |l, v| l.drain_timeout_ms = v,
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
        for value in values {
            let mut limits = Limits::default();
            set(&mut limits, value);
            let what = format!("{name}: {value}");
            if (least..=most).contains(&value) {
                let server = Local::start_within(limits, || hello);
                is_served(server.connect(), name.ends_with("_ms") && value == 1, &what);
                server.stop();
                continue;
            }
            let error: Error = builder().limits(limits).start(|| hello).expect_err(&what);
            assert_eq!(error.kind(), ErrorKind::Configuration, "{what}");
            let says = error.to_string();
            let cure = if value < least { "raise" } else { "lower" };
            assert!(says.contains(name) && says.contains(cure), "{what}: {says}");
        }
    }
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
