//! The access log: one line per request in the combined format, and no line is lost silently.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coring::{AccessLog, AccessLogFormat, Request, Response, Server, StatusCode};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat};

use crate::support::{
    Coring, Ended, Family, GET, Local, StalledPipe, TempDir, builder, coring, eventually, get,
    request,
};

/// Splits a line into its columns. A column in brackets or quotes is returned without them.
fn columns(line: &str) -> Vec<String> {
    let mut columns = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (column, after) = match rest.as_bytes()[0] {
            b'[' => rest[1..].split_once(']').expect("a closing bracket"),
            b'"' => rest[1..].split_at(closing_quote(&rest[1..])),
            _ => rest.split_at(rest.find(' ').unwrap_or(rest.len())),
        };
        columns.push(column.to_owned());
        let after = after.strip_prefix('"').unwrap_or(after);
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    columns
}

/// The offset of the first quote that is not escaped by a backslash.
fn closing_quote(text: &str) -> usize {
    let mut escaped = false;
    let is_end = |c: char| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    };
    text.find(is_end).expect("a closing quote")
}

/// Starts a server, sends each of `requests` on one connection, and stops the server.
fn serve_requests(family: Family, arguments: &[&str], requests: &[&str]) -> Ended {
    let server = Coring::start_on(family, arguments);
    let mut client = server.connect();
    for request in requests {
        client.send(request);
        if request.starts_with("HEAD") {
            client.head()
        } else {
            client.response()
        };
    }
    drop(client);
    server.stop()
}

/// After a reset the kernel no longer reports the client's address. The line must not name the
/// client as a Unix socket.
#[test]
fn a_client_that_resets_is_not_logged_as_a_unix_socket() {
    let directory = TempDir::new();
    let file = directory.file("access.log");
    let server = Coring::start_on(Family::V4, &["--access-log", &file]);
    for _ in 0..200 {
        let mut client = server.connect();
        client.send(GET);
        client.reset();
    }
    server.stop();
    let log = fs::read_to_string(&file).expect("a log");
    assert!(log.contains("GET / HTTP/1.1"), "{log}");
    assert!(!log.contains("unix:"), "{log}");
}

#[test]
fn each_request_has_a_line_in_the_combined_format() {
    let directory = TempDir::new();
    let file = directory.file("access.log");
    let fields = ["User-Agent: test/1 (x)", "Referer: http://b/c"];
    let requests: [&str; 3] = [
        &request("GET", "/", &fields),
        "GET /missing?q=%20 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        &request("HEAD", "/", &[]),
    ];
    serve_requests(Family::V4, &["--access-log", &file], &requests);
    let log = fs::read_to_string(&file).expect("a log");
    let expected = [
        ["GET / HTTP/1.1", "200", "18", "http://b/c", "test/1 (x)"],
        ["GET /missing?q=%20 HTTP/1.0", "404", "18", "-", "-"],
        ["HEAD / HTTP/1.1", "200", "0", "-", "-"],
    ];
    assert_eq!(log.lines().count(), expected.len(), "{log}");
    for (line, expected) in log.lines().zip(expected) {
        let columns = columns(line);
        assert_eq!(columns[..3], ["127.0.0.1", "-", "-"], "{line}");
        assert_eq!(columns[4..], expected, "{line}");
        let date = &columns[3];
        let separators: String = date
            .chars()
            .filter(|c| !c.is_ascii_alphanumeric())
            .collect();
        assert_eq!((separators.as_str(), date.len()), ("//::: +", 26), "{line}");
    }
    // A second server appends to the same file.
    serve_requests(Family::V6, &["--access-log", &file], &[GET]);
    let log = fs::read_to_string(&file).expect("a log");
    assert_eq!(log.lines().count(), expected.len() + 1);
    assert!(
        log.lines()
            .last()
            .is_some_and(|line| line.starts_with("::1 - - [")),
        "{log}"
    );
}

#[test]
fn a_client_cannot_inject_quotes_or_control_bytes() {
    let directory = TempDir::new();
    let file = directory.file("access.log");
    let fields = ["Referer: \" 200 0 \"", "User-Agent: a\"b\tc\\d\u{e9}"];
    let request = request("GET", "/%22?\\", &fields);
    serve_requests(Family::V4, &["--access-log", &file], &[&request]);
    let log = fs::read(&file).expect("a log");
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n');
    assert!(
        log.iter().all(is_plain),
        "{}",
        String::from_utf8_lossy(&log)
    );
    let log = String::from_utf8(log).expect("plain text");
    assert_eq!(log.lines().count(), 1, "{log}");
    let columns = columns(log.trim_end());
    assert_eq!(columns.len(), 9, "{log}");
    assert_eq!(columns[4], r"GET /%22?\\ HTTP/1.1");
    assert_eq!(columns[7], r#"\" 200 0 \""#);
    assert_eq!(columns[8], r#"a\"b\x09c\\d\xC3\xA9"#);
}

#[test]
fn a_dash_logs_to_standard_output() {
    let ended = serve_requests(Family::Unix, &["--access-log", "-"], &[GET, GET]);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ended.stdout);
    assert!(
        lines
            .iter()
            .all(|line| line.contains("\"GET / HTTP/1.1\" 200 18 ")),
        "{lines:?}"
    );
}

#[test]
fn requests_of_skipped_paths_are_not_logged() {
    let arguments = [
        "--access-log=-",
        "--access-log-skip=/health",
        "--access-log-skip=/assets/*,/metrics",
    ];
    let paths = [
        "/health",
        "/health?full=1",
        "/assets/",
        "/assets/a.js",
        "/metrics",
        "/healthy",
        "/assets",
        "/health/",
        "/",
        "/other?p=/health",
    ];
    let requests = paths.map(|path| request("GET", path, &[]));
    let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
    let ended = serve_requests(Family::V4, &arguments, &requests);
    let logged = ended.stdout.lines().map(|line| columns(line)[4].clone());
    let logged: Vec<String> = logged.collect();
    assert_eq!(
        logged,
        [
            "GET /healthy HTTP/1.1",
            "GET /assets HTTP/1.1",
            "GET /health/ HTTP/1.1",
            "GET / HTTP/1.1",
            "GET /other?p=/health HTTP/1.1",
        ]
    );
    for wrong in ["health", "", "/a*b"] {
        let wrong = format!("--access-log-skip={wrong}");
        let ended = coring(&[&wrong]).output().expect("coring");
        assert_eq!(ended.status.code(), Some(2), "{wrong}: {ended:?}");
    }
}

#[test]
fn the_log_is_off_by_default() {
    for arguments in [&[][..], &["--access-log", "off"]] {
        assert_eq!(serve_requests(Family::V4, arguments, &[GET]).stdout, "");
    }
}

#[test]
fn no_line_is_lost_under_load() {
    let directory = TempDir::new();
    let file = directory.file("access.log");
    let server = Coring::start(&["--access-log", &file]);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = server.connect();
                for _ in 0..100 {
                    client.send(GET.repeat(16));
                    (0..16).for_each(|_| drop(client.response()));
                }
            });
        }
    });
    assert_eq!(server.stop().stats()["log_lines_dropped"], 0);
    let log = fs::read_to_string(&file).expect("a log");
    assert_eq!(log.lines().count(), 4 * 100 * 16);
    assert!(log.lines().all(|line| columns(line).len() == 9));
}

/// A refused request has a line with as much of the request line as has arrived.
#[test]
fn refused_requests_are_logged_as_they_came() {
    let directory = TempDir::new();
    let file = directory.file("access.log");
    let server = Coring::start(&[
        "--access-log",
        &file,
        "--cores",
        "1",
        "--max-connections",
        "1",
        "--head-timeout",
        "1s",
        "--max-body",
        "9",
    ]);
    let mut client = server.connect();
    client.send(GET);
    assert_eq!(client.response().status, 200);
    assert_eq!(server.get("/of-too-many").status, 503);
    client.send(get("/a \"b"));
    assert_eq!(client.response().status, 400);
    drop(client);
    for (sent, expected) in [
        ("GET /late HTTP/1.1\r\nHost", 408),
        (
            "POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n",
            413,
        ),
        ("GET /version HTTP/3.0\r\n\r\n", 505),
    ] {
        eventually("a response other than 503", || {
            let status = server.connect().exchange(sent).ok()??.status;
            (status == expected).then_some(())
        });
    }
    server.stop();
    let log = fs::read_to_string(&file).expect("a log");
    let found = log.lines().map(|line| columns(line)[4..].join("|"));
    let found: Vec<String> = found.collect();
    for expected in [
        "GET / HTTP/1.1|200|18|-|-",
        "GET /of-too-many HTTP/1.1|503|",
        r#"GET /a \"b HTTP/1.1|400|"#,
        "GET /late HTTP/1.1|408|",
        "POST /large HTTP/1.1|413|",
        "GET /version HTTP/3.0|505|",
    ] {
        let has_begun = |line: &String| line.starts_with(expected) && line.ends_with("|-|-");
        assert!(found.iter().any(has_begun), "{expected}: {log}");
    }
}

/// A server of `body`, whose log has the status, the bytes and what went wrong.
fn start_with_errors_logged(file: &str, body: Bytes) -> Local {
    let format = AccessLogFormat::parse("%(U)s %(s)s %(B)s %(X)s").expect("a format");
    let builder = builder()
        .access_log(AccessLog::File(file.into()))
        .access_log_format(format);
    Local::start_with(builder, move || {
        let body = body.clone();
        async move |request: Request| match request.path() {
            "/panic" => panic!("a test's panic"),
            _ => Response::new(StatusCode::OK).with_body(body.clone()),
        }
    })
}

#[test]
fn a_line_has_what_was_sent_and_why_no_more_was() {
    const BODY_BYTES: usize = 32 << 20;
    let directory = TempDir::new();
    let file = directory.file("access.log");
    let server = start_with_errors_logged(&file, vec![b'x'; BODY_BYTES].into());
    let mut client = server.connect();
    client.send(get("/whole"));
    assert_eq!(client.response().body.len(), BODY_BYTES);
    client.send(get("/cut"));
    client.head();
    client.reset();
    let mut client = server.connect();
    client.send(get("/panic"));
    assert_eq!(client.response().status, 500);
    let mut client = server.connect();
    client.send("GET /a b HTTP/1.1\r\n\r\n");
    assert_eq!(client.response().status, 400);
    let log = eventually("four lines", || {
        let log = fs::read_to_string(&file).ok()?;
        (log.lines().count() == 4).then_some(log)
    });
    server.stop();
    let line = |path: &str| log.lines().find_map(|line| line.strip_prefix(path));
    let whole = format!(" 200 {BODY_BYTES} -");
    assert_eq!(line("/whole"), Some(&*whole), "{log}");
    let cut = line("/cut").and_then(|line| line.split_once(r" client\x20reset"));
    let sent = cut.and_then(|(sent, _)| sent.strip_prefix(" 200 "));
    let sent: usize = sent.and_then(|sent| sent.parse().ok()).expect(&log);
    assert!((1..BODY_BYTES).contains(&sent), "{log}");
    assert_eq!(
        line("/panic"),
        Some(r" 500 22 service\x20panicked"),
        "{log}"
    );
    let refused = r"\x20b 400 22 malformed\x20request\x20line";
    assert_eq!(line("/a"), Some(refused), "{log}");
}

/// A line leaves an idle server after 100 ms. The test tolerates seconds, for a busy machine.
#[test]
fn a_line_does_not_wait_for_another_request() {
    let directory = TempDir::new();
    let file = directory.file("access.log");
    for log in ["-", &file] {
        let server = Coring::start(&["--access-log", log]);
        let mut client = server.connect();
        client.send(GET);
        assert_eq!(client.response().status, 200);
        let answered = Instant::now();
        eventually("the line", || {
            let text = match log {
                "-" => server.stdout(),
                file => fs::read_to_string(file).expect("a log"),
            };
            text.ends_with('\n').then_some(())
        });
        let delay = answered.elapsed();
        assert!(delay < Duration::from_secs(10), "{log}: {delay:?}");
        // The connection is still open: it was not its end that wrote the line.
        client.send(GET);
        assert_eq!(client.response().status, 200);
        server.stop();
    }
}

/// The log must not wake an idle worker periodically.
#[test]
fn the_log_does_not_wake_an_idle_worker() {
    let directory = TempDir::new();
    let file = directory.file("access.log");
    let builder = Server::builder().access_log(AccessLog::File(file.clone().into()));
    let server = Local::start_with(builder, || async |_: Request| Response::html("hello"));
    let mut client = server.connect();
    for count in 1..3 {
        client.send(GET);
        assert_eq!(client.response().status, 200);
        // A single line is written after a short delay.
        eventually("the line is in the file", || {
            let log = fs::read_to_string(&file).expect("a log");
            (log.lines().count() == count).then_some(())
        });
    }
    let polls = server.count("task_polls");
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(server.count("task_polls"), polls);
    server.stop();
}

/// The process exits although nothing reads the log's pipe. Every line is then either in the pipe
/// or counted as dropped.
#[test]
fn a_log_pipe_that_is_not_read_does_not_delay_the_exit() {
    const REQUESTS: usize = 1400;
    let directory = TempDir::new();
    let pipe = directory.file("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
    // The server can open a FIFO for writing only while a reader has it open.
    let reader = OpenOptions::new().read(true).write(true).open(&pipe);
    let server = Coring::start(&["--access-log", &pipe, "--cores", "1"]);
    let mut client = server.connect();
    // The lines are as long as possible and exceed what the log buffers.
    let request = GET.replacen("/", &format!("/{}", "x".repeat(8000)), 1);
    for _ in 0..REQUESTS {
        client.send(&request);
        assert_eq!(client.response().status, 404);
    }
    drop(client);
    let ended = server.stop();
    let dropped = ended.stats()["log_lines_dropped"];
    assert!(dropped > 0);
    assert!(ended.stderr.contains("lines were lost"), "{}", ended.stderr);
    let mut reader = reader.expect("a pipe");
    fcntl_setfl(&reader, OFlags::NONBLOCK).expect("a pipe whose flags can be set");
    let mut log = Vec::new();
    // The read fails with EAGAIN once the pipe is empty, because its writing end is open.
    reader.read_to_end(&mut log).expect_err("an empty pipe");
    let written = log.iter().filter(|&&byte| byte == b'\n').count();
    assert_eq!(written as u64 + dropped, REQUESTS as u64);
}

/// Another process that shares the pipe may set O_NONBLOCK on it, and the reader may be slow.
#[test]
fn no_line_is_lost_on_a_pipe_that_another_process_made_nonblocking() {
    const REQUESTS: usize = 400;
    let pipe = StalledPipe::new();
    pipe.set_nonblocking(true);
    let command = coring(&["--access-log", "-", "--stats"]);
    let server = Coring::start_on_socket(command, pipe.writer(), Stdio::piped());
    let mut client = server.connect();
    let request = GET.replacen("/", &format!("/{}", "x".repeat(1000)), 1);
    for _ in 0..REQUESTS {
        client.send(&request);
        client.response();
    }
    drop(client);
    // Give the log time to fill the pipe: the lines exceed its capacity.
    thread::sleep(Duration::from_secs(2));
    let mut log = pipe.follow();
    // At its end the server does not wait long for a reader.
    eventually("all lines", || {
        (log.text().lines().count() == REQUESTS).then_some(())
    });
    assert_eq!(server.stop().stats()["log_lines_dropped"], 0);
    let log = log.whole();
    assert_eq!(log.lines().count(), REQUESTS);
    assert!(log.lines().all(|line| columns(line).len() == 9));
}

/// Lines that are lost while a pipe has no reader are counted, and reported when a reader is back.
#[test]
fn lines_lost_to_a_write_error_are_counted_and_reported() {
    let directory = TempDir::new();
    let pipe = directory.file("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
    const NONBLOCK: i32 = OFlags::NONBLOCK.bits().cast_signed();
    let open = || {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(NONBLOCK);
        BufReader::new(options.open(&pipe).expect("a pipe"))
    };
    let mut reader = open();
    let server = Coring::start(&["--access-log", &pipe, "--cores", "1"]);
    let ask = |path: &str| {
        let request = GET.replacen("/", path, 1);
        assert_eq!(server.ask(request).status, 404);
    };
    let next_line = |reader: &mut BufReader<File>| {
        eventually("a line", || {
            let mut line = String::new();
            reader
                .read_line(&mut line)
                .is_ok_and(|len| len > 0)
                .then_some(line)
        })
    };
    ask("/first");
    assert!(next_line(&mut reader).contains("/first"));
    drop(reader);
    for path in ["/lost-1", "/lost-2", "/lost-3"] {
        ask(path);
    }
    eventually("a message about the failure", || {
        server
            .stderr()
            .contains("cannot write the access log")
            .then_some(())
    });
    let mut reader = open();
    ask("/back");
    assert!(next_line(&mut reader).contains("/back"));
    let message = "coring: the access log is written again: 3 lines were lost\n";
    eventually("a message about the lost lines", || {
        server.stderr().contains(message).then_some(())
    });
    let ended = server.stop();
    assert_eq!(ended.stats()["log_lines_dropped"], 3);
}
