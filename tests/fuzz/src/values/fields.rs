//! Field sections, and the tokens in field values.

use coring::parts::field;

use super::with_head;
use crate::input::{Input, exact};

pub(super) fn check(mut input: Input<'_>) {
    if input.below(2) == 0 {
        check_words(&exact(input.rest()));
    } else {
        check_section(input.rest());
    }
}

/// A look-up by name finds the same fields as an iteration over all fields.
fn check_section(lines: &[u8]) {
    let bytes = [b"GET / HTTP/1.1\r\nHost: a\r\n", lines, b"\r\n\r\n"].concat();
    with_head(&bytes, |head, bytes| {
        let fields = head.fields(bytes);
        for name in ["host", "a", "x-y", "content-length", "connection"] {
            let named: Vec<&[u8]> = fields.get_all(name).collect();
            let is_named =
                |(field, _): &(&[u8], &[u8])| field.eq_ignore_ascii_case(name.as_bytes());
            let walked: Vec<&[u8]> = fields.filter(is_named).map(|(_, value)| value).collect();
            assert_eq!(named, walked, "{name}");
            assert_eq!(fields.get(name), walked.first().copied());
        }
    });
}

fn check_words(bytes: &[u8]) {
    for needle in [b'\n', b':', 0, 0x80, 0xff] {
        let naive = bytes.iter().position(|byte| *byte == needle);
        assert_eq!(field::find(bytes, needle), naive);
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let trimmed = field::trim_ows(bytes);
    assert!(!trimmed.first().is_some_and(is_space) && !trimmed.last().is_some_and(is_space));
    assert!(
        bytes
            .windows(trimmed.len().max(1))
            .any(|part| part == trimmed)
            || trimmed.is_empty()
    );
    let is_of_tokens =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_token = !bytes.is_empty() && bytes.iter().all(is_of_tokens);
    assert_eq!(field::is_token(bytes), is_token);
    if is_token {
        assert_eq!(field::is_host(bytes), bytes.eq_ignore_ascii_case(b"host"));
    }
    let is_text = |byte: &u8| *byte == b'\t' || *byte >= 0x20 && *byte != 0x7f;
    assert_eq!(field::is_value(bytes), bytes.iter().all(is_text));
    let naive = bytes.split(|byte| *byte == b',').map(field::trim_ows);
    let naive: Vec<&[u8]> = naive.filter(|word| !word.is_empty()).collect();
    assert_eq!(field::tokens(bytes).collect::<Vec<_>>(), naive);
    let has_close = naive.iter().any(|word| word.eq_ignore_ascii_case(b"close"));
    assert_eq!(field::has_token(bytes, "close"), has_close);
}
