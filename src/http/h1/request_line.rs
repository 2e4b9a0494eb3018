//! Checks the request line of a head before the rest has arrived, so that a peer that speaks
//! another protocol gets its error at once.

use ::http::Method;

use super::parse::MessageLimits;
use crate::http::field::{find, is_token};
use crate::http::target::Target;
use crate::http::{Fault, Span};

/// Checks the request line at the start of `head`, as far as it has arrived. Earlier calls have
/// checked the first `before` bytes. Of several faults the first one in the line counts, because
/// it may have been reported before the next one arrived.
pub(super) fn check_request_line(
    head: &[u8],
    before: usize,
    limits: &MessageLimits,
) -> Result<(), Fault> {
    let end = find(head, b'\n').map(|line_feed| line_feed + 1);
    if end.is_some_and(|end| end <= before) {
        return Ok(());
    }
    let line = &head[..end.unwrap_or(head.len())];
    let excess = start_of_excess(line, before, limits);
    let checked = &line[before..excess.unwrap_or(line.len()).max(before)];
    let is_invalid = |&byte: &u8| !matches!(byte, b' '..0x7f | b'\r' | b'\n');
    if let Some(at) = checked.iter().position(is_invalid) {
        let spaces = line[..before + at].iter().filter(|&&byte| byte == b' ');
        return Err(match spaces.count() {
            1 => Fault::BadTarget,
            _ => Fault::BadRequestLine,
        });
    }
    match (excess, end) {
        (Some(_), _) => Err(Fault::TargetTooLong),
        (None, Some(_)) => check_whole_line(line),
        (None, None) => Ok(()),
    }
}

/// The offset at which the target in `line` exceeds its limit, if it does. Earlier calls have
/// checked the first `before` bytes.
fn start_of_excess(line: &[u8], before: usize, limits: &MessageLimits) -> Option<usize> {
    let max = usize::from(limits.target_bytes_max);
    if line.len() <= max || before > max + MessageLimits::METHOD_BYTES_MAX + 1 {
        return None;
    }
    let method = &line[..line.len().min(MessageLimits::METHOD_BYTES_MAX + 1)];
    let target = find(method, b' ')? + 1;
    let bytes = line.get(target..=target + max)?;
    bytes
        .iter()
        .all(|&byte| byte > b' ')
        .then_some(target + max)
}

/// Checks a request line that has arrived with its line end.
fn check_whole_line(line: &[u8]) -> Result<(), Fault> {
    let (method, target) = split_line(line)?;
    let start = method.len() + 1;
    let method = read_method(method)?;
    let mut parts = Target::EMPTY;
    parts.read(line, Span::new(start, start + target.len()), &method)
}

/// The method and the target of a request line with its line end. Every minor version of HTTP/1 is
/// supported.
pub(super) fn split_line(line: &[u8]) -> Result<(&str, &str), Fault> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let has_return = text.ends_with(b"\r");
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let mut parts = text.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::BadRequestLine);
    };
    if !is_token(method) || target.is_empty() {
        return Err(Fault::BadRequestLine);
    }
    match version {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'] => {}
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            return Err(Fault::UnsupportedVersion);
        }
        _ => return Err(Fault::BadRequestLine),
    }
    if !has_return {
        return Err(Fault::BareLineFeed);
    }
    match (str::from_utf8(method), str::from_utf8(target)) {
        (Ok(method), Ok(target)) => Ok((method, target)),
        _ => Err(Fault::BadTarget),
    }
}

/// The method of this name.
pub(super) fn read_method(method: &str) -> Result<Method, Fault> {
    if method.len() > MessageLimits::METHOD_BYTES_MAX {
        return Err(Fault::UnsupportedMethod);
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Fault::BadRequestLine)?;
    if method == Method::CONNECT {
        Err(Fault::UnsupportedMethod)
    } else {
        Ok(method)
    }
}
