//! From a request's path to a path beneath the root. It refuses to know what is there: links, and
//! whatever else a path means to the kernel, are the root's concern.
//!
//! What leads nowhere, and so is 404:
//! - an escape that is none, and the escapes of NUL and of `/`: no name has these bytes;
//! - every name that begins with a dot, and so `.` and `..`, however they are spelled. They are
//!   hidden. Only `/.well-known/` is there to be found (RFC 8615).
//!
//! Escapes are decoded once: a `%` that comes of it is a `%`. Names are bytes; what is no UTF-8
//! names a file only if there is one with that very name. Slashes that follow each other count as
//! one, as nginx has it. A backslash is a letter like others.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// The one name with a dot that is not hidden, at the top.
const WELL_KNOWN: &[u8] = b".well-known";

/// A path beneath the root. It has no `.`, `..`, empty or hidden name and no slash at its start;
/// it is empty or ends with a slash if it can only name a directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Relative<'a>(Cow<'a, [u8]>);

impl<'a> Relative<'a> {
    /// Reads the path of a request, as received; none if it leads nowhere.
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

    /// Whether it can only name a directory.
    pub fn is_directory(&self) -> bool {
        matches!(*self.0, [] | [.., b'/'])
    }

    /// Where the file is that it stands for.
    pub fn file(&self) -> Cow<'_, [u8]> {
        if self.is_directory() {
            Cow::Owned([&*self.0, b"index.html"].concat())
        } else {
            Cow::Borrowed(&self.0)
        }
    }
}

/// Where a directory is, seen from `path`, which names it without a slash at its end. It is a
/// relative reference that begins with a dot, so that nothing in it can be taken for another host
/// or another scheme (RFC 3986 §4.2).
pub fn with_slash(path: &str, query: Option<&str>) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    match query {
        Some(query) => format!("./{name}/?{query}"),
        None => format!("./{name}/"),
    }
}

/// Whether there is nothing in it to be decoded, merged or hidden, as in most.
fn is_plain(path: &[u8]) -> bool {
    let (is_plain, _) = path.iter().fold((true, b' '), |(is_plain, before), &byte| {
        let is_odd = byte == b'%' || (before == b'/' && matches!(byte, b'/' | b'.'));
        (is_plain & !is_odd, byte)
    });
    path.starts_with(b"/") && is_plain
}

/// Whether every `%` begins an escape, and none is of a byte that no name has.
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
    fn paths_lead_beneath_the_root() {
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
    fn nothing_but_a_normal_path_leads_anywhere() {
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
        assert_eq!(read("/%252e%252e/a").expect("a name"), b"%2e%2e/a");
        assert_eq!(read("/%2525").expect("a name"), b"%25");
        assert_eq!(read("/%2500").expect("a name"), b"%00");
        // Overlong forms of `.` and `/` are bytes, and no UTF-8.
        assert_eq!(
            read("/%c0%ae%c0%ae%c0%af").expect("a name"),
            b"\xc0\xae\xc0\xae\xc0\xaf"
        );
    }

    #[test]
    fn names_with_a_dot_are_hidden_but_for_one() {
        for path in [
            "/.git/config",
            "/a/.env",
            "/.well-known2",
            "/.well",
            "/a/.well-known/b",
        ] {
            assert_eq!(read(path), None, "{path}");
        }
        assert_eq!(read("/.well-known/a").expect("a name"), b".well-known/a");
        assert_eq!(read("/%2ewell-known/a").expect("a name"), b".well-known/a");
        assert_eq!(read("/.well-known").expect("a name"), b".well-known");
        assert_eq!(read("/.well-known/.a"), None);
    }

    #[test]
    fn slashes_are_merged() {
        assert_eq!(read("//a///b//").expect("a path"), b"a/b/");
        assert_eq!(read("///").expect("a path"), b"");
        assert_eq!(read("//evil.example").expect("a path"), b"evil.example");
        assert_eq!(read("/%20//b").expect("a path"), b" /b");
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
    fn directories_are_pointed_to_from_where_they_are() {
        let check = |path, query, expected| assert_eq!(with_slash(path, query), expected, "{path}");
        check("/a", None, "./a/");
        check("/a/b%20c", Some("x=//y"), "./b%20c/?x=//y");
        check("//evil.example", None, "./evil.example/");
        check("/javascript:x", Some(""), "./javascript:x/?");
    }
}
