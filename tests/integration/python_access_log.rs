//! `coring run`: the formats of the access log.

use std::fs;
use std::process::Command;

use crate::support::{Coring, TempDir, coring, get, request, run_application, run_with};

/// The lines of a server's log, which has ended.
fn lines(directory: &TempDir) -> Vec<String> {
    let log = fs::read_to_string(directory.file("log")).expect("a log");
    log.lines().map(str::to_owned).collect()
}

/// Runs an application with a log in `directory`.
fn run(name: &str, directory: &TempDir, flags: &[&str]) -> (Coring, TempDir) {
    let log = format!("--access-log={}", directory.file("log"));
    run_application(name, &[&[&*log], flags].concat())
}

#[test]
fn each_kind_of_application_has_the_format_of_its_server() {
    let fields = [
        "Authorization: Basic YWxpY2U6c2VjcmV0",
        "X-Forwarded-For: 9.9.9.9",
        "User-Agent: a \"b\"",
    ];
    let directory = TempDir::new();
    let (server, _ledger) = run("wsgi", &directory, &[]);
    assert_eq!(server.ask(request("GET", "/?q", &fields)).status, 200);
    server.stop();
    let lines_of_wsgi = lines(&directory);
    let (before, after) = lines_of_wsgi[0].split_once(" [").expect("a date");
    assert_eq!(before, "127.0.0.1 - alice");
    let (_, rest) = after.split_once("] ").expect("a date");
    assert_eq!(rest, r#""GET /?q HTTP/1.1" 200 5 "-" "a \"b\"""#);

    let directory = TempDir::new();
    let (server, _ledger) = run("asgi", &directory, &[]);
    server.ask(request("GET", "/?q", &fields));
    assert_eq!(server.get("/fail").status, 500);
    server.stop();
    let lines = lines(&directory);
    assert_eq!(
        lines[0],
        r#"INFO:     9.9.9.9:0 - "GET /?q HTTP/1.1" 200 OK"#
    );
    let (client, rest) = lines[1].split_once(" - ").expect("a client");
    assert!(client.starts_with("INFO:     127.0.0.1:"), "{client}");
    assert_eq!(rest, r#""GET /fail HTTP/1.1" 500 Internal Server Error"#);
}

#[test]
fn a_format_may_ask_for_the_wait_and_the_worker() {
    let format = "%(U)s %(s)s %({queue}x)s %({worker}x)s %(M)s %({content-type}o)s";
    let formats = [
        ("--access-logformat", format),
        ("--access-log-format", format),
    ];
    for ((flag, format), (name, class)) in formats
        .into_iter()
        .zip([("wsgi", "sync"), ("asgi", "asgi")])
    {
        let directory = TempDir::new();
        let (server, _ledger) = run(name, &directory, &["-k", class, flag, format]);
        let mut clients = [server.connect(), server.connect()];
        for client in &mut clients {
            client.send(get("/sleep/2"));
        }
        for client in &mut clients {
            assert_eq!(client.response().status, 200);
        }
        server.stop();
        let mut waits = Vec::new();
        for line in lines(&directory) {
            let values: Vec<&str> = line.split(' ').collect();
            assert_eq!(values[..2], ["/sleep/2", "200"], "{line}");
            waits.push(values[2].parse::<f64>().expect("seconds"));
            assert!(values[3].parse::<u32>().is_ok(), "{line}");
            assert!(
                values[4].parse::<u32>().is_ok_and(|ms| ms >= 1900),
                "{line}"
            );
        }
        waits.sort_by(f64::total_cmp);
        assert_eq!(waits.len(), 2, "{class}");
        // A worker of the class sync runs one after the other.
        assert_eq!(waits[1] >= 1.0, class == "sync", "{class}: {waits:?}");
        assert!(waits[1] < 30.0, "{class}: {waits:?}");
    }
}

#[test]
fn json_is_an_object_in_each_line() {
    let directory = TempDir::new();
    let (server, _ledger) = run("wsgi", &directory, &["--access-logformat", "json"]);
    server.ask(request(
        "GET",
        "/header/%22%0A",
        &["User-Agent: \"\\\u{e9}"],
    ));
    let mut client = server.connect();
    client.send("GET / HTTP/9.9\r\n\r\n");
    assert_eq!(client.response().status, 505);
    server.stop();
    let script = r#"
import json, sys
first, second = map(json.loads, open(sys.argv[1]))
for name, value in {
    "client": "127.0.0.1", "method": "GET", "target": "/header/%22%0A", "protocol": "HTTP/1.1",
    "host": "coring", "status": 200, "bytes": 10, "referer": None, "user_agent": '"\\\xc3\xa9',
}.items():
    assert first.pop(name) == value, (name, value)
assert isinstance(first.pop("seconds"), float)
assert isinstance(first.pop("queue"), float)
assert isinstance(first.pop("worker"), int)
assert len(first.pop("time")) == 20
assert first.pop("error") is None
assert not first, first
assert (second["status"], second["method"], second["protocol"]) == (505, "GET", "HTTP/9.9"), second
assert second["error"] == "unsupported HTTP version", second
"#;
    let log = directory.file("log");
    run_with(Command::new("python3").args(["-c", script, &log]), b"").succeeded();
}

#[test]
fn a_wrong_format_is_refused() {
    for (format, part) in [
        ("%h %r", "write %(NAME)s, as in %(h)s"),
        ("combine", "give auto, gunicorn, uvicorn, json or combined"),
    ] {
        let mut command = coring(&["run", "none.py", "--access-logformat", format]);
        let finished = run_with(&mut command, b"");
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        assert!(finished.stderr.contains(part), "{}", finished.stderr);
    }
}
