//! The services of the server, and the responses that clients must get from them.

use std::fs::{self, File};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use coring::fs::Root;
use coring::sim::sleep_ms;
use coring::{Fields, Files, Request, Response, Service, StatusCode};

use crate::input::Input;
use crate::planned::panic_as_planned;

/// The largest body that a service reads.
const BODY_MAX: usize = 1 << 20;
/// When every file was changed, in seconds after the epoch.
const MODIFIED_SECONDS: u64 = 784_111_777;

/// The kind of a server's service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The response depends on the method.
    Mixed,
    /// The response is the request's body, sent back while it arrives.
    Echo,
    /// The files of a folder.
    Files,
}

impl Kind {
    pub(super) fn choose(input: &mut Input<'_>) -> Self {
        input.pick(&[Self::Mixed, Self::Mixed, Self::Echo, Self::Files])
    }

    pub(super) fn service(self) -> Site {
        match self {
            Self::Mixed => Site::Mixed,
            Self::Echo => Site::Echo,
            Self::Files => Site::Files(Files::new(folder().clone())),
        }
    }
}

pub(super) enum Site {
    Mixed,
    Echo,
    Files(Files),
}

impl Service for Site {
    async fn call(&self, mut request: Request) -> Response {
        match self {
            Self::Files(files) => return files.call(request).await,
            Self::Echo => return Response::new(StatusCode::OK).with_body(request.into_body()),
            Self::Mixed => {}
        }
        let wait_ms = request.path_bytes().len() as u64 * 37 % 3000;
        let text = describe_head(
            request.method().as_str(),
            request.path_bytes(),
            request.query(),
            request.host(),
            request.headers(),
        );
        match request.method().as_str() {
            "POST" => Response::text("").with_body(request.into_body()),
            "PUT" => read(&mut request).await,
            "PATCH" => {
                sleep_ms(wait_ms).await;
                read(&mut request).await
            }
            "DELETE" => Response::text("deleted"),
            "TRACE" => panic_as_planned(),
            "X" => {
                sleep_ms(wait_ms).await;
                Response::text(text)
            }
            _ => Response::text(large(request.path_bytes()).unwrap_or(text)),
        }
    }
}

/// The response if the service could not read the whole request body.
pub(super) const INCOMPLETE: &[u8] = b"incomplete";

async fn read(request: &mut Request) -> Response {
    match request.body().read(BODY_MAX).await {
        Ok(body) => Response::text([b"read ", &body[..]].concat()),
        Err(_) => Response::text(INCOMPLETE),
    }
}

/// A response body from which a client can check that the service saw its head unchanged.
pub(super) fn describe_head(
    method: &str,
    path: &[u8],
    query: Option<&str>,
    host: Option<&str>,
    fields: Fields<'_>,
) -> Vec<u8> {
    let mut text = format!("{method} {query:?} {host:?} ").into_bytes();
    text.extend(path);
    for (name, value) in fields {
        text.extend([b"\n", name, b"=", value].concat());
    }
    text
}

/// A response body larger than a socket buffer, for paths that begin with `/large`.
pub(super) fn large(path: &[u8]) -> Option<Vec<u8>> {
    let len = 150_000 + 1000 * path.len();
    path.starts_with(b"/large").then(|| content(len, 23))
}

/// `len` letters that repeat after `period` letters.
fn content(len: usize, period: u8) -> Vec<u8> {
    (0..period)
        .map(|letter| b'A' + letter)
        .cycle()
        .take(len)
        .collect()
}

/// The files of the folder: name and length.
pub(super) const FILES: &[(&str, usize)] = &[
    ("index.html", 300),
    ("a", 5),
    ("b.txt", 4096),
    ("c.css", 9000),
    ("d/index.html", 70_000),
    ("d/e.bin", 300_000),
    ("empty", 0),
];

/// The content of the file with that length.
pub(super) fn file_content(len: usize) -> Vec<u8> {
    content(len, 50)
}

/// The folder. The files have an old modification time, so that no response depends on the clock.
/// The folder is not removed: the next process uses it again.
fn folder() -> &'static Root {
    static FOLDER: OnceLock<Root> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let path = std::env::temp_dir().join("coring-fuzz-files");
        let own = path.with_extension(std::process::id().to_string());
        for (name, len) in FILES {
            write_file(&own.join(name), *len).expect("a folder for files");
        }
        if fs::rename(&own, &path).is_err() {
            fs::remove_dir_all(&own).expect("a folder of our own");
        }
        Root::open(&path).expect("a folder")
    })
}

fn write_file(path: &Path, len: usize) -> std::io::Result<()> {
    fs::create_dir_all(path.parent().expect("a folder"))?;
    fs::write(path, file_content(len))?;
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(MODIFIED_SECONDS);
    File::options()
        .write(true)
        .open(path)?
        .set_modified(modified)
}
