//! The request target and its authority (RFC 9112 §3.2, RFC 3986). Nothing is percent-decoded here:
//! the code that maps a path to a resource decides what `%2f` means.
//!
//! Doubtful targets are refused. Control characters, space, non-ASCII bytes, `#`, `"`, `<` and `>`
//! are never allowed unescaped. RFC 3986 forbids `\`, `` ` ``, `{`, `}`, `[`, `]`, `^` and `|` as
//! well, but browsers send them unescaped in queries (the WHATWG URL standard does not escape them
//! there), and the last four even in paths. Exactly these exceptions are accepted. A `%` need not
//! be followed by two hexadecimal digits.
//!
//! If a target has an authority (absolute-form), it counts, and Host does not (RFC 9112 §3.2.2): an
//! intermediary in front may have read only one of them, and the RFC says which. Host must still be
//! present and valid. It may differ from the authority, or be empty, because it then means nothing;
//! [`Head::host`](super::Head::host) returns the authority.

use std::net::Ipv6Addr;

use ::http::Method;

use super::{Fault, Span};

/// The components of a request target, as spans of the bytes that contain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The path as received. Empty for `http://host` and `http://host?query`, where it means `/`.
    pub path: Span,
    /// The bytes after the first `?`, if there is one.
    pub query: Option<Span>,
    /// The authority of an absolute-form target.
    pub authority: Option<Span>,
}

impl Target {
    /// A target before it is parsed.
    pub(super) const EMPTY: Self = Self {
        path: Span::EMPTY,
        query: None,
        authority: None,
    };

    /// Parses the target at `span` of `bytes` into `self`: origin-form, absolute-form with `http`
    /// or `https`, or `*` for OPTIONS. After an error the content of `self` is unspecified.
    ///
    /// # Errors
    /// [`Fault::BadTarget`] for any other form, a forbidden byte, user information, or an invalid
    /// authority.
    #[inline(always)]
    pub(super) fn read(&mut self, bytes: &[u8], span: Span, method: &Method) -> Result<(), Fault> {
        let target = span.of(bytes);
        match target {
            [b'/', ..] => self.split(target, span.start(), None),
            _ => self.read_rare(target, span, method),
        }
    }

    /// The forms other than origin-form. Clients rarely send them to a server that is not a proxy.
    #[cold]
    fn read_rare(&mut self, target: &[u8], span: Span, method: &Method) -> Result<(), Fault> {
        if target == b"*" && *method == Method::OPTIONS {
            *self = Self {
                path: span,
                ..Self::EMPTY
            };
            return Ok(());
        }
        let scheme_len = scheme_len(target).ok_or(Fault::BadTarget)?;
        let rest = &target[scheme_len..];
        let is_end = |&byte: &u8| matches!(byte, b'/' | b'?');
        let len = rest.iter().position(is_end).unwrap_or(rest.len());
        if !is_host(&rest[..len]) {
            return Err(Fault::BadTarget);
        }
        let authority = span.start() + scheme_len;
        let path = authority + len;
        self.split(&rest[len..], path, Some(Span::new(authority, path)))
    }

    /// Splits `text`, which is `path ["?" query]`. Its first byte has the offset `start`.
    #[inline(always)]
    fn split(&mut self, text: &[u8], start: usize, authority: Option<Span>) -> Result<(), Fault> {
        let is = |class: u8| move |&byte: &u8| CLASS[usize::from(byte)] & class != 0;
        let path_len = text
            .iter()
            .position(|byte| !is(PATH)(byte))
            .unwrap_or(text.len());
        self.path = Span::new(start, start + path_len);
        self.authority = authority;
        self.query = match &text[path_len..] {
            [] => None,
            [b'?', query @ ..] if query.iter().all(is(QUERY)) => {
                Some(Span::new(start + path_len + 1, start + text.len()))
            }
            _ => return Err(Fault::BadTarget),
        };
        Ok(())
    }
}

/// Whether `value` is a valid value of Host. An empty one means that the target has no authority.
#[inline(always)]
pub(super) fn is_host_value(value: &[u8]) -> bool {
    value.is_empty() || is_host(value)
}

/// Whether `authority` is `host [":" port]` with a host that is not empty (RFC 3986 §3.2.2): a
/// registered name, an IPv4 address, or an IPv6 address in brackets, without a zone. A comma is
/// refused, although RFC 3986 allows it: an intermediary that joins two Host lines inserts one.
#[must_use]
pub fn is_host(authority: &[u8]) -> bool {
    let mut before_digits = authority;
    while let [rest @ .., b'0'..=b'9'] = before_digits {
        before_digits = rest;
    }
    let (host, port) = match before_digits {
        [host @ .., b':'] => (host, &authority[before_digits.len()..]),
        _ => (authority, &b""[..]),
    };
    let is_port =
        port.len() < PORT_DIGITS_MAX || port.len() == PORT_DIGITS_MAX && port <= &b"65535"[..];
    // No early exit: hosts are short, and the exit of such a loop is often mispredicted.
    let class = |&byte: &u8| CLASS[usize::from(byte)];
    let (fours, rest) = host.as_chunks::<4>();
    let fours = fours
        .iter()
        .map(|four| four.iter().fold(HOST, |all, byte| all & class(byte)));
    let classes = rest
        .iter()
        .map(class)
        .chain(fours)
        .fold(HOST, |all, one| all & one);
    is_port && !host.is_empty() && (classes == HOST || is_rare_host(host))
}

/// The number of digits of the largest port, 65535.
const PORT_DIGITS_MAX: usize = 5;

/// Whether `host` is an IPv6 address in brackets, or a registered name with percent-escapes. Few
/// requests have either.
#[cold]
fn is_rare_host(host: &[u8]) -> bool {
    if let [b'[', address @ .., b']'] = host {
        let address = str::from_utf8(address).unwrap_or_default();
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let mut rest = host;
    loop {
        rest = match rest {
            [b'%', a, b, rest @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if CLASS[usize::from(*byte)] & HOST != 0 => rest,
            rest => return rest.is_empty(),
        }
    }
}

/// The length of `http://` or `https://` at the start of `target`, ignoring case.
fn scheme_len(target: &[u8]) -> Option<usize> {
    let has = |scheme: &[u8]| {
        target
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    if has(b"http://") {
        Some(7)
    } else if has(b"https://") {
        Some(8)
    } else {
        None
    }
}

const PATH: u8 = 1;
const QUERY: u8 = 2;
const HOST: u8 = 4;

/// The components that may contain each byte, by the rules at the top of this file.
static CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0x21_u8;
    while byte < 0x7f {
        table[byte as usize] = match byte {
            b'#' | b'"' | b'<' | b'>' => 0,
            b'?' | b'\\' | b'`' | b'{' | b'}' => QUERY,
            b'%' | b'/' | b':' | b'@' | b'[' | b']' | b'^' | b'|' | b',' => PATH | QUERY,
            _ => PATH | QUERY | HOST,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use ::http::Method;

    use super::{Target, is_host};
    use crate::http::{Fault, Span};

    /// The path, the query and the authority of a target.
    type Parts<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

    fn parse<'a>(target: &'a [u8], method: &Method) -> Result<Parts<'a>, Fault> {
        let mut parts = Target::EMPTY;
        parts.read(target, Span::new(0, target.len()), method)?;
        let text = |span: Span| span.text(target);
        Ok((
            text(parts.path),
            parts.query.map(text),
            parts.authority.map(text),
        ))
    }

    #[test]
    fn parses_every_form() {
        let check = |target: &'static str, expected| {
            assert_eq!(
                parse(target.as_bytes(), &Method::GET),
                Ok(expected),
                "{target}"
            );
        };
        check("/", ("/", None, None));
        check(
            "/a/b.html?x=1?y&z=/",
            ("/a/b.html", Some("x=1?y&z=/"), None),
        );
        check("/?", ("/", Some(""), None));
        check("//host/..;/%zz", ("//host/..;/%zz", None, None));
        check("/a|b^c?q=\\{}`|^'", ("/a|b^c", Some("q=\\{}`|^'"), None));
        check("http://a.example/x?y", ("/x", Some("y"), Some("a.example")));
        check("HTTPS://[::1]:8443", ("", None, Some("[::1]:8443")));
        check("http://a:80?q", ("", Some("q"), Some("a:80")));
        assert_eq!(parse(b"*", &Method::OPTIONS), Ok(("*", None, None)));
    }

    #[test]
    fn refuses_invalid_targets() {
        let check = |target: &[u8]| {
            let text = String::from_utf8_lossy(target);
            assert_eq!(parse(target, &Method::GET), Err(Fault::BadTarget), "{text}");
        };
        check(b"");
        check(b"*");
        check(b"a.example:443");
        check(b"index.html");
        check(b"?q");
        check(b"ftp://a/");
        check(b"http:/a/");
        check(b"http://");
        check(b"http:///path");
        check(b"http://user@a/");
        check(b"http://a:b/");
        check(b"http://a#b");
        check(b"http://a\\b/");
        for bad in b"#\"<>\\`{} \0\t\r\n\x7f\x80\xff" {
            check(&[b'/', *bad]);
        }
        for bad in b"#\"<> \0\t\r\n\x7f\x80\xff" {
            check(&[b'/', b'?', *bad]);
        }
        assert_eq!(parse(b"**", &Method::OPTIONS), Err(Fault::BadTarget));
    }

    #[test]
    fn recognises_valid_hosts() {
        for good in [
            "a",
            "a.example:80",
            "127.0.0.1",
            "a_b~c",
            "a:",
            "[::1]",
            "[1::2]:80",
            "a%20b",
            "x:65535",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:b",
            "a:65536",
            "a:+1",
            "a b",
            "a,b ",
            "u@a",
            "a/b",
            "[::1",
            "[::1]x",
            "[]",
            "[a]",
            "[fe80::1%eth0]",
            "a%2",
            "a%zz",
            "a:80:80",
            "a\\b",
            "é",
            "a?b",
            "a#b",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
