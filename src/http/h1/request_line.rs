//! Checks the request line of a head before the rest has arrived, so that a peer that speaks another
//! protocol gets its error at once.

use ::http::Method;

use super::parse::{MessageLimits, offset};
use crate::http::field::find;
use crate::http::target::Target;
use crate::http::{Fault, Span};

/// The longest accepted method, in bytes. The longest registered method has 17.
const METHOD_BYTES_MAX: usize = 32;

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
    if line.len() <= max || before > max + METHOD_BYTES_MAX + 1 {
        return None;
    }
    let method = &line[..line.len().min(METHOD_BYTES_MAX + 1)];
    let target = find(method, b' ')? + 1;
    let bytes = line.get(target..=target + max)?;
    bytes
        .iter()
        .all(|&byte| byte > b' ')
        .then_some(target + max)
}

/// Checks a request line that has arrived with its line end.
fn check_whole_line(line: &[u8]) -> Result<(), Fault> {
    let mut request = httparse::Request::new(&mut []);
    if let Err(error) = request.parse(line) {
        return Err(fault_of_line(error, &request, line));
    }
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(Fault::BadRequestLine);
    };
    if !line.ends_with(b"\r\n") {
        return Err(Fault::BareLineFeed);
    }
    let method = read_method(method)?;
    let start = offset(line, target.as_bytes());
    let mut parts = Target::EMPTY;
    parts.read(line, Span::new(start, start + target.len()), &method)
}

/// Converts an error of httparse in `line`, a request line with its line end.
fn fault_of_line(
    error: httparse::Error,
    request: &httparse::Request<'_, '_>,
    line: &[u8],
) -> Fault {
    use httparse::Error;
    let after = |part: Option<&str>, start: usize| start + part.map_or(0, |part| part.len() + 1);
    let target = after(request.method, 0);
    let version = after(request.path, target);
    let rest = |start: usize| line.get(start..).unwrap_or_default();
    match error {
        Error::Version => fault_of_version(rest(version)),
        // The target is missing, the line ends after it as in HTTP/0.9, or the target contains a
        // forbidden byte.
        Error::Token if request.method.is_some() => match rest(target) {
            [b' ', ..] => Fault::BadRequestLine,
            text => match text.iter().find(|&&byte| byte <= b' ' || byte == 0x7f) {
                Some(b'\r' | b'\n') => Fault::BadRequestLine,
                _ => Fault::BadTarget,
            },
        },
        _ => Fault::BadRequestLine,
    }
}

/// Distinguishes an unsupported version, with which `rest` begins, from an invalid one.
fn fault_of_version(rest: &[u8]) -> Fault {
    let is_version =
        |number: &[u8]| matches!(number, [b'0'..=b'9', b'.', b'0'..=b'9', b'\r' | b'\n', ..]);
    match rest.strip_prefix(b"HTTP/").is_some_and(is_version) {
        true => Fault::UnsupportedVersion,
        false => Fault::BadRequestLine,
    }
}

/// The method of this name.
pub(super) fn read_method(method: &str) -> Result<Method, Fault> {
    if method.len() > METHOD_BYTES_MAX {
        return Err(Fault::BadRequestLine);
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Fault::BadRequestLine)?;
    if method == Method::CONNECT {
        Err(Fault::UnsupportedMethod)
    } else {
        Ok(method)
    }
}
