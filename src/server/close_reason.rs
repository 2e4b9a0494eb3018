//! Why a connection ended, with the counter and the error response of each reason.

use ::http::header::RETRY_AFTER;
use ::http::{HeaderValue, StatusCode};

use crate::http::Fault;
use crate::metrics::{Counter, WorkerMetrics};
use crate::net::TransportError;
use crate::service::Response;

/// Why a connection was closed, in order or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// The peer closed the connection between two requests.
    PeerClosed,
    /// The last response was sent. One side had announced it as the last one (`Connection: close`).
    Answered,
    /// No request arrived in time.
    Idle,
    /// The peer reset the connection, or could not be reached any more.
    Reset,
    /// The peer half-closed the connection during a call, and `HalfClose::End` ends the call then.
    HalfClosed,
    /// The peer did not take the response in time.
    WriteTimeout,
    /// The peer violated the protocol or a limit; a head or body that was late is included.
    Fault(Fault),
    /// The service panicked.
    ServicePanicked,
    /// The service's response was invalid: a status above 599, an interim one (1xx) that no other
    /// follows, a body that is not as long as announced, or a file that could not be read.
    ServiceFailed,
    /// The server drains or stops.
    Drained,
    /// There were too many connections.
    Shed,
}

impl From<TransportError> for CloseReason {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Broken(_) => Self::Reset,
            TransportError::SendTimeout => Self::WriteTimeout,
            TransportError::Unreadable => Self::ServiceFailed,
        }
    }
}

impl CloseReason {
    /// The counter of connections that ended for this reason.
    pub(super) fn counter(self, metrics: &WorkerMetrics) -> &Counter {
        match self {
            Self::PeerClosed | Self::Answered => &metrics.closed_in_order,
            Self::Reset | Self::HalfClosed | Self::Fault(Fault::Truncated) => {
                &metrics.closed_by_peer
            }
            Self::Idle
            | Self::WriteTimeout
            | Self::Fault(Fault::HeadTimeout | Fault::BodyTimeout) => &metrics.closed_by_timeout,
            Self::Fault(_) => &metrics.closed_by_fault,
            Self::ServicePanicked | Self::ServiceFailed => &metrics.closed_by_service,
            Self::Drained => &metrics.closed_by_drain,
            Self::Shed => &metrics.connections_shed,
        }
    }

    /// Whether the client ended the connection.
    pub(super) fn is_by_client(self) -> bool {
        matches!(
            self,
            Self::Reset | Self::HalfClosed | Self::Fault(Fault::Truncated)
        )
    }

    /// Why a request was refused, or its response cut short, for the access log.
    pub(super) fn cause(self) -> &'static str {
        match self {
            Self::Reset => "client reset the connection",
            Self::HalfClosed => "client closed the connection",
            Self::WriteTimeout => "response timed out",
            Self::Fault(fault) => fault.reason(),
            Self::ServicePanicked => "service panicked",
            Self::ServiceFailed => "invalid response of the service",
            Self::Shed => "too many connections",
            // The first three end a connection in order, unless the server stops meanwhile.
            Self::PeerClosed | Self::Answered | Self::Idle | Self::Drained => "server stopped",
        }
    }

    /// The error response that is sent for this reason, unless another response has been begun.
    pub(super) fn refusal(self) -> Option<Response> {
        match self {
            Self::Fault(Fault::Truncated) => None,
            Self::Fault(fault) => Some(Response::text(fault.reason()).with_status(fault.status())),
            Self::ServicePanicked | Self::ServiceFailed => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Some(Response::text("internal server error\n").with_status(status))
            }
            Self::Shed => {
                let response = Response::text("too many connections\n");
                let response = response.with_status(StatusCode::SERVICE_UNAVAILABLE);
                Some(response.with_header(RETRY_AFTER, HeaderValue::from_static("1")))
            }
            _ => None,
        }
    }
}
