//! Errors of the peer, and the status code of the response to each. The server's own errors have
//! other types.

use ::http::StatusCode;

/// The peer violated the protocol or exceeded a limit. The server sends an error response if it
/// still can, and then closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The request line is not `method SP target SP version` (RFC 9112 §3).
    BadRequestLine,
    /// The status line of a response is not `version SP status` with an optional reason phrase
    /// (RFC 9112 §4).
    BadStatusLine,
    /// A response switches to another protocol, which its request has not asked for.
    UnexpectedSwitch,
    /// A field line is malformed (RFC 9112 §5), or Content-Type occurs twice.
    BadField,
    /// A line ends in LF without CR. RFC 9112 §2.2 allows servers to accept this; it is refused
    /// because it helps to smuggle requests.
    BareLineFeed,
    /// The request target has no valid form or contains a forbidden byte (RFC 9112 §3.2).
    BadTarget,
    /// The request target exceeds its limit.
    TargetTooLong,
    /// The head, or a trailer section, exceeds its limit.
    HeadTooLarge,
    /// The head, or a trailer section, has too many field lines.
    TooManyFields,
    /// An HTTP/1.1 request without Host (RFC 9112 §3.2).
    MissingHost,
    /// Host is not `host [":" port]`, or occurs twice.
    BadHost,
    /// Content-Length is not one decimal number (RFC 9112 §6.3).
    BadContentLength,
    /// The request has both Content-Length and Transfer-Encoding, or has Transfer-Encoding in
    /// HTTP/1.0 (RFC 9112 §6.1).
    ConflictingFraming,
    /// Transfer-Encoding is malformed, or does not end in one `chunked` (RFC 9112 §6.3).
    BadTransferCoding,
    /// Another transfer coding before `chunked` (RFC 9112 §6.1); in a response, any other.
    UnsupportedTransferCoding,
    /// A well-formed version other than HTTP/1.
    UnsupportedVersion,
    /// The method CONNECT, because this server is not a proxy, or one that is longer than any
    /// known method.
    UnsupportedMethod,
    /// The body, or its announced length, exceeds its limit.
    BodyTooLarge,
    /// Chunked framing is malformed (RFC 9112 §7.1).
    BadChunk,
    /// Chunk extensions and zeros before chunk sizes exceed their limit.
    TooMuchFraming,
    /// A trailer field is malformed or not allowed as a trailer (RFC 9110 §6.5.1).
    BadTrailer,
    /// An expectation other than `100-continue` (RFC 9110 §10.1.1).
    ExpectationFailed,
    /// The head did not arrive in time.
    HeadTimeout,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The peer closed or half-closed the connection inside a head or a body. The server sends no
    /// error response.
    Truncated,
}

impl Fault {
    /// The status of the error response.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadRequestLine
            | Self::BadField
            | Self::BareLineFeed
            | Self::BadTarget
            | Self::MissingHost
            | Self::BadHost
            | Self::BadContentLength
            | Self::ConflictingFraming
            | Self::BadTransferCoding
            | Self::BadChunk
            | Self::TooMuchFraming
            | Self::BadTrailer
            | Self::Truncated => StatusCode::BAD_REQUEST,
            Self::HeadTimeout | Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::HeadTooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnsupportedTransferCoding | Self::UnsupportedMethod => {
                StatusCode::NOT_IMPLEMENTED
            }
            // Faults of a server, for the client of a gateway.
            Self::BadStatusLine | Self::UnexpectedSwitch => StatusCode::BAD_GATEWAY,
            Self::UnsupportedVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        }
    }

    /// A short description, for the log and for the body of the error response.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::BadRequestLine => "malformed request line",
            Self::BadStatusLine => "malformed status line",
            Self::UnexpectedSwitch => "unexpected switch of protocols",
            Self::BadField => "malformed header field",
            Self::BareLineFeed => "line ends in LF without CR",
            Self::BadTarget => "malformed request target",
            Self::TargetTooLong => "request target too long",
            Self::HeadTooLarge => "request head too large",
            Self::TooManyFields => "too many header fields",
            Self::MissingHost => "missing Host",
            Self::BadHost => "invalid Host",
            Self::BadContentLength => "invalid Content-Length",
            Self::ConflictingFraming => "conflicting message framing",
            Self::BadTransferCoding => "invalid Transfer-Encoding",
            Self::UnsupportedTransferCoding => "unsupported transfer coding",
            Self::UnsupportedVersion => "unsupported HTTP version",
            Self::UnsupportedMethod => "unsupported method",
            Self::BodyTooLarge => "request body too large",
            Self::BadChunk => "malformed chunked body",
            Self::TooMuchFraming => "too many chunk extensions",
            Self::BadTrailer => "malformed or forbidden trailer field",
            Self::ExpectationFailed => "unsupported expectation",
            Self::HeadTimeout => "request head timed out",
            Self::BodyTimeout => "request body timed out",
            Self::Truncated => "connection ended inside a request",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Fault;

    #[test]
    fn faults_map_to_status_codes() {
        let check = |fault: Fault, status: u16| assert_eq!(fault.status().as_u16(), status);
        check(Fault::BadRequestLine, 400);
        check(Fault::BadTransferCoding, 400);
        check(Fault::HeadTimeout, 408);
        check(Fault::BodyTooLarge, 413);
        check(Fault::TargetTooLong, 414);
        check(Fault::ExpectationFailed, 417);
        check(Fault::HeadTooLarge, 431);
        check(Fault::UnsupportedTransferCoding, 501);
        check(Fault::UnsupportedVersion, 505);
    }
}
