//! The header fields of a file: media type and validators. They depend only on its name, size and
//! mtime, so they are the same on every worker, and on every machine to which it is copied with its
//! mtime.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use ::http::HeaderValue;
use ::http::header::{ACCEPT_RANGES, CONTENT_TYPE, ETAG, LAST_MODIFIED};

use crate::fs::Metadata;
use crate::http::FieldLines;
use crate::http::conditional::Validators;
use crate::http::date::DateCache;

/// The header values of a file, made once for all its responses.
#[derive(Debug, Clone)]
pub(super) struct Representation {
    /// The file's metadata, from which these values are derived.
    pub(super) metadata: Metadata,
    pub(super) etag: HeaderValue,
    pub(super) last_modified: HeaderValue,
    /// All fields of a response with the file's content.
    pub(super) fields: Rc<FieldLines>,
    /// The value of Last-Modified, in seconds since the epoch.
    modified_seconds: u64,
}

impl Representation {
    /// The header values of the file at `path`. `now_seconds` is the time since the epoch; it
    /// replaces an mtime in the future (RFC 9110 §8.8.2.1).
    pub(super) fn new(path: &[u8], metadata: Metadata, now_seconds: u64) -> Self {
        let (seconds, _) = metadata.modified_unix();
        let modified_seconds = u64::try_from(seconds).unwrap_or(0).min(now_seconds);
        let etag = text(etag(metadata.modified_unix(), metadata.len()));
        let last_modified = text(DateCache::new().at(modified_seconds));
        Self {
            fields: Rc::new(FieldLines::new([
                (ETAG, etag.clone()),
                (LAST_MODIFIED, last_modified.clone()),
                (CONTENT_TYPE, content_type(path)),
                (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
            ])),
            etag,
            last_modified,
            modified_seconds,
            metadata,
        }
    }

    /// The validators, to evaluate a conditional request.
    pub(super) fn validators(&self) -> Validators<'_> {
        Validators {
            etag: self.etag.as_bytes(),
            modified_seconds: self.modified_seconds,
        }
    }
}

/// The entity tag of a file of `len` bytes that was `modified` at this time, in seconds and
/// nanoseconds since the epoch. The format is nginx's, but with nanoseconds, so that two changes
/// within a second get different tags. It has no inode number, so all copies of a file behind a
/// load balancer have the same tag.
fn etag(modified: (i64, u32), len: u64) -> String {
    let (seconds, nanoseconds) = modified;
    let modified_ns = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    format!("\"{modified_ns:x}-{len:x}\"")
}

/// The media type of the file at `path`, by its extension. Text is assumed to be UTF-8.
fn content_type(path: &[u8]) -> HeaderValue {
    let guess = mime_guess::from_path(OsStr::from_bytes(path));
    match guess.first_raw() {
        // `mime_guess` has the obsolete name (RFC 9239 §6).
        Some("application/javascript") => text("text/javascript; charset=utf-8"),
        Some(media_type) if media_type.starts_with("text/") => {
            text(format!("{media_type}; charset=utf-8"))
        }
        Some(media_type) => HeaderValue::from_static(media_type),
        None => HeaderValue::from_static("application/octet-stream"),
    }
}

/// Makes a header value of text that must be visible ASCII.
fn text(value: impl AsRef<[u8]>) -> HeaderValue {
    HeaderValue::from_bytes(value.as_ref()).expect("the value is visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_depend_on_mtime_and_size() {
        let (modified, len) = ((1_700_000_000, 1), 5 << 30);
        assert_eq!(etag(modified, len), "\"17979cfe362a0001-140000000\"");
        let others = [
            ((modified.0, 2), len),
            ((modified.0 + 1, 1), len),
            (modified, len + 1),
            ((-1, 0), len),
            ((0, 0), 0),
        ];
        for (other, other_len) in others {
            assert_ne!(etag(other, other_len), etag(modified, len), "{other:?}");
            assert!(HeaderValue::from_str(&etag(other, other_len)).is_ok());
        }
    }

    #[test]
    fn the_extension_determines_the_media_type() {
        for (path, expected) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/b.HTM", "text/html; charset=utf-8"),
            ("style.css", "text/css; charset=utf-8"),
            ("app.js", "text/javascript; charset=utf-8"),
            ("app.mjs", "text/javascript; charset=utf-8"),
            ("a.txt", "text/plain; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.svg", "image/svg+xml"),
            ("a.png", "image/png"),
            ("a.wasm", "application/wasm"),
            ("a.mp4", "video/mp4"),
            ("a.woff2", "font/woff2"),
            ("a.tar.gz", "application/gzip"),
            ("a.unheard-of", "application/octet-stream"),
            ("README", "application/octet-stream"),
            ("a.html/b", "application/octet-stream"),
            ("", "application/octet-stream"),
        ] {
            assert_eq!(content_type(path.as_bytes()), expected, "{path}");
        }
        assert_eq!(content_type(b"\xff.html"), "text/html; charset=utf-8");
        assert_eq!(content_type(b"a.\xff"), "application/octet-stream");
    }
}
