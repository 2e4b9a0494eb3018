//! Field lines: iteration, lookup, and lists (RFC 9110 §5, RFC 9112 §5). [`Fields`] does not
//! validate its lines, because the parser has done that. Invalid lines may yield no fields, but
//! they cause no panic.

use std::fmt;

/// The field lines of a head, as received. No map is built: each lookup walks the lines.
///
/// ```
/// use coring::{Request, Response};
///
/// async fn show_language(request: Request) -> Response {
///     let language = request.headers().get("accept-language").unwrap_or_default();
///     Response::text(String::from_utf8_lossy(language).into_owned())
/// }
/// ```
///
/// The bytes were validated: each line is `name ":" OWS value OWS CRLF`, and no line is folded.
#[derive(Clone, Copy, Default)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The field lines in `section`, which does not include the empty line after them.
    pub(super) fn new(section: &'a [u8]) -> Self {
        Self { rest: section }
    }

    /// The value of the first field called `name`, ignoring case.
    #[must_use]
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.get_all(name).next()
    }

    /// The values of all fields called `name`, ignoring case, in the order received.
    pub fn get_all<'n>(self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let mut lines = self;
        std::iter::from_fn(move || {
            loop {
                let line = lines.next_line()?;
                if let Some((start, rest)) = line.split_at_checked(name.len())
                    && let [b':', value @ ..] = rest
                    && start.eq_ignore_ascii_case(name.as_bytes())
                {
                    return Some(trim_ows(value));
                }
            }
        })
    }

    fn next_line(&mut self) -> Option<&'a [u8]> {
        let end = find(self.rest, b'\n')?;
        let (line, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        line.strip_suffix(b"\r\n")
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    /// The name of the next field as the client spelled it, and its value without the white space
    /// around it.
    fn next(&mut self) -> Option<Self::Item> {
        split_line(self.next_line()?)
    }
}

/// Formats the fields as a map from names to values.
impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |(name, value)| {
            (
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(value),
            )
        };
        f.debug_map().entries(self.map(text)).finish()
    }
}

/// Splits a field line into its name and its value, without the white space around the value.
/// `None` if the line has no colon.
#[inline]
#[must_use]
pub fn split_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = find(line, b':')?;
    Some((&line[..colon], trim_ows(&line[colon + 1..])))
}

/// Whether the comma-separated list `value` contains `token`, ignoring case.
#[must_use]
pub fn has_token(value: &[u8], token: &str) -> bool {
    tokens(value).any(|each| each.eq_ignore_ascii_case(token.as_bytes()))
}

/// Decides whether the server sends a field that a service has set in its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The field is sent as the service set it.
    Response,
    /// The first such field is sent. The server adds a Date field if the service sets none.
    Date,
    /// The first such field is sent. The server adds a Server field if the service sets none.
    Server,
    /// The field is not sent, nor are the fields that it names. If it contains `close`, the
    /// connection closes after the response.
    Connection,
    /// The field is sent if the response may have trailers.
    Trailer,
    /// The field is not sent: it frames the message or concerns only this connection.
    Protocol,
}

/// The owner of the response field `name`, which must be in lower case.
#[inline]
pub(super) fn owner(name: &[u8]) -> Owner {
    match name {
        b"date" => Owner::Date,
        b"server" => Owner::Server,
        b"connection" => Owner::Connection,
        b"trailer" => Owner::Trailer,
        b"upgrade" | b"keep-alive" | b"content-length" | b"proxy-connection"
        | b"transfer-encoding" => Owner::Protocol,
        _ => Owner::Response,
    }
}

/// The elements of a comma-separated list that has no quoted strings (RFC 9110 §5.6.1). Empty
/// elements are skipped.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(trim_ows)
        .filter(|each| !each.is_empty())
}

/// Whether `name` is a token, as every field name and method is (RFC 9110 §5.6.2).
#[must_use]
pub fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&byte| TOKEN[usize::from(byte)])
}

/// Whether a field's name is Host, ignoring case. Almost every request has this field, so the four
/// bytes are compared as one word. Setting bit 0x20 turns a capital letter into its small letter,
/// and turns no other byte into a letter.
#[inline]
#[must_use]
pub fn is_host(name: &[u8]) -> bool {
    <[u8; 4]>::try_from(name)
        .is_ok_and(|name| u32::from_ne_bytes(name) | 0x2020_2020 == u32::from_ne_bytes(*b"host"))
}

/// Whether `value` is a valid field value: no control characters except HTAB (RFC 9110 §5.5).
#[must_use]
pub fn is_value(value: &[u8]) -> bool {
    let visible = |byte: u8| ((byte >= b' ') & (byte != 0x7f)) | (byte == b'\t');
    // No early exit: values are short, and the compiler vectorizes a loop without branches.
    value.iter().fold(true, |all, &byte| all & visible(byte))
}

/// `bytes` without leading and trailing spaces and tabs (OWS, RFC 9110 §5.6.3).
#[must_use]
pub fn trim_ows(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The offset of the first `needle` in `bytes`. It compares eight bytes at a time.
#[must_use]
pub fn find(bytes: &[u8], needle: u8) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let pattern = u64::from(needle) * LOW;
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let difference = u64::from_le_bytes(*word) ^ pattern;
        // The lowest set bit marks the first zero byte. A borrow can set wrong bits only above it.
        let zeros = difference.wrapping_sub(LOW) & !difference & HIGH;
        if zeros != 0 {
            return Some(index * 8 + zeros.trailing_zeros() as usize / 8);
        }
    }
    tail.iter()
        .position(|&byte| byte == needle)
        .map(|at| words.len() * 8 + at)
}

/// The bytes that a token may contain (`tchar`, RFC 9110 §5.6.2).
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'
            )
            || matches!(byte, b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::{Fields, find, has_token, is_host, is_token, is_value, trim_ows};

    const SECTION: &[u8] =
        b"Host: a.example\r\nX:\r\nAccept: a \r\nCookie:\tb=1; c:2\r\naccept: \xffz\t\r\n";

    #[test]
    fn is_host_ignores_case_and_rejects_other_names() {
        for index in 0..4 {
            for byte in (0..=u8::MAX).filter(|&byte| is_token(&[byte])) {
                let mut name = *b"hOsT";
                name[index] = byte;
                assert_eq!(
                    is_host(&name),
                    name.eq_ignore_ascii_case(b"host"),
                    "{name:?}"
                );
            }
        }
        assert!(!is_host(b"") && !is_host(b"hos") && !is_host(b"hosts"));
    }

    #[test]
    fn walks_lines_in_order() {
        let fields: Vec<_> = Fields::new(SECTION).collect();
        let expected: [(&[u8], &[u8]); 5] = [
            (b"Host", b"a.example"),
            (b"X", b""),
            (b"Accept", b"a"),
            (b"Cookie", b"b=1; c:2"),
            (b"accept", b"\xffz"),
        ];
        assert_eq!(fields, expected);
        assert_eq!(Fields::new(b"").count(), 0);
        assert_eq!(Fields::new(b"no colon\r\nA: b\r\n").count(), 0);
    }

    #[test]
    fn finds_by_name_in_any_case() {
        let fields = Fields::new(SECTION);
        let check = |name, expected: Option<&[u8]>| assert_eq!(fields.get(name), expected);
        check("host", Some(b"a.example"));
        check("HOST", Some(b"a.example"));
        check("x", Some(b""));
        check("cookie", Some(b"b=1; c:2"));
        check("hos", None);
        check("hostt", None);
        check("", None);
        check(
            "a-name-longer-than-the-whole-section-of-fields-which-is-not-that-long-at-all",
            None,
        );
        let all: Vec<_> = fields.get_all("ACCEPT").collect();
        assert_eq!(all, [b"a".as_slice(), b"\xffz"]);
    }

    #[test]
    fn has_token_reads_comma_separated_lists() {
        assert!(has_token(b"close", "close"));
        assert!(has_token(b" , keep-alive ,\tClose", "close"));
        assert!(!has_token(b"closed, not close", "close"));
        assert!(!has_token(b"", "close"));
    }

    #[test]
    fn recognises_tokens_and_values() {
        assert!(is_token(b"X-a_b!#$%&'*+.^`|~09"));
        for bad in [
            b"".as_slice(),
            b"a b",
            b"a:",
            b"(a)",
            b"a\x7f",
            b"\xe9",
            b"a\r",
            b"\0",
        ] {
            assert!(!is_token(bad), "{bad:?}");
        }
        assert!(is_value(b"") && is_value(b"a\t b\xff"));
        for bad in [b"a\r\nb".as_slice(), b"\0", b"\x7f", b"a\n", b"\x1b[0m"] {
            assert!(!is_value(bad), "{bad:?}");
        }
        assert_eq!(trim_ows(b" \t "), b"");
        assert_eq!(trim_ows(b"\ta b "), b"a b");
    }

    #[test]
    fn find_works_at_every_offset() {
        for len in (0..40).step_by(if cfg!(miri) { 5 } else { 1 }) {
            for at in 0..len {
                let mut bytes = vec![b'\x0b'; len];
                bytes[at] = b'\n';
                assert_eq!(find(&bytes, b'\n'), Some(at));
                bytes[len - 1] = b'\n';
                assert_eq!(find(&bytes, b'\n'), Some(at));
            }
            assert_eq!(find(&vec![b'\x8a'; len], b'\n'), None);
        }
    }
}
