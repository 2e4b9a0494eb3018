//! `coring serve`: the responses to paths, methods, conditions and ranges, while the files do not
//! change.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use crate::support::{
    Address, Coring, PATIENCE, ReceivedResponse, TempDir, eventually, get, noise, request,
};

#[test]
fn a_path_selects_a_file_or_redirects_to_a_directory() {
    let directory = TempDir::new();
    directory.write("index.html", "top");
    directory.write("empty", "");
    directory.write("a b.txt", "spaced");
    directory.write("ä", "umlaut");
    directory.make("docs");
    directory.write("docs/index.html", "docs");
    directory.make("bare");
    directory.make(".well-known");
    directory.write(".well-known/x", "known");
    directory.write(".hidden", "hidden");
    directory.make("a:b");
    let server = Coring::serve(&directory, &[]);
    for (path, body, media_type) in [
        ("/", "top", "text/html; charset=utf-8"),
        ("/index.html?x=1", "top", "text/html; charset=utf-8"),
        ("/docs/", "docs", "text/html; charset=utf-8"),
        ("//docs//index.html", "docs", "text/html; charset=utf-8"),
        ("/a%20b.txt", "spaced", "text/plain; charset=utf-8"),
        ("/%C3%A4", "umlaut", "application/octet-stream"),
        ("/.well-known/x", "known", "application/octet-stream"),
        ("/empty", "", "application/octet-stream"),
    ] {
        // The first response comes from the file, the second from the cache.
        for _ in 0..2 {
            let response = server.get(path);
            assert_eq!((response.status, response.text()), (200, body), "{path}");
            assert_eq!(response.expect_field("content-type"), media_type, "{path}");
            assert_eq!(response.expect_field("accept-ranges"), "bytes", "{path}");
        }
    }
    for (path, location) in [
        ("/docs", "./docs/"),
        ("/docs?a=//b", "./docs/?a=//b"),
        ("//docs", "./docs/"),
        ("/%64ocs", "./%64ocs/"),
        ("/a:b", "./a:b/"),
    ] {
        let response = server.get(path);
        assert_eq!(response.status, 301, "{path}");
        assert_eq!(response.expect_field("location"), location, "{path}");
    }
    for path in [
        "/none",
        "/bare/",
        "/index.html/",
        "/.hidden",
        "/docs/none",
        "/none/",
    ] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let response = server.ask(request(method, "/", &["Content-Length: 0"]));
        assert_eq!(
            (response.status, response.expect_field("allow")),
            (405, "GET, HEAD"),
            "{method}"
        );
    }
}

#[test]
fn a_directory_without_an_index_is_listed_with_the_flag() {
    let directory = TempDir::new();
    directory.write("b.txt", "text");
    directory.write("a&b", "");
    directory.write(".hidden", "");
    directory.make("sub");
    let banner_has = |server: &Coring, words: &str| {
        eventually(words, || server.stderr().contains(words).then_some(()));
    };
    let server = Coring::serve(&directory, &[]);
    banner_has(
        &server,
        "(no index.html in it: --listing shows what is there)",
    );
    assert_eq!(server.get("/").status, 404);
    server.stop();
    let server = Coring::serve(&directory, &["--listing"]);
    banner_has(&server, ", and lists its directories");
    let page = server.get("/");
    let content_type = page.expect_field("content-type");
    assert_eq!(
        (page.status, content_type),
        (200, "text/html; charset=utf-8")
    );
    let links = page.text().split("<td><a href=\"").skip(1);
    let links: Vec<&str> = links.filter_map(|link| link.split('"').next()).collect();
    assert_eq!(links, ["./sub/", "./a%26b", "./b.txt"]);
    assert!(page.text().contains(">a&amp;b</a><td>0 B<td>"));
    assert_eq!(server.get("/a%26b").status, 200);
    assert_eq!(server.get("/sub").expect_field("location"), "./sub/");
    assert!(server.get("/sub/").text().contains("href=\"../\""));
    directory.write("index.html", "top");
    assert_eq!(server.get("/").text(), "top");
    server.stop();
    let banner = Coring::serve(&directory, &[]).stop().stderr;
    assert!(!banner.contains("--listing"), "{banner}");
}

#[test]
fn responses_to_get_and_head_have_the_same_head() {
    let directory = TempDir::new();
    directory.write_old("small.css", "p {}");
    directory.write_old("large", noise(1 << 20));
    directory.write_old("empty", "");
    directory.make("d");
    let server = Coring::serve(&directory, &[]);
    for path in ["/small.css", "/large", "/empty", "/none", "/d"] {
        let mut client = server.connect();
        client.send(request("HEAD", path, &[]));
        let head = client.head();
        client.send(get(path));
        let response = client.response();
        let lines = |response: &ReceivedResponse| -> Vec<String> {
            let lines = response
                .head
                .lines()
                .filter(|line| !line.starts_with("Date:"));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(lines(&head), lines(&response), "{path}");
        // If the response to HEAD had a body, it would be taken for the next response.
        client.send(get("/small.css"));
        assert_eq!(client.response().text(), "p {}");
    }
}

#[test]
fn files_arrive_whole_and_in_ranges() {
    let directory = TempDir::new();
    for (name, len) in [
        ("a", 1),
        ("b", 64 << 10),
        ("c", (256 << 10) + 1),
        ("d", 1 << 20),
        ("e", 64 << 20),
    ] {
        let content = noise(len);
        directory.write(name, &content);
        for flags in [&[][..], &["--file-cache", "0"]] {
            let server = Coring::serve(&directory, flags);
            let path = format!("/{name}");
            for _ in 0..2 {
                assert!(server.get(&path).body == content, "{len} bytes");
            }
            let mut slow = server.connect();
            slow.set_receive_buffer(16 << 10);
            slow.send(get(&path));
            let head = slow.head();
            assert_eq!(head.expect_field("content-length"), len.to_string());
            let mut received = Vec::new();
            while received.len() < len {
                if received.len() < 1 << 20 {
                    thread::sleep(Duration::from_millis(10));
                }
                let next = (len - received.len()).min(len / 16 + 1);
                received.extend(slow.take(next).expect("more of the body"));
            }
            assert!(received == content, "{len} bytes to a slow client");
            let mut client = server.connect();
            for (range, part) in [
                ("0-0".to_owned(), 0..1),
                (format!("{}-", len / 2), len / 2..len),
                (format!("{}-{}", len / 3, len * 9), len / 3..len),
                ("-1".to_owned(), len - 1..len),
            ] {
                client.send(request("GET", &path, &[&format!("Range: bytes={range}")]));
                let response = client.response();
                assert_eq!(response.status, 206, "{range} of {len}");
                assert_eq!(
                    response.expect_field("content-range"),
                    format!("bytes {}-{}/{len}", part.start, part.end - 1)
                );
                assert!(response.body == content[part], "{range} of {len}");
            }
        }
    }
}

/// Whether the process has a memfd with cached content.
fn has_memfd(pid: u32) -> bool {
    let names = fs::read_dir(format!("/proc/{pid}/fd")).expect("a child process");
    names
        .filter_map(|name| fs::read_link(name.ok()?.path()).ok())
        .any(|path| path.starts_with("/memfd:coring-file-cache (deleted)"))
}

/// Responses from a memfd arrive in order between other responses. If the file is replaced while a
/// slow client reads them, each response has either all of the old or all of the new content.
#[test]
fn responses_from_a_memfd_arrive_in_order_and_whole() {
    let directory = TempDir::new();
    let (large, copied, small) = (noise(90_000), noise(200_000), noise(3000));
    directory.write("large", &large);
    directory.write("copied", &copied);
    directory.write("small", &small);
    // The server does not cache a file that was written just before.
    thread::sleep(Duration::from_millis(50));
    let server = Coring::serve(&directory, &["--cores", "1"]);
    eventually("a memfd", || {
        assert!(server.get("/large").body == large);
        has_memfd(server.pid()).then_some(())
    });
    let round = [
        get("/large"),
        request("HEAD", "/large", &[]),
        get("/small"),
        get("/copied"),
        request("GET", "/large", &["Range: bytes=7-80000"]),
    ];
    let mut client = server.connect();
    client.send(round.concat().repeat(20));
    for _ in 0..20 {
        assert!(client.response().body == large);
        assert_eq!(client.head().expect_field("content-length"), "90000");
        assert!(client.response().body == small);
        assert!(client.response().body == copied);
        assert!(client.response().body == large[7..=80_000]);
    }
    let mut slow = server.connect();
    slow.set_receive_buffer(64 << 10);
    slow.send(get("/large").repeat(60));
    assert_eq!(slow.head().status, 200);
    let next: Vec<u8> = large.iter().rev().copied().collect();
    directory.write("next", &next);
    fs::rename(directory.file("next"), directory.file("large")).expect("a replaced file");
    eventually("the new content", || {
        (server.get("/large").body == next).then_some(())
    });
    assert!(slow.take(large.len()).expect("the body") == large);
    for _ in 1..60 {
        let body = slow.response().body;
        assert!(body == large || body == next);
    }
}

#[test]
fn a_sparse_file_of_5_gib_is_served() {
    const LEN: u64 = 5 << 30;
    let directory = TempDir::new();
    let file = File::create(directory.file("sparse")).expect("a new file");
    file.set_len(LEN).expect("a file system with sparse files");
    file.write_all_at(b"beyond 4 GiB", 4 << 30)
        .expect("a write");
    file.write_all_at(b"end", LEN - 3).expect("a write");
    let server = Coring::serve(&directory, &[]);
    let mut client = server.connect();
    client.send(request("HEAD", "/sparse", &[]));
    assert_eq!(
        client.head().expect_field("content-length"),
        LEN.to_string()
    );
    for (range, expected) in [
        (
            format!("bytes={}-{}", 4_u64 << 30, (4_u64 << 30) + 11),
            "beyond 4 GiB",
        ),
        ("bytes=-3".to_owned(), "end"),
        (format!("bytes={}-", LEN - 4), "\0end"),
    ] {
        client.send(request("GET", "/sparse", &[&format!("Range: {range}")]));
        let response = client.response();
        assert_eq!(
            (response.status, response.text()),
            (206, expected),
            "{range}"
        );
    }
    let beyond = server.ask(request(
        "GET",
        "/sparse",
        &[&format!("Range: bytes={LEN}-")],
    ));
    assert_eq!(beyond.status, 416);
    let Address::Tcp(address) = server.address() else {
        unreachable!("the server listens on TCP");
    };
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let whole = request("GET", "/sparse", &["Connection: close"]);
    stream
        .write_all(whole.as_bytes())
        .expect("a peer that reads");
    let mut reader = BufReader::with_capacity(1 << 20, stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("a line of the head");
    }
    let mut most = reader.by_ref().take(LEN - 3);
    let count = io::copy(&mut most, &mut io::sink()).expect("most of the body");
    let mut end = Vec::new();
    reader.read_to_end(&mut end).expect("the end of the body");
    assert_eq!((count, &end[..]), (LEN - 3, &b"end"[..]));
}

#[test]
fn preconditions_are_evaluated() {
    let directory = TempDir::new();
    directory.write_old("a", "content");
    let server = Coring::serve(&directory, &[]);
    let first = server.get("/a");
    let (etag, date) = (
        first.expect_field("etag"),
        first.expect_field("last-modified"),
    );
    assert!(etag.starts_with('"'), "a strong tag: {etag}");
    let past = "Thu, 01 Jan 1970 00:00:00 GMT";
    let future = "Fri, 31 Dec 9999 23:59:59 GMT";
    for (line, status) in [
        (format!("If-None-Match: {etag}"), 304),
        (format!("If-None-Match: W/{etag}"), 304),
        ("If-None-Match: *".to_owned(), 304),
        ("If-None-Match: \"x\"".to_owned(), 200),
        (format!("If-Modified-Since: {date}"), 304),
        (format!("If-Modified-Since: {future}"), 304),
        (format!("If-Modified-Since: {past}"), 200),
        (
            format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}"),
            200,
        ),
        (format!("If-Match: {etag}"), 200),
        ("If-Match: *".to_owned(), 200),
        (format!("If-Match: W/{etag}"), 412),
        ("If-Match: \"x\"".to_owned(), 412),
        (format!("If-Unmodified-Since: {date}"), 200),
        (format!("If-Unmodified-Since: {past}"), 412),
    ] {
        for method in ["GET", "HEAD"] {
            let mut client = server.connect();
            client.send(request(method, "/a", &[&line]));
            let head = client.head();
            assert_eq!(head.status, status, "{method} {line}");
            if status == 304 {
                assert_eq!(
                    (
                        head.expect_field("etag"),
                        head.expect_field("last-modified")
                    ),
                    (etag, date)
                );
                assert!(
                    head.field("content-length").is_none_or(|len| len == "7"),
                    "{}",
                    head.head
                );
            }
        }
    }
}

#[test]
fn a_range_needs_get_a_single_range_and_a_matching_if_range() {
    let directory = TempDir::new();
    directory.write_old("a", "0123456789");
    directory.write("empty", "");
    let server = Coring::serve(&directory, &[]);
    let first = server.get("/a");
    let (etag, date) = (
        first.expect_field("etag"),
        first.expect_field("last-modified"),
    );
    let ask = |method, path, fields: &[&str]| {
        let mut client = server.connect();
        client.send(request(method, path, fields));
        if method == "HEAD" {
            client.head()
        } else {
            client.response()
        }
    };
    for (if_range, expected) in [
        (etag, (206, "345")),
        (date, (206, "345")),
        ("\"x\"", (200, "0123456789")),
        ("Thu, 01 Jan 1970 00:00:00 GMT", (200, "0123456789")),
        (&format!("W/{etag}"), (200, "0123456789")),
    ] {
        let if_range = format!("If-Range: {if_range}");
        let response = ask("GET", "/a", &["Range: bytes=3-5", &if_range]);
        assert_eq!((response.status, response.text()), expected, "{if_range}");
    }
    for range in ["bytes=0-1,3-4", "lines=1-2", "bytes=5-4"] {
        let response = ask("GET", "/a", &[&format!("Range: {range}")]);
        assert_eq!(
            (response.status, response.text()),
            (200, "0123456789"),
            "{range}"
        );
    }
    let response = ask("GET", "/a", &["Range: bytes=10-"]);
    assert_eq!(
        (response.status, response.expect_field("content-range")),
        (416, "bytes */10")
    );
    let response = ask("GET", "/empty", &["Range: bytes=0-"]);
    assert_eq!(
        (response.status, response.expect_field("content-range")),
        (416, "bytes */0")
    );
    let response = ask("HEAD", "/a", &["Range: bytes=3-5"]);
    assert_eq!(
        (response.status, response.expect_field("content-length")),
        (200, "10")
    );
    let not_modified = format!("If-None-Match: {etag}");
    assert_eq!(
        ask("GET", "/a", &["Range: bytes=3-5", &not_modified]).status,
        304
    );
}
