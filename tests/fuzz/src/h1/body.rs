//! A naive parser of chunked bodies. It has the whole body at once.

use coring::parts::h1::MessageLimits;

/// Asserts that `wire` is exactly one chunked body, with the content `data`.
pub(super) fn check(wire: &[u8], data: &[u8], limits: &MessageLimits) {
    let mut rest = wire;
    let mut read: Vec<u8> = Vec::new();
    loop {
        let line = next_line(&mut rest);
        let is_digit = |byte: &&u8| byte.is_ascii_hexdigit();
        let (digits, extensions) = line.split_at(line.iter().take_while(is_digit).count());
        assert!((1..=16).contains(&digits.len()));
        assert!(are_extensions(extensions), "{}", line.escape_ascii());
        let digits = str::from_utf8(digits).expect("digits");
        let len = usize::from_str_radix(digits, 16).expect("a size");
        if len == 0 {
            break;
        }
        read.extend(&rest[..len]);
        assert_eq!(&rest[len..len + 2], b"\r\n");
        rest = &rest[len + 2..];
    }
    assert!(read.len() as u64 <= limits.body_bytes_max);
    assert_eq!(read, data);
    let mut trailers = 0;
    loop {
        let line = next_line(&mut rest);
        assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
        if line.is_empty() {
            break;
        }
        trailers += 1;
        let name = line.split(|byte| *byte == b':').next().expect("a part");
        assert!(name.len() < line.len(), "a trailer without a colon");
        let name = name.to_ascii_lowercase();
        let framing = [&b"content-length"[..], b"transfer-encoding", b"host"];
        assert!(
            !framing.contains(&&name[..]),
            "a framing field as a trailer"
        );
    }
    assert!(trailers <= limits.fields_max);
    assert!(rest.is_empty(), "bytes follow the body");
}

/// Whether `rest` is `*( BWS ";" BWS name [ BWS "=" BWS value ] )`.
fn are_extensions(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let Some(after) = rest.trim_ascii_start().strip_prefix(b";") else {
            return false;
        };
        rest = after.trim_ascii_start();
        if !skip_token(&mut rest) {
            return false;
        }
        let Some(after) = rest.trim_ascii_start().strip_prefix(b"=") else {
            continue;
        };
        rest = after.trim_ascii_start();
        let is_value = match rest.strip_prefix(b"\"") {
            Some(after) => {
                rest = after;
                skip_quoted(&mut rest)
            }
            None => skip_token(&mut rest),
        };
        if !is_value {
            return false;
        }
    }
    true
}

fn skip_token(rest: &mut &[u8]) -> bool {
    let is_token = |byte: &&u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(byte);
    let len = rest.iter().take_while(is_token).count();
    *rest = &rest[len..];
    len > 0
}

/// Skips the rest of a quoted string, with its closing quote.
fn skip_quoted(rest: &mut &[u8]) -> bool {
    let is_text = |byte: u8| byte == b'\t' || byte >= 0x20 && byte != 0x7f;
    loop {
        match *rest {
            [b'"', after @ ..] => {
                *rest = after;
                return true;
            }
            [b'\\', byte, after @ ..] if is_text(*byte) => *rest = after,
            [byte, after @ ..] if *byte != b'\\' && is_text(*byte) => *rest = after,
            _ => return false,
        }
    }
}

fn next_line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest.windows(2).position(|two| two == b"\r\n");
    let line = &rest[..end.expect("the end of a line")];
    *rest = &rest[line.len() + 2..];
    line
}
