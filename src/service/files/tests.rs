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

/// An image or a Nix store gives every file the same mtime, so its date is no validator.
#[test]
fn a_date_that_all_files_have_is_not_given_out() {
    let directory = TempDir::new();
    for (name, seconds) in [("zero", 0), ("one", 1), ("old", 1_000_000_000)] {
        let file = std::fs::File::create(directory.0.join(name)).unwrap();
        let modified = UNIX_EPOCH + Duration::from_secs(seconds);
        file.set_modified(modified).unwrap();
    }
    let files = Files::new(Root::open(&directory.0).unwrap());
    crate::run(async move {
        for (name, is_given) in [("zero", false), ("one", false), ("old", true)] {
            let (status, fields) = ask(&files, "GET", &format!("/{name}")).await;
            assert_eq!(
                (status, field(&fields, "last-modified").is_some()),
                (200, is_given)
            );
            let request = Request::builder()
                .uri(format!("/{name}"))
                .header("If-Modified-Since", "Fri, 31 Dec 2100 23:59:59 GMT");
            let response = files.call(request.body("").unwrap()).await;
            assert_eq!(
                response.status().as_u16(),
                if is_given { 304 } else { 200 },
                "{name}"
            );
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
