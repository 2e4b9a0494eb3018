//! Why a request has no response, or a client cannot be made.

use std::fmt;
use std::io;

use crate::http::Fault;
use crate::service::BodyError;

/// Why there is no response to a request, or no client. It displays as one line.
///
/// ```
/// use coring::client::{Client, Error};
///
/// coring::run(async {
///     let error = Client::new().get("https://localhost/").await.unwrap_err();
///     assert!(matches!(error, Error::InvalidRequest(_)));
///     assert!(error.to_string().starts_with("invalid request: https needs TLS"));
/// });
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// [`Limits`](super::Limits) within which no request could succeed; the text names the field.
    InvalidLimits(String),
    /// The request cannot be sent: its URL has no host or another scheme than `http`, its method is
    /// CONNECT, or a strict server would refuse its head. Nothing was sent.
    InvalidRequest(String),
    /// The host (first field) cannot be resolved or connected. Nothing was sent.
    Connect(String, io::Error),
    /// The connection broke while the request was sent or before the response's head was complete.
    Broken(io::Error),
    /// The request's body could not be read to its end, so the server has received a part of it.
    RequestBody(BodyError),
    /// The response violates HTTP or exceeds a limit; the text says how.
    InvalidResponse(&'static str),
    /// A limit of [`Limits`](super::Limits) has passed.
    Timeout(Phase),
}

/// The phase of an exchange that took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Resolving the name and connecting.
    Connect,
    /// Sending: the server accepted no bytes of the request.
    Send,
    /// Waiting for the head of the response, after the request was sent.
    Head,
    /// Waiting for more of the response's body.
    Body,
    /// The whole exchange.
    Total,
}

impl Error {
    /// The error of a request that the `http` crate's builder refuses.
    pub(super) fn of_request(error: impl fmt::Display) -> Self {
        Self::InvalidRequest(error.to_string())
    }

    /// The error of a response with this fault.
    pub(super) fn of_response(fault: Fault) -> Self {
        match fault {
            Fault::Truncated => Self::Broken(io::ErrorKind::UnexpectedEof.into()),
            // These two texts are about requests.
            Fault::HeadTooLarge => Self::InvalidResponse("head too large"),
            Fault::BodyTooLarge => Self::InvalidResponse("body too large"),
            fault => Self::InvalidResponse(fault.reason()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidLimits(text) => write!(f, "invalid limits: {text}"),
            Self::InvalidRequest(text) => write!(f, "invalid request: {text}"),
            Self::Connect(host, error) => write!(f, "cannot connect to {host}: {error}"),
            Self::Broken(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the server closed the connection before the response")
            }
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::RequestBody(error) => write!(f, "the request's body failed: {error}"),
            Self::InvalidResponse(text) => write!(f, "invalid response: {text}"),
            Self::Timeout(phase) => f.write_str(match phase {
                Phase::Connect => "connecting took too long",
                Phase::Send => "the server did not accept the request in time",
                Phase::Head => "the response's head did not arrive in time",
                Phase::Body => "the response's body did not arrive in time",
                Phase::Total => "the exchange took too long",
            }),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(_, error) | Self::Broken(error) => Some(error),
            Self::RequestBody(error) => Some(error),
            _ => None,
        }
    }
}
