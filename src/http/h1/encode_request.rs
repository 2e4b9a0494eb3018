//! Encodes the heads of requests (RFC 9112 §3, §5). Framing and persistence are decided in
//! `requester.rs` and only encoded here.

use ::http::header::{CONNECTION, EXPECT, HOST, TE};
use ::http::{HeaderMap, HeaderName, Method};

use crate::http::field::{Owner, has_token, owner};
use crate::http::field_lines::names_in;
use crate::http::head_writer::WRITTEN_BYTES_MAX;
use crate::http::target::{Target, is_host};
use crate::http::{Fault, Span};

use super::encode::BodyLength;

/// The parts of a request that its head depends on.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target, in origin-form or `*`.
    pub target: &'a str,
    /// The authority of the URL, for Host if `fields` has none.
    pub authority: &'a str,
    /// The fields. Those that frame the message or concern only the connection are left out, as in
    /// a response, and so are those that Connection names. `Connection: close` among them makes the
    /// request the last on its connection.
    pub fields: &'a HeaderMap,
    /// The length of the body.
    pub length: BodyLength,
}

impl RequestHead<'_> {
    /// Whether the body's bytes should wait for `100 Continue`.
    pub(super) fn expects_continue(&self) -> bool {
        let expects = self.fields.get(EXPECT);
        let expects =
            expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        expects
            && !matches!(self.length, BodyLength::Known(0) | BodyLength::Omitted)
            && !self.is_named(&EXPECT)
    }

    /// Whether Connection names this field. Then it concerns only the connection on which it came,
    /// if the request is forwarded (RFC 9110 §7.6.1).
    fn is_named(&self, name: &HeaderName) -> bool {
        let is_name = |other: &[u8]| other.eq_ignore_ascii_case(name.as_str().as_bytes());
        let mut options = self.fields.get_all(CONNECTION).iter();
        options.any(|value| names_in(value.as_bytes()).any(is_name))
    }

    /// Whether the caller asks for the end of the connection.
    pub(super) fn wants_close(&self) -> bool {
        let mut options = self.fields.get_all(CONNECTION).iter();
        options.any(|value| has_token(value.as_bytes(), "close"))
    }

    /// The encoded head.
    ///
    /// # Errors
    /// The fault that a strict server would find in it.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Fault> {
        if self.method == Method::CONNECT {
            return Err(Fault::UnsupportedMethod);
        }
        if self.method.as_str().len() + 1 + self.target.len() > WRITTEN_BYTES_MAX {
            return Err(Fault::TargetTooLong);
        }
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        let start = out.len();
        out.extend_from_slice(self.target.as_bytes());
        let mut target = Target::EMPTY;
        target.read(&out, Span::new(start, out.len()), self.method)?;
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        out.extend_from_slice(self.host()?);
        self.put_fields(&mut out);
        match self.length {
            // RFC 9110 §8.6: the length 0 is sent with methods that usually have content.
            BodyLength::Known(0) | BodyLength::Omitted => {
                if matches!(*self.method, Method::POST | Method::PUT | Method::PATCH) {
                    out.extend_from_slice(b"\r\nContent-Length: 0");
                }
            }
            BodyLength::Known(length) => {
                out.extend_from_slice(format!("\r\nContent-Length: {length}").as_bytes());
            }
            BodyLength::Unknown => out.extend_from_slice(b"\r\nTransfer-Encoding: chunked"),
        }
        let has_te = self.fields.contains_key(TE) && !self.is_named(&TE);
        match (self.wants_close(), has_te) {
            (false, false) => {}
            (true, false) => out.extend_from_slice(b"\r\nConnection: close"),
            // RFC 9110 §10.1.4: TE is listed in Connection.
            (false, true) => out.extend_from_slice(b"\r\nConnection: te"),
            (true, true) => out.extend_from_slice(b"\r\nConnection: close, te"),
        }
        out.extend_from_slice(b"\r\n\r\n");
        Ok(out)
    }

    /// The value of Host.
    fn host(&self) -> Result<&[u8], Fault> {
        let mut hosts = self.fields.get_all(HOST).iter();
        let host = hosts
            .next()
            .map_or(self.authority.as_bytes(), |host| host.as_bytes());
        match hosts.next().is_none() && is_host(host) {
            true => Ok(host),
            false => Err(Fault::BadHost),
        }
    }

    /// Writes the fields except those that this encoder writes itself.
    fn put_fields(&self, out: &mut Vec<u8>) {
        for (name, value) in self.fields {
            let is_ours = matches!(
                owner(name.as_str().as_bytes()),
                Owner::Connection | Owner::Protocol
            );
            if is_ours
                || name == HOST
                || name == EXPECT && !self.expects_continue()
                || self.is_named(name)
            {
                continue;
            }
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
        }
    }
}
