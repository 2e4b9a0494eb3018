//! Checks a parsed head against its bytes: the bytes are exactly the request line and the fields,
//! and a naive parser derives the same values from them.

use coring::parts::h1::{Codec, Framing, MessageLimits};
use coring::parts::{Head, Version};

/// The most bytes of empty lines before a request.
const BLANK_MAX: usize = 8;

/// The head as a line of a report.
pub(super) fn line(codec: &Codec, head: &Head, framing: Framing, bytes: &[u8]) -> String {
    let fields: Vec<String> = head
        .fields(bytes)
        .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()))
        .collect();
    format!(
        "{} {} {:?} {framing:?} last {} waits {} host {:?} path {} query {:?} {fields:?}",
        head.method,
        head.target(bytes),
        head.version,
        codec.is_last_request(),
        codec.wants_continue(),
        head.host(bytes),
        head.path(bytes).escape_ascii(),
        head.query(bytes),
    )
}

/// Values that a naive parser derives from the fields.
#[derive(Default)]
struct FieldFacts {
    fields: usize,
    hosts: usize,
    lengths: Vec<Vec<u8>>,
    encodings: Vec<Vec<u8>>,
    close: bool,
    keep_alive: bool,
}

/// Asserts that `head` and `framing` agree with `bytes`.
pub(super) fn check(
    codec: &Codec,
    head: &Head,
    framing: Framing,
    bytes: &[u8],
    limits: &MessageLimits,
) {
    assert!(bytes.len() <= usize::from(limits.head_bytes_max));
    let begin = bytes.chunks(2).take_while(|two| *two == b"\r\n").count() * 2;
    assert!(begin <= BLANK_MAX);
    let target = head.target(bytes);
    let line = format!("{} {target} HTTP/1.", head.method);
    let rest = bytes[begin..].strip_prefix(line.as_bytes());
    let rest = rest.unwrap_or_else(|| panic!("{} is not {line:?}", bytes.escape_ascii()));
    let (minor, rest) = rest.split_first().expect("the minor version");
    let versions = match head.version {
        Version::Http10 => b'0'..=b'0',
        Version::Http11 => b'1'..=b'9',
    };
    assert!(versions.contains(minor), "{:?}", char::from(*minor));
    let rest = rest.strip_prefix(b"\r\n").expect("a line end");
    assert!(target.len() <= usize::from(limits.target_bytes_max));
    let is_plain = |byte: u8| byte > 0x20 && byte < 0x7f && byte != b'#';
    assert!(target.bytes().all(is_plain), "{target:?}");
    let facts = read_fields(head, bytes, rest);
    assert!(facts.fields <= usize::from(limits.fields_max));
    assert!(facts.hosts <= 1);
    assert!(
        facts.hosts == 1 || head.version == Version::Http10,
        "no host"
    );
    assert_eq!(framing, framing_of(&facts, head.version));
    if let Framing::Length(len) = framing {
        assert!(len <= limits.body_bytes_max);
    }
    let persists = facts.keep_alive || head.version == Version::Http11;
    assert_eq!(codec.is_last_request(), facts.close || !persists);
    check_target(head, bytes);
}

/// Parses the lines of `rest`, and asserts that they are exactly the fields of `head`.
fn read_fields(head: &Head, bytes: &[u8], mut rest: &[u8]) -> FieldFacts {
    let mut facts = FieldFacts::default();
    for (name, value) in head.fields(bytes) {
        facts.fields += 1;
        let separators = b"()<>@,;:\\\"/[]?={}";
        let is_token = |byte: &u8| byte.is_ascii_graphic() && !separators.contains(byte);
        assert!(
            !name.is_empty() && name.iter().all(is_token),
            "{}",
            name.escape_ascii()
        );
        let is_text = |byte: &u8| *byte == b'\t' || *byte >= 0x20 && *byte != 0x7f;
        assert!(value.iter().all(is_text), "{}", value.escape_ascii());
        assert_eq!(value, trim(value));
        let end = rest.windows(2).position(|two| two == b"\r\n");
        let line = &rest[..end.expect("the end of a line")];
        rest = &rest[line.len() + 2..];
        let after_name = line
            .strip_prefix(name)
            .and_then(|line| line.strip_prefix(b":"));
        assert_eq!(after_name.map(trim), Some(value), "{}", line.escape_ascii());
        match name.to_ascii_lowercase().as_slice() {
            b"host" => facts.hosts += 1,
            b"content-length" => facts.lengths.push(value.to_vec()),
            b"transfer-encoding" => facts.encodings.push(value.to_ascii_lowercase()),
            b"connection" => {
                for word in value.split(|byte| *byte == b',').map(trim) {
                    facts.close |= word.eq_ignore_ascii_case(b"close");
                    facts.keep_alive |= word.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            _ => {}
        }
    }
    assert_eq!(rest, b"\r\n", "bytes follow the fields");
    facts
}

fn framing_of(facts: &FieldFacts, version: Version) -> Framing {
    assert!(
        facts.lengths.len() + facts.encodings.len() <= 1,
        "two framings"
    );
    if let Some(encoding) = facts.encodings.first() {
        assert!(encoding == b"chunked" && version == Version::Http11);
        return Framing::Chunked;
    }
    let Some(length) = facts.lengths.first() else {
        return Framing::None;
    };
    assert!(!length.is_empty() && length.iter().all(u8::is_ascii_digit));
    let length = str::from_utf8(length)
        .ok()
        .and_then(|length| length.parse().ok());
    match length.expect("a length of 64 bits") {
        0 => Framing::None,
        length => Framing::Length(length),
    }
}

/// Asserts that the target ends with the path and the query, and that the host has no byte that
/// delimits other parts of a target.
fn check_target(head: &Head, bytes: &[u8]) {
    let target = head.target(bytes).as_bytes();
    let mut end = head.path(bytes).to_vec();
    if let Some(query) = head.query(bytes) {
        end.push(b'?');
        end.extend(query.bytes());
    }
    // An absolute target without a path has the path `/`.
    let is_root = head.path(bytes) == b"/";
    assert!(target.ends_with(&end) || is_root && target.ends_with(&end[1..]));
    if let Some(host) = head.host(bytes) {
        assert!(
            !host.contains(['/', '@', '\\', '?', '#', ',', ' ']),
            "{host:?}"
        );
    }
}

fn trim(bytes: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let begin = bytes.iter().position(is_text).unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(is_text)
        .map_or(begin, |last| last + 1);
    &bytes[begin..end]
}
