//! What is said of a file besides its content: its type, its validators. It refuses to know who
//! asks: the same file has the same facts on every worker, and on every machine it is copied to.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use ::http::HeaderValue;
use ::http::header::{ACCEPT_RANGES, CONTENT_TYPE, ETAG, LAST_MODIFIED};

use crate::fs::Metadata;
use crate::http::FieldLines;
use crate::http::conditional::Validators;
use crate::http::date::DateCache;

/// A file's header values, made once.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// What the file was like when it was opened.
    pub(super) metadata: Metadata,
    pub(super) etag: HeaderValue,
    pub(super) last_modified: HeaderValue,
    /// All that an answer with content says of it.
    pub(super) fields: Rc<FieldLines>,
    modified_seconds: u64,
}

impl Facts {
    /// The facts of the file at `path`. `now_seconds` is the time after the epoch: a file of
    /// tomorrow is said to be of now (RFC 9110 §8.8.2.1).
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

    pub(super) fn validators(&self) -> Validators<'_> {
        Validators {
            etag: self.etag.as_bytes(),
            modified_seconds: self.modified_seconds,
        }
    }
}

/// The entity tag of content that was `modified` then, in seconds and nanoseconds after the epoch,
/// and has `len` bytes: nginx's, but with the nanoseconds, for it is a strong one. There is no
/// inode in it: behind a load balancer every copy of a file has the same tag.
fn etag(modified: (i64, u32), len: u64) -> String {
    let (seconds, nanoseconds) = modified;
    let modified_ns = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    format!("\"{modified_ns:x}-{len:x}\"")
}

/// The media type of the file at `path`, by the end of its name. Text is taken to be UTF-8.
fn content_type(path: &[u8]) -> HeaderValue {
    let guess = mime_guess::from_path(OsStr::from_bytes(path));
    match guess.first_raw() {
        // The list's older name for it, which is obsolete (RFC 9239 §6).
        Some("application/javascript") => text("text/javascript; charset=utf-8"),
        Some(media_type) if media_type.starts_with("text/") => {
            text(format!("{media_type}; charset=utf-8"))
        }
        Some(media_type) => HeaderValue::from_static(media_type),
        None => HeaderValue::from_static("application/octet-stream"),
    }
}

/// A value that is made of visible ASCII.
fn text(value: impl AsRef<[u8]>) -> HeaderValue {
    HeaderValue::from_bytes(value.as_ref()).expect("visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_tell_contents_apart() {
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
    fn media_types_follow_the_name() {
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
