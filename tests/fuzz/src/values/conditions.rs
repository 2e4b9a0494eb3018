//! Preconditions: `If-Match` and the like.

use coring::parts::conditional::{Outcome, Validators};
use coring::parts::date;
use http::Method;

use super::with_head;
use crate::input::Input;

const ETAG: &[u8] = b"\"now, a\"";
const WEAK_ETAG: &[u8] = b"W/\"now, a\"";
/// Sun, 06 Nov 1994 08:49:37 GMT.
const MODIFIED_SECONDS: u64 = 784_111_777;
const NAMES: &[&str] = &[
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "If-Range",
    "X",
];

type Fields = Vec<(&'static str, Vec<u8>)>;

pub(super) fn check(mut input: Input<'_>) {
    let methods = [Method::GET, Method::HEAD, Method::PUT, Method::POST];
    let method = methods[input.below(methods.len())].clone();
    let mut fields = Fields::new();
    for piece in input.rest().split(|byte| *byte == b'\n').take(6) {
        let Some((name, value)) = piece.split_first() else {
            continue;
        };
        let is_text = |byte: &u8| *byte == b'\t' || *byte >= 0x20 && *byte != 0x7f;
        let value = value.iter().copied().filter(is_text).collect();
        fields.push((NAMES[usize::from(*name) % NAMES.len()], value));
    }
    let mut bytes = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    for (name, value) in &fields {
        bytes.extend(name.bytes());
        bytes.push(b':');
        bytes.extend(value);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"\r\n");
    for (_, value) in &mut fields {
        *value = value.trim_ascii().to_vec();
    }
    let validators = Validators {
        etag: Some(ETAG),
        modified_seconds: Some(MODIFIED_SECONDS),
    };
    let judged = with_head(&bytes, |head, bytes| {
        // There is no naive model of If-Range: it must not panic.
        let _ = validators.if_range(head.fields(bytes));
        validators.evaluate(&method, head.fields(bytes))
    });
    if let Some(judged) = judged {
        assert_eq!(judged, naive(&method, &fields), "{}", bytes.escape_ascii());
    }
}

/// The steps of RFC 9110 §13.2.2, in their order.
fn naive(method: &Method, fields: &Fields) -> Outcome {
    let reads = method == Method::GET || method == Method::HEAD;
    let since = |name| match &values(fields, name)[..] {
        [value] => date::parse(value),
        _ => None,
    };
    match matches(fields, "If-Match", &[ETAG]) {
        Some(true) => {}
        Some(false) => return Outcome::Failed,
        None => {
            if since("If-Unmodified-Since").is_some_and(|since| MODIFIED_SECONDS > since) {
                return Outcome::Failed;
            }
        }
    }
    match matches(fields, "If-None-Match", &[ETAG, WEAK_ETAG]) {
        Some(true) if reads => Outcome::NotModified,
        Some(true) => Outcome::Failed,
        Some(false) => Outcome::Proceed,
        None => {
            let is_old = since("If-Modified-Since").is_some_and(|since| MODIFIED_SECONDS <= since);
            if reads && is_old {
                Outcome::NotModified
            } else {
                Outcome::Proceed
            }
        }
    }
}

fn values<'a>(fields: &'a Fields, name: &str) -> Vec<&'a [u8]> {
    let named = fields.iter().filter(|(field, _)| *field == name);
    named.map(|(_, value)| &value[..]).collect()
}

/// Whether the field contains one of the tags `ours`, or `*`. `None` if the field is missing.
fn matches(fields: &Fields, name: &str, ours: &[&[u8]]) -> Option<bool> {
    let values = values(fields, name);
    let is_ours =
        |value: &&[u8]| *value == b"*" || tags(value).iter().any(|tag| ours.contains(tag));
    (!values.is_empty()).then(|| values.iter().any(is_ours))
}

/// The tags of a list, up to the first element that is not a tag.
fn tags(list: &[u8]) -> Vec<&[u8]> {
    let mut tags = Vec::new();
    let mut rest = list;
    loop {
        while let [b',' | b' ' | b'\t', after @ ..] = rest {
            rest = after;
        }
        let opaque = rest.strip_prefix(b"W/").unwrap_or(rest);
        let Some(quoted) = opaque.strip_prefix(b"\"") else {
            return tags;
        };
        let Some(len) = quoted.iter().position(|byte| *byte == b'"') else {
            return tags;
        };
        let after = &quoted[len + 1..];
        let tag = &rest[..rest.len() - after.len()];
        rest = after.trim_ascii_start();
        if !rest.is_empty() && rest[0] != b',' {
            return tags;
        }
        tags.push(tag);
    }
}
