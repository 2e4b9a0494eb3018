//! The clients people use: ab, wrk, curl, Python's http.client, nc. No request fails.

use std::fs;
use std::process::Command;

use coring::EngineChoice;

use crate::support::{
    Address, Coring, Family, Folder, HELLO, engine, has_io_uring, noise, python, run, run_with,
};

/// Whether `line` is in `report`, whatever the number of spaces.
#[track_caller]
fn says(report: &str, line: &str) {
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
    says(&report, &format!("Complete requests: {requests}"));
    says(&report, "Failed requests: 0");
    assert!(!report.contains("Non-2xx"), "{report}");
    server.stop();
    report
}

/// Connections that keep their sockets full and read all answers: each gets its share, and so does
/// a client beside them that asks for little.
#[test]
fn greedy_clients_leave_others_their_share() {
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
fn ab_as_the_articles_ran_it() {
    for family in Family::TCP {
        ab(family, &[], 1000);
    }
}

#[test]
fn ab_with_persistent_connections() {
    for family in Family::TCP {
        let report = ab(family, &["-k"], 200_000);
        says(&report, "Keep-Alive requests: 200000");
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
    let folder = Folder::new();
    let script = folder.write(
        "pipeline.lua",
        "function init() sixteen = wrk.format('GET', '/'):rep(16) end
         function request() return sixteen end",
    );
    Family::TCP
        .into_iter()
        .for_each(|family| wrk(family, &["-c64", "-s", &script]));
}

/// The arguments that lead curl to `server`, without noise.
fn curl(server: &Coring, family: Family) -> Vec<String> {
    let url = server.url();
    let place = match family {
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
        place,
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
        let said = run(
            "curl",
            &with(arguments.clone(), &["-w", "|%{http_code} %{content_type}"]),
        );
        assert_eq!(said, format!("{HELLO}|200 text/html; charset=utf-8"));
        let head = run("curl", &with(arguments, &["--head"]));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        server.stop();
    }
}

/// How curl is told to upload a file: its flags, the file among them.
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
    let folder = Folder::new();
    let sent = noise(len);
    let (file, back) = (folder.write("sent", &sent), folder.file("back"));
    for upload in ways {
        let arguments = [curl(&server, family), upload(&file)].concat();
        run("curl", &with(arguments, &["--output", &back]));
        let received = fs::read(&back).expect("what curl wrote");
        assert!(
            received == sent,
            "{family:?}: {} of {len} bytes, or others",
            received.len()
        );
        fs::remove_file(&back).expect("a file of ours");
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
fn a_hundred_mebibytes_go_both_ways_at_once() {
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
    let said = run_with(command.args(arguments), text.as_bytes()).succeeded();
    assert!(said == text);
}

#[test]
fn python_http_client_keeps_one_connection() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &["echo"]);
        run_with(&mut python("http_client.py", &[&server.url()]), b"").succeeded();
        assert_eq!(server.stop().stats()["connections_accepted"], 1);
    }
}

#[test]
fn nc_sends_its_end_and_reads_to_ours() {
    for family in Family::ALL {
        let server = Coring::start_on(family, &[]);
        let place = match server.address() {
            Address::Tcp(address) => {
                vec![address.ip().to_string(), address.port().to_string()]
            }
            Address::Unix(path) => {
                vec!["-U".to_owned(), path.display().to_string()]
            }
        };
        for request in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: nc\r\n\r\n",
        ] {
            // With -N the end of the input becomes a FIN, which must not cost the answer.
            let mut command = Command::new("nc");
            command.args(["-N", "-w", "10"]).args(&place);
            let said = run_with(&mut command, request.as_bytes()).succeeded();
            assert!(
                said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with(HELLO),
                "{said}"
            );
        }
        server.stop();
    }
}
