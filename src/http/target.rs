//! The request target and the authority it names (RFC 9112 §3.2, RFC 3986). It refuses to decode:
//! what a `%2f` means is for whoever maps a path to something.
//!
//! In doubt, refuse. Never allowed raw: controls, space, non-ASCII bytes, `#`, `"`, `<` and `>`.
//! RFC 3986 forbids `\`, `` ` ``, `{`, `}`, `^` and `|` as well, but browsers send them raw in
//! queries (the WHATWG URL standard does not escape them there), and `^` and `|` even in paths; so
//! much is accepted and no more. Whether a `%` begins an octet is not looked at either.

use std::net::Ipv6Addr;

use ::http::Method;

use super::{Fault, Span};

/// The parts of a request target, as spans of the bytes it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The path as received. Empty for `http://host` and `http://host?query`, which mean `/`.
    pub path: Span,
    /// What follows the first `?`, if there is one.
    pub query: Option<Span>,
    /// The authority of an absolute-form target.
    pub authority: Option<Span>,
}

impl Target {
    /// Nothing.
    pub(super) const EMPTY: Self = Self {
        path: Span::EMPTY,
        query: None,
        authority: None,
    };

    /// Reads the target that lies at `span` of `bytes`: origin-form, absolute-form with `http` or
    /// `https`, or `*` for OPTIONS. On success it becomes what was read.
    ///
    /// # Errors
    /// [`Fault::BadTarget`] for any other form, a forbidden byte, user information or an invalid
    /// authority.
    #[inline(always)]
    pub(super) fn read(&mut self, bytes: &[u8], span: Span, method: &Method) -> Result<(), Fault> {
        let target = span.of(bytes);
        match target {
            [b'/', ..] => self.split(target, span.start(), None),
            _ => self.read_rare(target, span, method),
        }
    }

    /// The forms that hardly anybody sends to a server that is no proxy.
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

    /// Whether the value `host` of Host goes with this target, which lies in `bytes`: it repeats
    /// the authority, or else it is valid or empty.
    #[inline(always)]
    pub(super) fn allows_host(&self, host: &[u8], bytes: &[u8]) -> bool {
        match self.authority {
            Some(authority) => authority.of(bytes).eq_ignore_ascii_case(host),
            None => host.is_empty() || is_host(host),
        }
    }

    /// Splits `path ["?" query]`, which begins at offset `start`.
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

/// Whether `authority` is `host [":" port]` with a host that is not empty (RFC 3986 §3.2.2): a
/// registered name, an IPv4 address or an IPv6 address in brackets, without a zone. A comma is
/// refused, though RFC 3986 allows it: it is how two Host lines look when they are joined.
#[must_use]
pub fn is_host(authority: &[u8]) -> bool {
    let last = authority.iter().rev().take(PORT_DIGITS_MAX + 1);
    let digits = last.take_while(|byte| byte.is_ascii_digit()).count();
    let (host, port) = match authority.split_at(authority.len() - digits) {
        ([host @ .., b':'], port) => (host, port),
        _ => (authority, &b""[..]),
    };
    let is_port =
        port.len() < PORT_DIGITS_MAX || port.len() == PORT_DIGITS_MAX && port <= &b"65535"[..];
    // No early exit: hosts are short, and a loop that ends anywhere is mispredicted.
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

/// Digits of the greatest port.
const PORT_DIGITS_MAX: usize = 5;

/// An address in brackets, or a registered name with escapes, which hardly anybody sends.
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

/// What each byte may be part of, by the rules at the head of this file.
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

    /// Expected: path, query, authority.
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
    fn reads_each_form() {
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
    fn refuses_the_rest() {
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
    fn knows_hosts() {
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
