//! The access log: one line for each request, in the combined format, complete at the end.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use coring::{AccessLog, Request, Response, Server};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat};

use crate::support::{Coring, Ended, Family, Folder, GET, Local, StalledPipe, coring, eventually};

/// Splits a line into its parts: a bracketed or quoted one is one part, without its marks.
fn parts(line: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (part, after) = match rest.as_bytes()[0] {
            b'[' => rest[1..].split_once(']').expect("a closing bracket"),
            b'"' => rest[1..].split_at(closing_quote(&rest[1..])),
            _ => rest.split_at(rest.find(' ').unwrap_or(rest.len())),
        };
        parts.push(part.to_owned());
        let after = after.strip_prefix('"').unwrap_or(after);
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    parts
}

/// Where the first quote is that no backslash makes part of the text.
fn closing_quote(text: &str) -> usize {
    let mut escaped = false;
    let is_end = |c: char| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    };
    text.find(is_end).expect("a closing quote")
}

/// Sends each of `requests` on one connection and ends the server.
fn after(family: Family, arguments: &[&str], requests: &[&str]) -> Ended {
    let server = Coring::start_on(family, arguments);
    let mut client = server.connect();
    for request in requests {
        client.send(request);
        if request.starts_with("HEAD") {
            client.head()
        } else {
            client.answer()
        };
    }
    drop(client);
    server.stop()
}

/// A client that resets the connection behind its request has no address any more when its line is
/// begun.
#[test]
fn who_is_gone_is_no_unix_socket() {
    let folder = Folder::new();
    let file = folder.file("access.log");
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
fn each_request_has_its_line_in_the_combined_format() {
    let folder = Folder::new();
    let file = folder.file("access.log");
    let requests = [
        "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: test/1 (x)\r\nReferer: http://b/c\r\n\r\n",
        "GET /missing?q=%20 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    after(Family::V4, &["--access-log", &file], &requests);
    let log = fs::read_to_string(&file).expect("a log");
    let expected = [
        ["GET / HTTP/1.1", "200", "18", "http://b/c", "test/1 (x)"],
        ["GET /missing?q=%20 HTTP/1.0", "404", "18", "-", "-"],
        ["HEAD / HTTP/1.1", "200", "0", "-", "-"],
    ];
    assert_eq!(log.lines().count(), expected.len(), "{log}");
    for (line, expected) in log.lines().zip(expected) {
        let parts = parts(line);
        assert_eq!(parts[..3], ["127.0.0.1", "-", "-"], "{line}");
        assert_eq!(parts[4..], expected, "{line}");
        let date = &parts[3];
        let places: String = date
            .chars()
            .filter(|c| !c.is_ascii_alphanumeric())
            .collect();
        assert_eq!((places.as_str(), date.len()), ("//::: +", 26), "{line}");
    }
    // A second server goes on in the same file.
    after(Family::V6, &["--access-log", &file], &[GET]);
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
fn what_a_client_sends_cannot_break_its_line() {
    let folder = Folder::new();
    let file = folder.file("access.log");
    let nasty = "GET /%22?\\ HTTP/1.1\r\nHost: a\r\nReferer: \" 200 0 \"\r\n\
        User-Agent: a\"b\tc\\d\u{e9}\r\n\r\n";
    after(Family::V4, &["--access-log", &file], &[nasty]);
    let log = fs::read(&file).expect("a log");
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n');
    assert!(
        log.iter().all(is_plain),
        "{}",
        String::from_utf8_lossy(&log)
    );
    let log = String::from_utf8(log).expect("plain text");
    assert_eq!(log.lines().count(), 1, "{log}");
    let parts = parts(log.trim_end());
    assert_eq!(parts.len(), 9, "{log}");
    assert_eq!(parts[4], r"GET /%22?\\ HTTP/1.1");
    assert_eq!(parts[7], r#"\" 200 0 \""#);
    assert_eq!(parts[8], r#"a\"b\x09c\\d\xC3\xA9"#);
}

#[test]
fn standard_output_can_be_the_log() {
    let ended = after(Family::Unix, &["--access-log", "-"], &[GET, GET]);
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
fn no_log_is_the_default() {
    for arguments in [&[][..], &["--access-log", "off"]] {
        assert_eq!(after(Family::V4, arguments, &[GET]).stdout, "");
    }
}

#[test]
fn no_line_is_lost_under_load() {
    let folder = Folder::new();
    let file = folder.file("access.log");
    let server = Coring::start(&["--access-log", &file]);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = server.connect();
                for _ in 0..100 {
                    client.send(GET.repeat(16));
                    (0..16).for_each(|_| drop(client.answer()));
                }
            });
        }
    });
    assert_eq!(server.stop().stats()["log_lines_dropped"], 0);
    let log = fs::read_to_string(&file).expect("a log");
    assert_eq!(log.lines().count(), 4 * 100 * 16);
    assert!(log.lines().all(|line| parts(line).len() == 9));
}

/// An answer to what was no request has its line, too: the request is shown as "-".
#[test]
fn refusals_have_their_lines() {
    let folder = Folder::new();
    let file = folder.file("access.log");
    let server = Coring::start(&[
        "--access-log",
        &file,
        "--cores",
        "1",
        "--max-connections",
        "1",
        "--head-timeout",
        "1s",
    ]);
    let mut client = server.connect();
    client.send(format!("{GET}GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!([client.answer().status, client.answer().status], [200, 400]);
    assert_eq!(server.ask("").status, 503);
    drop(client);
    eventually("a line of a late head", || {
        let status = server.connect().exchange("GET /").ok()??.status;
        (status == 408).then_some(())
    });
    server.stop();
    let log = fs::read_to_string(&file).expect("a log");
    let found: Vec<_> = log.lines().map(|line| parts(line)[4..].join("|")).collect();
    assert_eq!(found[0], "GET / HTTP/1.1|200|18|-|-");
    for status in ["400", "503", "408"] {
        let is_line =
            |line: &String| line.starts_with(&format!("-|{status}|")) && line.ends_with("|-|-");
        assert!(found[1..].iter().any(is_line), "{status}: {log}");
    }
}

/// A worker that nobody asks for anything has no reason to wake up.
#[test]
fn a_log_does_not_tick() {
    let folder = Folder::new();
    let file = folder.file("access.log");
    let builder = Server::builder().access_log(AccessLog::File(file.clone().into()));
    let server = Local::start_with(builder, || async |_: Request| Response::html("hello"));
    let mut client = server.connect();
    for count in 1..3 {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
        // One line is not much, but it does not wait for ever.
        eventually("the line", || {
            let log = fs::read_to_string(&file).expect("a log");
            (log.lines().count() == count).then_some(())
        });
    }
    let polls = server.count("task_polls");
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(server.count("task_polls"), polls);
    server.stop();
}

/// A pipe without a reader must not hold up the end of the server. Every line is then either in the
/// pipe or counted as lost.
#[test]
fn a_log_that_nobody_reads_does_not_hold_up_the_end() {
    const REQUESTS: usize = 1400;
    let folder = Folder::new();
    let pipe = folder.file("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
    // Held open, so that the server can open its end, and not read.
    let reader = OpenOptions::new().read(true).write(true).open(&pipe);
    let server = Coring::start(&["--access-log", &pipe, "--cores", "1"]);
    let mut client = server.connect();
    // Each line as long as it may be: more than may wait for the writer.
    let request = GET.replacen("/", &format!("/{}", "x".repeat(8000)), 1);
    for _ in 0..REQUESTS {
        client.send(&request);
        assert_eq!(client.answer().status, 404);
    }
    drop(client);
    let ended = server.stop();
    let dropped = ended.stats()["log_lines_dropped"];
    assert!(dropped > 0);
    assert!(ended.stderr.contains("it has lost"), "{}", ended.stderr);
    let mut reader = reader.expect("a pipe");
    fcntl_setfl(&reader, OFlags::NONBLOCK).expect("a pipe that takes flags");
    let mut log = Vec::new();
    // It ends with an error once the pipe is empty, for nobody has closed it.
    reader.read_to_end(&mut log).expect_err("an empty pipe");
    let whole = log.iter().filter(|&&byte| byte == b'\n').count();
    assert_eq!(whole as u64 + dropped, REQUESTS as u64);
}

/// Another process that has the same pipe may make it non-blocking; its reader is slow.
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
        client.answer();
    }
    drop(client);
    // Long enough for more than the pipe holds to be written.
    thread::sleep(Duration::from_secs(2));
    let reading = thread::spawn(move || pipe.read_to_end());
    let ended = server.stop();
    assert_eq!(ended.stats()["log_lines_dropped"], 0);
    let log = String::from_utf8(reading.join().expect("a reader")).expect("text");
    assert_eq!(log.lines().count(), REQUESTS);
    assert!(log.lines().all(|line| parts(line).len() == 9));
}

/// The reader of a pipe is restarted: what it misses is counted, and reported when it is back.
#[test]
fn lines_that_are_lost_by_an_error_are_counted_and_reported() {
    let folder = Folder::new();
    let pipe = folder.file("pipe");
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
    eventually("a word about the failure", || {
        server
            .stderr()
            .contains("cannot write the access log")
            .then_some(())
    });
    let mut reader = open();
    ask("/back");
    assert!(next_line(&mut reader).contains("/back"));
    let told = "coring: the access log is written again; it has lost 3 lines\n";
    eventually("a word about the lines", || {
        server.stderr().contains(told).then_some(())
    });
    let ended = server.stop();
    assert_eq!(ended.stats()["log_lines_dropped"], 3);
}
