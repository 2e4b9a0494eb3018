//! Request targets, and the authorities in them.

use std::net::Ipv6Addr;

use coring::parts::target::is_host;

use super::with_head;

pub(super) fn check(target: &[u8]) {
    let bytes = [b"GET ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    with_head(&bytes, |head, bytes| {
        assert_eq!(head.target(bytes).as_bytes(), target);
        let (path, query) = (head.path(bytes), head.query(bytes));
        assert!(
            path.starts_with(b"/") || path == b"*",
            "{}",
            path.escape_ascii()
        );
        assert!(!path.contains(&b'?') && !path.contains(&b'#'));
        let len = path.len() + query.map_or(0, |query| query.len() + 1);
        if target.starts_with(b"/") {
            assert_eq!(len, target.len());
        } else if let Some(host) = head.host(bytes) {
            assert!(is_host(host.as_bytes()), "{host:?}");
        }
    });
}

pub(super) fn check_host(authority: &[u8]) {
    let naive = naive_host(authority).is_some();
    assert_eq!(is_host(authority), naive, "{}", authority.escape_ascii());
}

/// `Some` if `authority` is a host with an optional port (RFC 3986 §3.2).
fn naive_host(authority: &[u8]) -> Option<()> {
    let authority = str::from_utf8(authority).ok()?;
    let end = match authority.strip_prefix('[').and_then(|rest| rest.find(']')) {
        Some(bracket) => bracket + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end);
    let digits = port.strip_prefix(':').unwrap_or(port);
    let is_number = digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = digits.is_empty() || digits.parse::<u16>().is_ok();
    if !(port.is_empty() || port.starts_with(':')) || !is_number || !is_port || host.is_empty() {
        return None;
    }
    if let Some(rest) = host.strip_prefix('[') {
        return rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(drop);
    }
    let mut bytes = host.bytes();
    while let Some(byte) = bytes.next() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&byte);
        let mut is_digit = || bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit());
        if !(is_plain || byte == b'%' && is_digit() && is_digit()) {
            return None;
        }
    }
    Some(())
}
