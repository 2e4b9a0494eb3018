//! Tests of the service without a server.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A temporary directory, removed on drop.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("coring-files-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The status and the fields of the response to a request of `files`.
async fn ask(files: &Files, method: &str, uri: &str) -> (u16, Vec<(String, String)>) {
    let request = Request::builder().method(method).uri(uri).body("");
    let response = files.call(request.unwrap()).await;
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    (
        response.status().as_u16(),
        response.headers().map(text).collect(),
    )
}

fn field<'f>(fields: &'f [(String, String)], name: &str) -> Option<&'f str> {
    let mut fields = fields.iter();
    Some(&fields.find(|(other, _)| other == name)?.1)
}

fn source_files() -> Files {
    Files::new(Root::open(env!("CARGO_MANIFEST_DIR")).unwrap())
}

/// An image or a Nix store gives every file the same mtime, so neither its date nor a tag that is
/// derived from it is a validator.
#[test]
fn an_mtime_that_all_files_have_gives_no_validators() {
    let directory = TempDir::new();
    for (name, seconds) in [("zero", 0), ("one", 1), ("old", 1_000_000_000)] {
        std::fs::write(directory.0.join(name), "content").unwrap();
        let file = std::fs::File::open(directory.0.join(name)).unwrap();
        let modified = UNIX_EPOCH + Duration::from_secs(seconds);
        file.set_modified(modified).unwrap();
    }
    let files = Files::new(Root::open(&directory.0).unwrap());
    crate::run(async move {
        for (name, seconds, is_given) in [
            ("zero", 0, false),
            ("one", 1, false),
            ("old", 1_000_000_000, true),
        ] {
            let (status, fields) = ask(&files, "GET", &format!("/{name}")).await;
            assert_eq!(status, 200);
            for validator in ["last-modified", "etag"] {
                assert_eq!(field(&fields, validator).is_some(), is_given, "{name}");
            }
            let tag = format!("\"{:x}-7\"", seconds * 1_000_000_000_i64);
            for (condition, value, with, without) in [
                (
                    "If-Modified-Since",
                    "Fri, 31 Dec 2100 23:59:59 GMT",
                    304,
                    206,
                ),
                ("If-None-Match", &tag, 304, 206),
                ("If-Range", &tag, 206, 200),
            ] {
                let request = Request::builder()
                    .uri(format!("/{name}"))
                    .header(condition, value)
                    .header("Range", "bytes=1-");
                let response = files.call(request.body("").unwrap()).await;
                assert_eq!(
                    response.status().as_u16(),
                    if is_given { with } else { without },
                    "{condition}: {name}"
                );
            }
        }
    });
}

/// As `cp -p` of a build that gives each file the same mtime.
#[test]
fn a_rewrite_that_keeps_mtime_and_length_is_noticed() {
    let directory = TempDir::new();
    let path = directory.0.join("a");
    let write = move |content: &str| {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let mut file = file.unwrap();
        io::Write::write_all(&mut file, content.as_bytes()).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000))
            .unwrap();
    };
    write("old");
    let files = Files::new(Root::open(&directory.0).unwrap());
    crate::run(async move {
        let read = async || {
            let request = Request::builder().uri("/a").body("").unwrap();
            files.call(request).await.body().read(100).await.unwrap()
        };
        assert_eq!(read().await, b"old");
        write("new");
        // The change takes effect within a second, and the test waits far longer.
        for _ in 0..1000 {
            if read().await == b"new" {
                return;
            }
            crate::rt::sleep_ms(50).await;
        }
        panic!("the change was not noticed");
    });
}

/// A file that was changed a moment ago may change again without another mtime.
#[test]
fn a_file_that_has_just_changed_has_no_validators() {
    let directory = TempDir::new();
    let file = std::fs::File::create(directory.0.join("a")).unwrap();
    let files = Files::new(Root::open(&directory.0).unwrap());
    crate::run(async move {
        // On a slow machine the file may be 20 ms old when it is read.
        for _ in 0..1000 {
            file.set_modified(SystemTime::now()).unwrap();
            let (status, fields) = ask(&files, "GET", "/a").await;
            assert_eq!((status, field(&fields, "last-modified")), (200, None));
            if field(&fields, "etag").is_none() {
                return;
            }
        }
        panic!("a new file always has an ETag");
    });
}

/// A file system with times of whole or of every second second may give a later change the same
/// mtime.
#[test]
fn a_file_that_may_change_within_a_coarse_mtime_has_no_validators() {
    let directory = TempDir::new();
    let file = std::fs::File::create(directory.0.join("a")).unwrap();
    let files = Files::new(Root::open(&directory.0).unwrap());
    crate::run(async move {
        // On a slow machine the mtime may be two seconds old when it is read.
        for _ in 0..1000 {
            let modified = Duration::from_secs(since_epoch().as_secs() - 1);
            file.set_modified(UNIX_EPOCH + modified).unwrap();
            let (status, fields) = ask(&files, "GET", "/a").await;
            assert_eq!(status, 200);
            if field(&fields, "etag").is_none() && field(&fields, "last-modified").is_none() {
                return;
            }
        }
        panic!("a coarse mtime always gives validators");
    });
}

/// The names in a listing, in its order; none if there is no listing.
async fn listed(files: &Files, uri: &str) -> Vec<String> {
    let request = Request::builder().uri(uri).body("").unwrap();
    let mut response = files.call(request).await;
    let page = response.body().read(1 << 20).await.unwrap();
    let page = String::from_utf8(page).unwrap();
    let links = page.split("<td><a href=\"").skip(1);
    links
        .map(|link| link.split('"').next().unwrap().to_owned())
        .collect()
}

#[test]
fn a_listing_has_what_a_request_could_get() {
    let directory = TempDir::new();
    let path = |name: &str| directory.0.join(name);
    std::fs::create_dir_all(path("sub/deep")).unwrap();
    std::fs::create_dir(path("page")).unwrap();
    std::fs::write(path("page/index.html"), "a page").unwrap();
    for (name, len, seconds) in [
        ("b<\".txt", 1, 3),
        ("a b", 3, 1),
        ("c", 2, 2),
        (".hidden", 1, 1),
    ] {
        std::fs::write(path(name), "x".repeat(len)).unwrap();
        let file = std::fs::File::open(path(name)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds))
            .unwrap();
    }
    for (name, seconds) in [("page", 10), ("sub", 20)] {
        let file = std::fs::File::open(path(name)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds))
            .unwrap();
    }
    for (target, name) in [("c", "link"), ("/etc/passwd", "out"), ("none", "dangling")] {
        std::os::unix::fs::symlink(target, path(name)).unwrap();
    }
    let root = Root::open(&directory.0).unwrap();
    crate::run(async move {
        let plain = Files::new(root.clone());
        assert_eq!(ask(&plain, "GET", "/").await.0, 404);
        let files = Files::new(root).with_listing(true);
        let (status, fields) = ask(&files, "GET", "/").await;
        assert_eq!(
            (status, field(&fields, "content-type")),
            (200, Some("text/html; charset=utf-8"))
        );
        let (b, directories) = ("./b%3C%22.txt", ["./page/", "./sub/"]);
        let all = |names: [&'static str; 4]| [&directories[..], &names].concat();
        assert_eq!(
            listed(&files, "/").await,
            all(["./a%20b", b, "./c", "./link"])
        );
        assert_eq!(
            listed(&files, "/?sort=size").await,
            all([b, "./c", "./link", "./a%20b"])
        );
        assert_eq!(
            listed(&files, "/?sort=-time").await,
            [&["./sub/", "./page/"], &[b, "./link", "./c", "./a%20b"][..]].concat()
        );
        assert_eq!(listed(&files, "/sub/").await, ["../", "./deep/"]);
        assert_eq!(ask(&files, "GET", "/sub").await.0, 301);
        assert_eq!(ask(&files, "GET", "/none/").await.0, 404);
        assert_eq!(ask(&files, "GET", "/c/").await.0, 404);
        // Each link leads to a file.
        for link in ["/a%20b", "/b%3C%22.txt", "/link", "/page/"] {
            assert_eq!(ask(&files, "GET", link).await.0, 200, "{link}");
        }
    });
}

/// Requests that come together share a page. Further pages are made as long as there is memory.
#[test]
fn listings_are_shared_and_limited_by_memory() {
    let directory = TempDir::new();
    for number in 0..500 {
        std::fs::write(directory.0.join(format!("{number:0200}")), "").unwrap();
    }
    let root = Root::open(&directory.0).unwrap();
    crate::run(async move {
        let ask = async |files: &Files, uri: &str| {
            let request = Request::builder().uri(uri).body("").unwrap();
            files.call(request).await
        };
        let plain = Files::new(root.clone()).with_listing(true);
        let mut response = ask(&plain, "/").await;
        let len = response.body().read(1 << 20).await.unwrap().len();
        // While a page is made, it may take twice its length.
        let files = Files::new(root).with_listing(true).with_cache(0);
        let files = files.with_response_memory(4 * len);
        let together = |uris: Vec<&'static str>| {
            let calls = uris.into_iter().map(|uri| Box::pin(ask(&files, uri)));
            crate::rt::JoinAll::new(calls.collect::<Vec<_>>())
        };
        let same = together(vec!["/"; 100]).await;
        assert!(same.iter().all(|response| response.status() == 200));
        let others = together(vec![
            "/?sort=size",
            "/?sort=time",
            "/?sort=-name",
            "/?sort=-size",
            "/?sort=-time",
        ])
        .await;
        let statuses = others.iter().map(|response| response.status().as_u16());
        let statuses: Vec<_> = statuses.collect();
        let made = statuses.iter().filter(|&&status| status == 200).count();
        assert!((1..=3).contains(&made), "{statuses:?}");
        assert_eq!(
            statuses.iter().filter(|&&status| status == 503).count(),
            5 - made
        );
        drop((same, others));
        assert_eq!(ask(&files, "/?sort=time").await.status(), 200);
    });
}

#[test]
fn methods_are_allowed_known_or_unknown() {
    crate::run(async {
        let files = source_files();
        for (method, uri, status, allow) in [
            ("GET", "/README.md", 200, None),
            ("POST", "/README.md", 405, Some("GET, HEAD")),
            ("OPTIONS", "/none", 405, Some("GET, HEAD")),
            ("OPTIONS", "*", 204, Some("GET, HEAD")),
            ("BREW", "/README.md", 501, None),
            ("get", "/README.md", 501, None),
        ] {
            let (found, fields) = ask(&files, method, uri).await;
            assert_eq!(
                (found, field(&fields, "allow")),
                (status, allow),
                "{method} {uri}"
            );
        }
    });
}
