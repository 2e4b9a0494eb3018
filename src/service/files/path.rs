//! Converts a request's path into a path beneath the root. It does not access the file system:
//! symlinks are left to [`Root`](crate::fs::Root).
//!
//! These paths are rejected, and the client gets 404:
//! - paths with a malformed percent-escape, or with an escaped NUL or `/`, which no file name has;
//! - paths with a name that begins with a dot, which includes `.` and `..`, escaped or not. The one
//!   exception is `/.well-known` (RFC 8615).
//!
//! Escapes are decoded once: if that yields a `%`, it stays a `%`. Names are bytes and need not be
//! UTF-8. Consecutive slashes count as one, as in nginx. A backslash has no special meaning.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, percent_decode, utf8_percent_encode};

/// The only name with a leading dot that is allowed, and only as the first one of a path.
const WELL_KNOWN: &[u8] = b".well-known";

/// A path relative to the root. It has no leading slash and no empty name, and no name with a
/// leading dot except for `.well-known`. If it can name only a directory, it is empty or ends with
/// a slash.
#[derive(Debug, PartialEq, Eq)]
pub struct Relative<'a>(Cow<'a, [u8]>);

impl<'a> Relative<'a> {
    /// Converts the path of a request, as received; `None` if the path is rejected.
    pub fn read(path: &'a [u8]) -> Option<Self> {
        if is_plain(path) {
            return Some(Self(Cow::Borrowed(&path[1..])));
        }
        if !path.starts_with(b"/") || !has_good_escapes(path) {
            return None;
        }
        let mut decoded: Cow<'a, [u8]> = percent_decode(path).into();
        if decoded.windows(2).any(|pair| pair == b"//") {
            let mut merged = decoded.into_owned();
            merged.dedup_by(|a, b| (*a, *b) == (b'/', b'/'));
            decoded = merged.into();
        }
        let relative = match decoded {
            Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[1..]),
            Cow::Owned(mut bytes) => {
                bytes.remove(0);
                Cow::Owned(bytes)
            }
        };
        let mut names = relative.split(|&byte| byte == b'/');
        let first = names.next().unwrap_or_default();
        let is_hidden = |name: &[u8]| name.starts_with(b".");
        if (is_hidden(first) && first != WELL_KNOWN) || names.any(is_hidden) {
            return None;
        }
        Some(Self(relative))
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the path can name only a directory.
    pub fn is_directory(&self) -> bool {
        matches!(*self.0, [] | [.., b'/'])
    }

    /// The file to serve for this path: for a directory, its `index.html`.
    pub fn file(&self) -> Cow<'_, [u8]> {
        if self.is_directory() {
            Cow::Owned([&*self.0, b"index.html"].concat())
        } else {
            Cow::Borrowed(&self.0)
        }
    }
}

/// The Location that redirects from `path`, which names a directory, to the same path with a slash
/// at its end. It is a relative reference that begins with `./`, so a client cannot take any path
/// for another host or scheme (RFC 3986 §4.2). The bytes that a target may have although no
/// reference has them are escaped.
pub fn with_slash(path: &str, query: Option<&str>) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let name = utf8_percent_encode(name, NOT_OF_A_URI);
    match query {
        Some(query) => format!("./{name}/?{}", utf8_percent_encode(query, NOT_OF_A_URI)),
        None => format!("./{name}/"),
    }
}

/// The bytes that RFC 3986 forbids and a request target may have (`http::target`).
const NOT_OF_A_URI: &AsciiSet = &percent_encoding::CONTROLS
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}')
    .add(b'[')
    .add(b']');

/// Whether the path has no escape, no consecutive slashes and no name with a leading dot. Most
/// paths are plain, and need no copy.
fn is_plain(path: &[u8]) -> bool {
    let (is_plain, _) = path.iter().fold((true, b' '), |(is_plain, before), &byte| {
        let is_odd = byte == b'%' || (before == b'/' && matches!(byte, b'/' | b'.'));
        (is_plain & !is_odd, byte)
    });
    path.starts_with(b"/") && is_plain
}

/// Whether every `%` begins an escape, and none is an escape of NUL or `/`.
fn has_good_escapes(path: &[u8]) -> bool {
    let mut parts = path.split(|&byte| byte == b'%');
    parts.next();
    parts.all(|part| match part {
        [b'0', b'0', ..] | [b'2', b'f' | b'F', ..] => false,
        [high, low, ..] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> Option<Vec<u8>> {
        Relative::read(path.as_bytes()).map(|relative| relative.as_bytes().to_vec())
    }

    #[test]
    fn valid_paths_are_converted() {
        let check = |path: &str, expected: &[u8], file: &[u8]| {
            let relative = Relative::read(path.as_bytes()).expect(path);
            assert_eq!(relative.as_bytes(), expected, "{path}");
            assert_eq!(&*relative.file(), file, "{path}");
        };
        check("/", b"", b"index.html");
        check("/a", b"a", b"a");
        check("/a/", b"a/", b"a/index.html");
        check("/a/b.c/d..e", b"a/b.c/d..e", b"a/b.c/d..e");
        check("/a%20b", b"a b", b"a b");
        check("/%41/%e4", b"A/\xe4", b"A/\xe4");
        check("/%C3%A4", "ä".as_bytes(), "ä".as_bytes());
        check("/a\\b", b"a\\b", b"a\\b");
    }

    #[test]
    fn malformed_and_escaping_paths_are_rejected() {
        for path in [
            "",
            "*",
            "a",
            "../a",
            "/..",
            "/../",
            "/.",
            "/./a",
            "/a/..",
            "/a/../b",
            "/%2e%2e/a",
            "/%2E./a",
            "/.%2e/a",
            "/a/%2e%2e%2fb",
            "/a%2fb",
            "/a%2Fb",
            "/%2f",
            "//..//a",
            "/..%5c..",
            "/a%00",
            "/%00/a",
            "/%",
            "/%4",
            "/%zz",
            "/a%2",
            "/%%41",
            "/%+1",
            "/%u002e",
        ] {
            assert_eq!(read(path), None, "{path}");
        }
    }

    #[test]
    fn escapes_are_decoded_once() {
        assert_eq!(read("/%252e%252e/a").expect("a valid path"), b"%2e%2e/a");
        assert_eq!(read("/%2525").expect("a valid path"), b"%25");
        assert_eq!(read("/%2500").expect("a valid path"), b"%00");
        // Overlong UTF-8 forms of `.` and `/` stay bytes without a meaning.
        assert_eq!(
            read("/%c0%ae%c0%ae%c0%af").expect("a valid path"),
            b"\xc0\xae\xc0\xae\xc0\xaf"
        );
    }

    #[test]
    fn names_with_a_leading_dot_are_rejected_except_well_known() {
        for path in [
            "/.git/config",
            "/a/.env",
            "/.well-known2",
            "/.well",
            "/a/.well-known/b",
        ] {
            assert_eq!(read(path), None, "{path}");
        }
        assert_eq!(
            read("/.well-known/a").expect("a valid path"),
            b".well-known/a"
        );
        assert_eq!(
            read("/%2ewell-known/a").expect("a valid path"),
            b".well-known/a"
        );
        assert_eq!(read("/.well-known").expect("a valid path"), b".well-known");
        assert_eq!(read("/.well-known/.a"), None);
    }

    #[test]
    fn consecutive_slashes_are_merged() {
        assert_eq!(read("//a///b//").expect("a valid path"), b"a/b/");
        assert_eq!(read("///").expect("a valid path"), b"");
        assert_eq!(
            read("//evil.example").expect("a valid path"),
            b"evil.example"
        );
        assert_eq!(read("/%20//b").expect("a valid path"), b" /b");
    }

    #[test]
    fn a_plain_path_is_borrowed() {
        let is_borrowed = |path: &str| {
            let relative = Relative::read(path.as_bytes()).expect(path);
            matches!(relative.0, Cow::Borrowed(_))
        };
        assert!(is_borrowed("/a/b.html"));
        assert!(!is_borrowed("/a%20b"));
    }

    #[test]
    fn redirects_to_directories_are_relative() {
        let check = |path, query, expected| assert_eq!(with_slash(path, query), expected, "{path}");
        check("/a", None, "./a/");
        check("/a/b%20c", Some("x=//y"), "./b%20c/?x=//y");
        check("//evil.example", None, "./evil.example/");
        check("/javascript:x", Some(""), "./javascript:x/?");
        check(
            "/[a|b]^",
            Some("\\{}`|^[]%7b%"),
            "./%5Ba%7Cb%5D%5E/?%5C%7B%7D%60%7C%5E%5B%5D%7b%",
        );
    }
}
