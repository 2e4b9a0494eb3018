//! A connection to a server: its bytes and its protocol state.

use std::task::{Context, Poll};

use super::limits::Bounds;
use crate::http::h1::Requester;
use crate::net::{Stream, Transport};

/// A connection with no exchange, or in the middle of one. Dropping it closes the socket.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) transport: Transport,
    pub(super) http: Requester,
}

impl Connection {
    pub(super) fn new(stream: Stream, bounds: &Bounds) -> Self {
        Self {
            transport: Transport::with_deadlines(stream, bounds.send.clone()),
            http: Requester::new(),
        }
    }

    /// Whether another request can be sent at once: the last exchange is complete, its request is
    /// sent, and the server has neither closed the connection nor sent bytes that belong to no
    /// response. Leaves a receive in flight, which notices both.
    pub(super) fn is_reusable(&mut self, context: &mut Context<'_>) -> bool {
        self.transport.clear_recv_deadline();
        self.http.is_idle()
            && self.transport.recv_buf.is_empty()
            && matches!(self.transport.poll_flush(context), Poll::Ready(Ok(())))
            && self.transport.poll_recv(context).is_pending()
    }

    /// As [`Connection::is_reusable`], after a time in which the server may have closed the
    /// connection: looks for what has arrived since the worker's last visit to the kernel, too.
    pub(super) fn is_still_reusable(&mut self, context: &mut Context<'_>) -> bool {
        self.is_reusable(context) && {
            self.transport.stream().fetch_completions();
            self.transport.poll_recv(context).is_pending()
        }
    }
}
