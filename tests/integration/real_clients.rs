//! Common clients: ab, wrk, curl, Python's http.client and nc. No request may fail.

use std::fs;
use std::process::Command;

use coring::EngineChoice;

use crate::support::{
    Address, Coring, Family, GET, GET_HTTP_1_0, HELLO, TempDir, engine, has_io_uring, noise,
    python, run, run_with,
};

/// Asserts that `report` has `line`, up to the number of spaces.
#[track_caller]
fn assert_reports(report: &str, line: &str) {
    let spaced = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        report.lines().any(|each| spaced(each) == line),
        "no `{line}` in:\n{report}"
    );
}

#[track_caller]
fn ab(family: Family, arguments: &[&str], requests: u32) -> String {
    let server = Coring::start_on(family, &[]);
    let (requests, url) = (requests.to_string(), server.url());
    let report = run(
        "ab",
        &[&["-q", "-n", &requests, "-c", "100"], arguments, &[&url]].concat(),
    );
    assert_reports(&report, &format!("Complete requests: {requests}"));
    assert_reports(&report, "Failed requests: 0");
    assert!(!report.contains("Non-2xx"), "{report}");
    server.stop();
    report
}

/// Many clients send as fast as they can and read all responses. Each of them must make progress,
/// and so must a client that sends only now and then.
#[test]
fn greedy_clients_do_not_starve_others() {
    let server = match engine() {
        EngineChoice::Epoll => "epoll",
        _ if has_io_uring("greedy clients on io_uring") => "uring",
        _ => "epoll",
    };
    let attack = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attack");
    let program = env!("CARGO_BIN_EXE_coring");
    let arguments = [
        attack,
        "--program",
        program,
        "--server",
        server,
        "--clients",
        "300",
        "--seconds",
        "5",
        "--attack",
        "heads",
        "uploads",
    ];
    run("python3", &arguments);
}

#[test]
fn ab_with_a_connection_per_request() {
    for family in Family::TCP {
        ab(family, &[], 1000);
    }
}

#[test]
fn ab_with_persistent_connections() {
    for family in Family::TCP {
        let report = ab(family, &["-k"], 200_000);
        assert_reports(&report, "Keep-Alive requests: 200000");
    }
}

#[track_caller]
fn wrk(family: Family, arguments: &[&str]) {
    let server = Coring::start_on(family, &[]);
    let url = server.url();
    let report = run("wrk", &[&["-t1", "-d2s"], arguments, &[&url]].concat());
    assert!(report.contains("Requests/sec"), "{report}");
    assert!(!report.contains("Socket errors"), "{report}");
    assert!(!report.contains("Non-2xx"), "{report}");
    let ended = server.stop();
    let stats = ended.stats();
    assert!(stats["requests"] > 1000, "{report}");
    assert_eq!(
        stats["closed_by_fault"] + stats["closed_by_timeout"],
        0,
        "{}",
        ended.stderr
    );
}

#[test]
fn wrk_with_64_connections() {
    Family::TCP
        .into_iter()
        .for_each(|family| wrk(family, &["-c64"]));
}

#[test]
fn wrk_with_512_connections() {
    Family::TCP
        .into_iter()
        .for_each(|family| wrk(family, &["-c512"]));
}

#[test]
fn wrk_with_16_pipelined_requests() {
    let directory = TempDir::new();
    let script = directory.write(
        "pipeline.lua",
        "function init() sixteen = wrk.format('GET', '/'):rep(16) end
         function request() return sixteen end",
    );
    Family::TCP
        .into_iter()
        .for_each(|family| wrk(family, &["-c64", "-s", &script]));
}

/// The arguments with which curl connects to `server`, quietly and with a time limit.
fn curl(server: &Coring, family: Family) -> Vec<String> {
    let url = server.url();
    let destination = match family {
        Family::Unix => vec![
            "--unix-socket".to_owned(),
            url,
            "http://localhost/".to_owned(),
        ],
        _ => vec![url],
    };
    [
        vec![
            "-sS".to_owned(),
            "--fail".to_owned(),
            "--max-time".to_owned(),
            "60".to_owned(),
        ],
        destination,
    ]
    .concat()
}

fn with(mut arguments: Vec<String>, more: &[&str]) -> Vec<String> {
    arguments.extend(more.iter().map(|&argument| argument.to_owned()));
    arguments
}

#[test]
fn curl_reads_the_site() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &[]);
        let arguments = curl(&server, family);
        let output = run(
            "curl",
            &with(arguments.clone(), &["-w", "|%{http_code} %{content_type}"]),
        );
        assert_eq!(output, format!("{HELLO}|200 text/html; charset=utf-8"));
        let head = run("curl", &with(arguments, &["--head"]));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        server.stop();
    }
}

/// Makes the arguments with which curl uploads a file.
type Upload = fn(&str) -> Vec<String>;

const BY_LENGTH: Upload = |file| vec!["--data-binary".to_owned(), format!("@{file}")];
const BY_PUT: Upload = |file| vec!["--upload-file".to_owned(), file.to_owned()];
const CHUNKED: Upload = |file| {
    [
        "--header",
        "Transfer-Encoding: chunked",
        "--upload-file",
        file,
    ]
    .map(str::to_owned)
    .to_vec()
};

#[track_caller]
fn uploads(family: Family, len: usize, ways: &[Upload]) {
    let server = Coring::start_on(family, &["echo", "--max-body", "0"]);
    let directory = TempDir::new();
    let sent = noise(len);
    let (file, back) = (directory.write("sent", &sent), directory.file("back"));
    for upload in ways {
        let arguments = [curl(&server, family), upload(&file)].concat();
        run("curl", &with(arguments, &["--output", &back]));
        let received = fs::read(&back).expect("the output of curl");
        assert!(
            received == sent,
            "{family:?}: received {} bytes that are not the {len} bytes sent",
            received.len()
        );
        fs::remove_file(&back).expect("the output of curl");
    }
    server.stop();
}

#[test]
fn curl_uploads_and_gets_every_byte_back() {
    for family in Family::ALL {
        uploads(family, 1, &[BY_LENGTH, BY_PUT, CHUNKED]);
        uploads(family, 3_000_001, &[BY_LENGTH, BY_PUT, CHUNKED]);
    }
}

#[test]
fn curl_uploads_100_mib_and_receives_them_at_the_same_time() {
    uploads(Family::V4, 100 << 20, &[BY_PUT, CHUNKED]);
    uploads(Family::V6, 100 << 20, &[CHUNKED]);
    uploads(Family::Unix, 100 << 20, &[BY_PUT]);
}

#[test]
fn curl_uploads_from_a_pipe() {
    let server = Coring::start(&["echo"]);
    let arguments = with(curl(&server, Family::V4), &["--upload-file", "-"]);
    let mut command = Command::new("curl");
    let text = "line\n".repeat(100_000);
    let output = run_with(command.args(arguments), text.as_bytes()).succeeded();
    assert!(output == text);
}

#[test]
fn python_http_client_uses_one_connection() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &["echo"]);
        run_with(&mut python("http_client.py", &[&server.url()]), b"").succeeded();
        assert_eq!(server.stop().stats()["connections_accepted"], 1);
    }
}

#[test]
fn nc_half_closes_and_reads_the_whole_response() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &[]);
        let destination = match server.address() {
            Address::Tcp(address) => {
                vec![address.ip().to_string(), address.port().to_string()]
            }
            Address::Unix(path) => {
                vec!["-U".to_owned(), path.display().to_string()]
            }
        };
        for request in [GET_HTTP_1_0, GET] {
            // With -N nc sends a FIN after the request. The server must respond nevertheless.
            let mut command = Command::new("nc");
            command.args(["-N", "-w", "10"]).args(&destination);
            let output = run_with(&mut command, request.as_bytes()).succeeded();
            assert!(
                output.starts_with("HTTP/1.1 200 OK\r\n") && output.ends_with(HELLO),
                "{output}"
            );
        }
        server.stop();
    }
}
