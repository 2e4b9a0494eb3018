//! How a connection's life ended.

use ::http::header::RETRY_AFTER;
use ::http::{HeaderValue, StatusCode};

use crate::http::Fault;
use crate::metrics::{Counter, WorkerMetrics};
use crate::net::TransportError;
use crate::service::Response;

/// Why a connection was closed: a good end is one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// The peer closed between two requests.
    PeerClosed,
    /// The answer was the last one, as was agreed.
    Answered,
    /// No request came in time.
    Idle,
    /// The peer reset the connection, or was gone when we wrote.
    Reset,
    /// The peer half-closed the connection during a call, and the limits let that end the call.
    HalfClosed,
    /// The peer did not take the answer in time.
    WriteTimeout,
    /// The peer broke the protocol or a limit; this includes a head or body that was late.
    Fault(Fault),
    /// The service panicked.
    ServicePanicked,
    /// The service answered with an interim response (1xx) that none follows, its response's body
    /// was not what its head had announced, or a file of the response could not be read.
    ServiceFailed,
    /// The server is going away.
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
    /// The counter of this kind of end.
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

    /// What the peer is told, if nothing else is being said.
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
