//! `coring serve`: what comes of a path, of conditions and ranges, and that nothing from outside
//! the folder ever does. What happens when files change is in `serve_changes`.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Address, Answer, Coring, Folder, PATIENCE, coring, eventually, noise, run_with,
};

/// What lies outside the folder that is served.
const SECRET: &str = "nobody may read this";

/// `request` for `path` with some more field lines.
pub(crate) fn request(method: &str, path: &str, fields: &[&str]) -> String {
    let fields: String = fields.iter().map(|line| format!("{line}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nHost: coring\r\n{fields}\r\n")
}

pub(crate) fn get(server: &Coring, path: &str) -> Answer {
    server.ask(request("GET", path, &[]))
}

/// A server of `folder`, with more flags.
pub(crate) fn serve(folder: &Folder, flags: &[&str]) -> Coring {
    let path = folder.path().to_str().expect("a path in UTF-8");
    Coring::start(&[&["serve", path], flags].concat())
}

/// What must be there.
#[track_caller]
pub(crate) fn field<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let value = answer.field(name);
    value.unwrap_or_else(|| panic!("no {name} in {}", answer.head))
}

fn make(folder: &Folder, name: &str) {
    fs::create_dir(folder.file(name)).expect("a new folder");
}

#[test]
fn paths_lead_to_files_and_folders() {
    let folder = Folder::new();
    folder.write("index.html", "top");
    folder.write("empty", "");
    folder.write("a b.txt", "spaced");
    folder.write("ä", "umlaut");
    make(&folder, "docs");
    folder.write("docs/index.html", "docs");
    make(&folder, "bare");
    make(&folder, ".well-known");
    folder.write(".well-known/x", "known");
    folder.write(".hidden", "hidden");
    make(&folder, "a:b");
    let server = serve(&folder, &[]);
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
        // Once from the file, once from memory.
        for _ in 0..2 {
            let answer = get(&server, path);
            assert_eq!((answer.status, answer.text()), (200, body), "{path}");
            assert_eq!(field(&answer, "content-type"), media_type, "{path}");
            assert_eq!(field(&answer, "accept-ranges"), "bytes", "{path}");
        }
    }
    for (path, location) in [
        ("/docs", "./docs/"),
        ("/docs?a=//b", "./docs/?a=//b"),
        ("//docs", "./docs/"),
        ("/%64ocs", "./%64ocs/"),
        ("/a:b", "./a:b/"),
    ] {
        let answer = get(&server, path);
        assert_eq!(answer.status, 301, "{path}");
        assert_eq!(field(&answer, "location"), location, "{path}");
    }
    for path in [
        "/none",
        "/bare/",
        "/index.html/",
        "/.hidden",
        "/docs/none",
        "/none/",
    ] {
        assert_eq!(get(&server, path).status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = server.ask(request(method, "/", &["Content-Length: 0"]));
        assert_eq!(
            (answer.status, field(&answer, "allow")),
            (405, "GET, HEAD"),
            "{method}"
        );
    }
}

#[test]
fn heads_are_the_same_with_and_without_a_body() {
    let folder = Folder::new();
    folder.write("small.css", "p {}");
    folder.write("large", noise(1 << 20));
    make(&folder, "d");
    let server = serve(&folder, &[]);
    for path in ["/small.css", "/large", "/none", "/d"] {
        let mut client = server.connect();
        client.send(request("HEAD", path, &[]));
        let head = client.head();
        client.send(request("GET", path, &[]));
        let answer = client.answer();
        let lines = |answer: &Answer| -> Vec<String> {
            let lines = answer
                .head
                .lines()
                .filter(|line| !line.starts_with("Date:"));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(lines(&head), lines(&answer), "{path}");
        // The connection is in step: a body that was not to be sent was not.
        client.send(request("GET", "/small.css", &[]));
        assert_eq!(client.answer().text(), "p {}");
    }
}

#[test]
fn contents_arrive_whole_and_in_ranges() {
    let folder = Folder::new();
    for (name, len) in [
        ("a", 1),
        ("b", 64 << 10),
        ("c", (256 << 10) + 1),
        ("d", 1 << 20),
        ("e", 64 << 20),
    ] {
        let content = noise(len);
        folder.write(name, &content);
        for flags in [&[][..], &["--file-cache", "0"]] {
            let server = serve(&folder, flags);
            let path = format!("/{name}");
            for _ in 0..2 {
                assert!(get(&server, &path).body == content, "{len} bytes");
            }
            let mut slow = server.connect();
            slow.receive_at_most(16 << 10);
            slow.send(request("GET", &path, &[]));
            let head = slow.head();
            assert_eq!(field(&head, "content-length"), len.to_string());
            let mut received = Vec::new();
            while received.len() < len {
                if received.len() < 1 << 20 {
                    thread::sleep(Duration::from_millis(10));
                }
                let next = (len - received.len()).min(len / 16 + 1);
                received.extend(slow.take(next).expect("more of the body"));
            }
            assert!(received == content, "{len} bytes, slowly");
            let mut client = server.connect();
            for (range, part) in [
                ("0-0".to_owned(), 0..1),
                (format!("{}-", len / 2), len / 2..len),
                (format!("{}-{}", len / 3, len * 9), len / 3..len),
                ("-1".to_owned(), len - 1..len),
            ] {
                client.send(request("GET", &path, &[&format!("Range: bytes={range}")]));
                let answer = client.answer();
                assert_eq!(answer.status, 206, "{range} of {len}");
                assert_eq!(
                    field(&answer, "content-range"),
                    format!("bytes {}-{}/{len}", part.start, part.end - 1)
                );
                assert!(answer.body == content[part], "{range} of {len}");
            }
        }
    }
}

/// Whether the process has an anonymous file.
fn has_kept_something(pid: u32) -> bool {
    let names = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours");
    names
        .filter_map(|name| fs::read_link(name.ok()?.path()).ok())
        .any(|path| path.starts_with("/memfd:coring-kept (deleted)"))
}

/// What is kept to be sent without copying it goes out between other answers, and to a slow client
/// as it was, even when the file has been replaced meanwhile.
#[test]
fn kept_content_goes_out_in_order_and_as_it_was() {
    let folder = Folder::new();
    let (large, copied, small) = (noise(90_000), noise(200_000), noise(3000));
    folder.write("large", &large);
    folder.write("copied", &copied);
    folder.write("small", &small);
    // A file that has just been written is not kept.
    thread::sleep(Duration::from_millis(50));
    let server = serve(&folder, &["--cores", "1"]);
    eventually("a file of the server's own", || {
        assert!(get(&server, "/large").body == large);
        has_kept_something(server.pid()).then_some(())
    });
    let round = [
        request("GET", "/large", &[]),
        request("HEAD", "/large", &[]),
        request("GET", "/small", &[]),
        request("GET", "/copied", &[]),
        request("GET", "/large", &["Range: bytes=7-80000"]),
    ];
    let mut client = server.connect();
    client.send(round.concat().repeat(20));
    for _ in 0..20 {
        assert!(client.answer().body == large);
        assert_eq!(field(&client.head(), "content-length"), "90000");
        assert!(client.answer().body == small);
        assert!(client.answer().body == copied);
        assert!(client.answer().body == large[7..=80_000]);
    }
    let mut slow = server.connect();
    slow.receive_at_most(64 << 10);
    slow.send(request("GET", "/large", &[]).repeat(60));
    assert_eq!(slow.head().status, 200);
    let next: Vec<u8> = large.iter().rev().copied().collect();
    folder.write("next", &next);
    fs::rename(folder.file("next"), folder.file("large")).expect("a replaced file");
    eventually("the new content", || {
        (get(&server, "/large").body == next).then_some(())
    });
    assert!(slow.take(large.len()).expect("the body") == large);
    for _ in 1..60 {
        let body = slow.answer().body;
        assert!(body == large || body == next);
    }
}

#[test]
fn a_sparse_file_of_5_gib_is_served() {
    const LEN: u64 = 5 << 30;
    let folder = Folder::new();
    let file = File::create(folder.file("sparse")).expect("a new file");
    file.set_len(LEN).expect("a file system with sparse files");
    file.write_all_at(b"beyond 4 GiB", 4 << 30)
        .expect("a write");
    file.write_all_at(b"end", LEN - 3).expect("a write");
    let server = serve(&folder, &[]);
    let mut client = server.connect();
    client.send(request("HEAD", "/sparse", &[]));
    assert_eq!(field(&client.head(), "content-length"), LEN.to_string());
    for (range, expected) in [
        (
            format!("bytes={}-{}", 4_u64 << 30, (4_u64 << 30) + 11),
            "beyond 4 GiB",
        ),
        ("bytes=-3".to_owned(), "end"),
        (format!("bytes={}-", LEN - 4), "\0end"),
    ] {
        client.send(request("GET", "/sparse", &[&format!("Range: {range}")]));
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (206, expected), "{range}");
    }
    let beyond = server.ask(request(
        "GET",
        "/sparse",
        &[&format!("Range: bytes={LEN}-")],
    ));
    assert_eq!(beyond.status, 416);
    let Address::Tcp(address) = server.address() else {
        unreachable!("it was started on TCP");
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
fn conditions_are_judged() {
    let folder = Folder::new();
    folder.write("a", "content");
    let server = serve(&folder, &[]);
    let first = get(&server, "/a");
    let (etag, date) = (field(&first, "etag"), field(&first, "last-modified"));
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
                    (field(&head, "etag"), field(&head, "last-modified")),
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
fn ranges_are_conditional_single_and_gets_alone() {
    let folder = Folder::new();
    folder.write("a", "0123456789");
    folder.write("empty", "");
    let old = File::open(folder.file("a")).expect("a file");
    let an_hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    old.set_modified(an_hour_ago).expect("a file of ours");
    let server = serve(&folder, &[]);
    let first = get(&server, "/a");
    let (etag, date) = (field(&first, "etag"), field(&first, "last-modified"));
    let ask = |method, path, fields: &[&str]| {
        let mut client = server.connect();
        client.send(request(method, path, fields));
        if method == "HEAD" {
            client.head()
        } else {
            client.answer()
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
        let answer = ask("GET", "/a", &["Range: bytes=3-5", &if_range]);
        assert_eq!((answer.status, answer.text()), expected, "{if_range}");
    }
    for range in ["bytes=0-1,3-4", "lines=1-2", "bytes=5-4"] {
        let answer = ask("GET", "/a", &[&format!("Range: {range}")]);
        assert_eq!(
            (answer.status, answer.text()),
            (200, "0123456789"),
            "{range}"
        );
    }
    let answer = ask("GET", "/a", &["Range: bytes=10-"]);
    assert_eq!(
        (answer.status, field(&answer, "content-range")),
        (416, "bytes */10")
    );
    let answer = ask("GET", "/empty", &["Range: bytes=0-"]);
    assert_eq!(
        (answer.status, field(&answer, "content-range")),
        (416, "bytes */0")
    );
    let answer = ask("HEAD", "/a", &["Range: bytes=3-5"]);
    assert_eq!(
        (answer.status, field(&answer, "content-length")),
        (200, "10")
    );
    let not_modified = format!("If-None-Match: {etag}");
    assert_eq!(
        ask("GET", "/a", &["Range: bytes=3-5", &not_modified]).status,
        304
    );
}

/// A folder beside a secret, with every kind of link, to be served from `top`.
fn trap() -> (Folder, String) {
    let folder = Folder::new();
    let secret = folder.write("secret", SECRET);
    make(&folder, "outside");
    folder.write("outside/secret", SECRET);
    make(&folder, "top");
    make(&folder, "top/in");
    folder.write("top/in/file", "inside");
    let link = |to: &str, name: &str| symlink(to, folder.file(name)).expect("a new link");
    link("in/file", "top/good");
    link("good", "top/good-twice");
    link("../in/file", "top/in/good-up");
    link(&secret, "top/absolute");
    link(&folder.file("top/in/file"), "top/absolute-inside");
    link("../secret", "top/relative");
    link("relative", "top/twice");
    link("../outside", "top/folder");
    link("/", "top/slash");
    link("loop", "top/loop");
    link("/proc/self/root", "top/magic");
    let top = folder.file("top");
    (folder, top)
}

#[test]
fn nothing_from_outside_is_ever_served() {
    let (folder, top) = trap();
    let server = Coring::start(&["serve", &top, "--file-cache", "0"]);
    for path in ["/good", "/good-twice", "/in/good-up", "/in/file"] {
        assert_eq!(get(&server, path).text(), "inside", "{path}");
    }
    let absolute = folder.file("secret");
    for path in [
        "/../secret",
        "/in/../../secret",
        "/in/../in/file",
        "/./in/file",
        "/..",
        "/%2e%2e/secret",
        "/%2E%2e/secret",
        "/.%2e/secret",
        "/%2e%2e%2fsecret",
        "/..%2fsecret",
        "/in%2ffile",
        "/in/..%2f..%2fsecret",
        "/%252e%252e/secret",
        "/%252e%252e%252fsecret",
        "/..%5csecret",
        "/%2e%2e%5csecret",
        "/..\\secret",
        "/%c0%ae%c0%ae/secret",
        "/%c0%ae%c0%ae%c0%afsecret",
        "/%e0%80%ae%e0%80%ae/secret",
        "/%uff0e%uff0e/secret",
        "/in/file%00",
        "/%00/../secret",
        "/in/file%00.html",
        "/%zz",
        "/%",
        "//../secret",
        "/....//secret",
        "/..;/secret",
        "/absolute",
        "/absolute-inside",
        "/relative",
        "/twice",
        "/folder/secret",
        "/folder",
        "/loop",
        "/magic/etc/passwd",
        "/slash/etc/passwd",
        &format!("/slash{absolute}"),
        &format!("/{absolute}"),
        &absolute,
        &format!("/{}", "../".repeat(40)),
        &format!("/{}", "a/".repeat(2000)),
        &format!("/{}", "a".repeat(4000)),
    ] {
        let answer = get(&server, path);
        // 400: there is a byte in it that no target may have.
        let refused = answer.status == 404 || (answer.status == 400 && path.contains('\\'));
        assert!(refused, "{path}: {}", answer.head);
        assert!(!answer.text().contains(SECRET), "{path}");
    }
    let server = Coring::start(&["serve", &top]);
    assert_eq!(get(&server, "/in/file").text(), "inside");
}

#[test]
fn a_link_that_changes_under_requests_never_leads_outside() {
    let (folder, top) = trap();
    let top = Path::new(&top);
    let server = Coring::start(&["serve", top.to_str().expect("UTF-8"), "--file-cache", "0"]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let targets = [("in/file", "in"), ("../secret", "../outside")];
            for (file, dir) in targets.into_iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                for (to, name) in [(file, "swapped-file"), (dir, "swapped-dir")] {
                    symlink(to, top.join("new")).expect("a new link");
                    fs::rename(top.join("new"), top.join(name)).expect("a renamed link");
                }
            }
        });
        let mut client = server.connect();
        let started = Instant::now();
        let (mut served, mut refused) = (0, 0);
        while started.elapsed() < Duration::from_secs(3) {
            for path in ["/swapped-file", "/swapped-dir/file", "/swapped-dir/secret"] {
                client.send(request("GET", path, &[]));
                let answer = client.answer();
                match answer.status {
                    200 => served += 1,
                    404 => refused += 1,
                    _ => panic!("{path}: {}", answer.head),
                }
                let text = answer.text();
                assert!(!text.contains(SECRET), "{path}");
                assert!(answer.status != 200 || text == "inside", "{path}: {text}");
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(
            served > 0 && refused > 0,
            "{served} served, {refused} refused"
        );
    });
    drop(folder);
}

#[test]
fn only_regular_files_are_served() {
    let folder = Folder::new();
    let fifo = folder.file("pipe");
    let made = run_with(std::process::Command::new("mkfifo").arg(&fifo), b"");
    made.succeeded();
    let _socket = std::os::unix::net::UnixListener::bind(folder.file("socket")).expect("a socket");
    let server = serve(&folder, &[]);
    for path in ["/pipe", "/socket"] {
        assert_eq!(get(&server, path).status, 404, "{path}");
    }
}

#[test]
fn what_may_not_be_read_is_forbidden() {
    let folder = Folder::new();
    folder.write("open", "open");
    make(&folder, "locked");
    make(&folder, "unlisted");
    folder.write("unlisted/index.html", "open");
    for name in ["private", "locked/file"] {
        folder.write(name, SECRET);
    }
    let lock = |name: &str, mode| {
        fs::set_permissions(folder.file(name), fs::Permissions::from_mode(mode)).expect("ours");
    };
    lock("private", 0);
    lock("locked", 0);
    lock("unlisted", 0o711);
    let mut command = coring(&["serve", &folder.file(""), "--bind", "127.0.0.1:0"]);
    if rustix::process::geteuid().is_root() {
        // Nobody forbids root to read: nobody, then.
        command.uid(65534).gid(65534);
    }
    let server = Coring::start_as(command);
    assert_eq!(get(&server, "/open").text(), "open");
    for path in ["/private", "/locked/file", "/locked/"] {
        assert_eq!(get(&server, path).status, 403, "{path}");
    }
    // To enter a folder is another right than to list it.
    assert_eq!(get(&server, "/unlisted").status, 301);
    assert_eq!(get(&server, "/unlisted/").text(), "open");
    drop(server);
    lock("locked", 0o755);
}

#[test]
fn a_folder_that_cannot_be_served_is_bad_configuration() {
    let folder = Folder::new();
    let file = folder.write("file", "");
    for (path, word) in [
        (folder.file("none"), "make it"),
        (file, "the folder that it is in"),
    ] {
        let finished = run_with(&mut coring(&["serve", &path]), b"");
        assert_eq!(finished.code, Some(78), "{}", finished.stderr);
        let line = finished.error_line();
        assert!(line.contains(&path) && line.contains(word), "{line}");
    }
    let path = folder.path().to_str().expect("UTF-8");
    let server = serve(&folder, &[]);
    assert!(
        server.stderr().contains(&format!("the files of {path}")),
        "{}",
        server.stderr()
    );
    // The folder that it is started in, unless told otherwise.
    let mut command = coring(&["serve", "--bind", "127.0.0.1:0"]);
    command.current_dir(folder.path());
    let server = Coring::start_as(command);
    assert_eq!(get(&server, "/file").status, 200);
}
