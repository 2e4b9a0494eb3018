//! Writes values of clients so that they can end neither their line nor their field.

use std::io::Write;

use super::format::Style;

/// Appends a value. A missing one is `-`, or `null` in JSON. So is an empty one outside quotes,
/// where its field would not be seen.
pub(super) fn put(value: Option<&[u8]>, style: Style, out: &mut Vec<u8>) {
    match (value, style) {
        (None, Style::Json) => out.extend(b"null"),
        (Some(value), Style::Json) => put_json(value, out),
        (None, _)
        | (
            Some(b""),
            Style::Text {
                is_quoted: false, ..
            },
        ) => out.push(b'-'),
        (Some(value), Style::Text { end, is_quoted }) => put_text(value, end, is_quoted, out),
    }
}

/// Appends a number.
pub(super) fn put_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends text that `end` follows.
pub(super) fn put_text(text: &[u8], end: u8, is_quoted: bool, out: &mut Vec<u8>) {
    let is_plain = |byte: u8| {
        matches!(byte, b' '..=b'~')
            && !matches!(byte, b'"' | b'\\')
            && byte != end
            && (is_quoted || !matches!(byte, b' ' | b'[' | b']'))
    };
    put_escaped(text, is_plain, out, |byte, out| match byte {
        b'"' if is_quoted => out.extend(b"\\\""),
        b'\\' => out.extend(b"\\\\"),
        _ => write!(out, "\\x{byte:02X}").expect("a Vec takes any bytes"),
    });
}

fn put_json(text: &[u8], out: &mut Vec<u8>) {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    out.push(b'"');
    put_escaped(text, is_plain, out, |byte, out| match byte {
        b'"' | b'\\' => out.extend([b'\\', byte]),
        _ => write!(out, "\\u{byte:04x}").expect("a Vec takes any bytes"),
    });
    out.push(b'"');
}

/// Appends text, with `escape` for each byte that is not plain.
fn put_escaped(
    text: &[u8],
    is_plain: impl Fn(u8) -> bool,
    out: &mut Vec<u8>,
    escape: impl Fn(u8, &mut Vec<u8>),
) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&byte| !is_plain(byte)) {
        out.extend_from_slice(&rest[..at]);
        escape(rest[at], out);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// The user's name in the credentials of HTTP's Basic authentication (RFC 7617).
pub(super) fn user(authorization: &[u8]) -> Option<Vec<u8>> {
    let (scheme, rest) = authorization.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = base64(rest.trim_ascii())?;
    // Other bytes are no credentials, but something that was sent instead.
    let name = str::from_utf8(&decoded).ok()?.split(':').next()?;
    (!name.is_empty()).then(|| name.as_bytes().to_vec())
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text
        .iter()
        .rposition(|&byte| byte != b'=')
        .map_or(0, |last| last + 1);
    let (mut bits, mut count) = (0_u32, 0);
    let mut decoded = Vec::with_capacity(end * 3 / 4);
    for &byte in &text[..end] {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count & 0xff) as u8);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &[u8], end: u8, is_quoted: bool) -> String {
        let mut out = Vec::new();
        put(Some(value), Style::Text { end, is_quoted }, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn text_of_a_client_cannot_end_its_quotes() {
        assert_eq!(
            text(b"a\"b\\c\nd\xff e", b'"', true),
            r#"a\"b\\c\x0Ad\xFF e"#
        );
        assert_eq!(text(b"a b|c[", b'|', false), r"a\x20b\x7Cc\x5B");
        assert_eq!(text(b"\"\\", b' ', false), r"\x22\\");
        assert_eq!(text(b"", b' ', false), "-");
        assert_eq!(text(b"", b'"', true), "");
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 9, 10, 404, u64::MAX] {
            let mut out = Vec::new();
            put_number(number, &mut out);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }

    #[test]
    fn the_user_is_that_of_the_credentials() {
        for (field, expected) in [
            ("Basic YWxpY2U6c2VjcmV0", Some("alice")),
            ("basic YWxpY2U=", Some("alice")),
            ("Basic OnNlY3JldA==", None),
            ("Basic !", None),
            ("Basic ixsTtkKzIpVTncfQjbBcnoRNoDfbnaXG", None),
            ("Bearer YWxpY2U6c2VjcmV0", None),
            ("Basic", None),
            ("", None),
        ] {
            let expected = expected.map(|name| name.as_bytes().to_vec());
            assert_eq!(user(field.as_bytes()), expected, "{field}");
        }
    }
}
