//! The transfer codings of a request (RFC 9112 §6.1, RFC 9110 §10.1.4).

use crate::http::Fault;
use crate::http::field::{is_token, trim_ows};

/// What the Transfer-Encoding fields of a head have named so far. The lines of a head are one list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Codings {
    /// There is no field.
    #[default]
    Absent,
    /// `chunked` alone.
    Chunked,
    /// Other codings, and `chunked` as the last one.
    OtherAndChunked,
    /// Other codings only: nothing says where the body ends.
    Other,
    /// Anything else. It is not repaired, because two servers in a chain could do so differently.
    Invalid,
}

impl Codings {
    /// The codings after another field with this value.
    pub(super) fn and(self, value: &[u8]) -> Self {
        match self {
            Self::Absent if value.eq_ignore_ascii_case(b"chunked") => Self::Chunked,
            _ => self.and_rare(value),
        }
    }

    #[cold]
    fn and_rare(self, value: &[u8]) -> Self {
        let elements = value.split(|&byte| byte == b',').map(trim_ows);
        elements.fold(self, |before, element| {
            let mut parts = element.splitn(2, |&byte| byte == b';').map(trim_ows);
            let name = parts.next().unwrap_or_default();
            let (is_chunked, has_parameter) = (
                name.eq_ignore_ascii_case(b"chunked"),
                parts.next().is_some(),
            );
            match before {
                _ if !is_token(name) || is_chunked && has_parameter => Self::Invalid,
                Self::Absent if is_chunked => Self::Chunked,
                Self::Other if is_chunked => Self::OtherAndChunked,
                Self::Absent | Self::Other => Self::Other,
                // `chunked` is the last coding, and is applied once.
                Self::Chunked | Self::OtherAndChunked | Self::Invalid => Self::Invalid,
            }
        })
    }

    /// Whether the body is chunked (RFC 9112 §6.3). If its last coding is not `chunked`, its end
    /// cannot be found. If that is found, but the body has another coding too, the server lacks it.
    #[inline]
    pub(super) fn is_chunked(self) -> Result<bool, Fault> {
        match self {
            Self::Absent => Ok(false),
            Self::Chunked => Ok(true),
            Self::OtherAndChunked => Err(Fault::UnsupportedTransferCoding),
            Self::Other | Self::Invalid => Err(Fault::BadTransferCoding),
        }
    }
}
