//! Builds the [`Head`] of a request that a test or a program makes, instead of parsing a received
//! one. The target, the fields and Host are validated as the parser does it. Unlike a received
//! HTTP/1.1 request, such a request may have no Host; its framing is not checked.

use ::http::Method;

use super::field::{is_host, is_token, is_value, trim_ows};
use super::target::is_host_value;
use super::{Fault, Head, Span, Version};

/// The largest size of a target together with its field lines, in bytes: the largest offset of a
/// [`Span`].
pub const WRITTEN_BYTES_MAX: usize = u16::MAX as usize - 1;

impl Head {
    /// Builds the head of a request with this target and these fields. Also returns the bytes that
    /// the head refers to.
    ///
    /// # Errors
    /// The [`Fault`] that a received request would cause: CONNECT, an invalid target, field or
    /// Host, or more than `WRITTEN_BYTES_MAX` bytes.
    pub fn build<'a>(
        method: Method,
        target: &str,
        version: Version,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(Self, Vec<u8>), Fault> {
        if method == Method::CONNECT {
            return Err(Fault::UnsupportedMethod);
        }
        if target.len() > WRITTEN_BYTES_MAX {
            return Err(Fault::TargetTooLong);
        }
        let mut head = Self {
            method,
            version,
            target: Span::new(0, target.len()),
            ..Self::new()
        };
        let mut bytes = target.as_bytes().to_vec();
        head.parts.read(&bytes, head.target, &head.method)?;
        bytes.extend(b"\r\n");
        let fields_start = bytes.len();
        for (name, value) in fields {
            let value = trim_ows(value);
            if !is_token(name) || !is_value(value) {
                return Err(Fault::BadField);
            }
            bytes.extend(name);
            bytes.extend(b": ");
            bytes.extend(value);
            let value = Span::new(bytes.len() - value.len(), bytes.len());
            bytes.extend(b"\r\n");
            if bytes.len() > WRITTEN_BYTES_MAX {
                return Err(Fault::HeadTooLarge);
            }
            if is_host(name) && head.host.replace(value).is_some() {
                return Err(Fault::BadHost);
            }
        }
        head.fields = Span::new(fields_start, bytes.len());
        match head.host {
            Some(host) if !is_host_value(host.of(&bytes)) => Err(Fault::BadHost),
            _ => Ok((head, bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Field<'a> = (&'a [u8], &'a [u8]);

    fn build(target: &str, fields: &[Field<'_>]) -> Result<(Head, Vec<u8>), Fault> {
        let fields = fields.iter().copied();
        Head::build(Method::GET, target, Version::Http11, fields)
    }

    #[test]
    fn a_built_head_reads_like_a_received_one() {
        let fields: [Field<'_>; 3] = [
            (b"host", b"a.example"),
            (b"accept", b" a\t"),
            (b"x", b"\xff"),
        ];
        let (head, bytes) = build("/a%20b?q=1", &fields).unwrap();
        assert_eq!(head.path(&bytes), b"/a%20b");
        assert_eq!(head.query(&bytes), Some("q=1"));
        assert_eq!(head.target(&bytes), "/a%20b?q=1");
        assert_eq!(head.host(&bytes), Some("a.example"));
        let read: Vec<_> = head.fields(&bytes).collect();
        assert_eq!(read[1], (&b"accept"[..], &b"a"[..]));
        assert_eq!(read[2], (&b"x"[..], &b"\xff"[..]));
        let (head, bytes) = build("http://a:80/x", &[]).unwrap();
        assert_eq!(
            (head.host(&bytes), head.path(&bytes)),
            (Some("a:80"), &b"/x"[..])
        );
        assert_eq!(head.fields(&bytes).count(), 0);
    }

    #[test]
    fn invalid_requests_are_refused() {
        let fault = |target: &str, fields: &[Field<'_>]| build(target, fields).unwrap_err();
        assert_eq!(fault("", &[]), Fault::BadTarget);
        assert_eq!(fault("/ HTTP/1.1\r\nX: y", &[]), Fault::BadTarget);
        assert_eq!(fault("/", &[(b"a b", b"c")]), Fault::BadField);
        assert_eq!(fault("/", &[(b"a", b"c\r\nd: e")]), Fault::BadField);
        assert_eq!(fault("/", &[(b"Host", b"a/b")]), Fault::BadHost);
        assert_eq!(
            fault("/", &[(b"Host", b"a"), (b"host", b"a")]),
            Fault::BadHost
        );
        assert_eq!(fault("http://a/", &[(b"Host", b"/")]), Fault::BadHost);
        let connect = Head::build(Method::CONNECT, "a:80", Version::Http11, []);
        assert_eq!(connect.unwrap_err(), Fault::UnsupportedMethod);
    }

    #[test]
    fn a_head_up_to_the_size_limit_is_accepted() {
        let target = "/".repeat(WRITTEN_BYTES_MAX);
        assert_eq!(build(&format!("{target}/"), &[]), Err(Fault::TargetTooLong));
        let (head, bytes) = build(&target, &[]).unwrap();
        assert_eq!(head.path(&bytes).len(), WRITTEN_BYTES_MAX);
        let room = WRITTEN_BYTES_MAX - "/\r\nx: \r\n".len();
        for (len, fits) in [(0, true), (1, true), (room, true), (room + 1, false)] {
            let value = vec![b'v'; len];
            match build("/", &[(b"x", &value)]) {
                Ok((head, bytes)) => {
                    assert!(fits && head.fields(&bytes).get("x") == Some(&value));
                }
                Err(fault) => assert!(!fits && fault == Fault::HeadTooLarge),
            }
        }
    }
}
