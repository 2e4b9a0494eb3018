//! Ends a connection: sends the last responses, waits for the peer if it is still sending, counts
//! and logs.
//!
//! [`Connection::close`] is the last step of the connection's coroutine. If the coroutine is
//! dropped earlier, by a panic or because the server stops, only `drop` runs. So `drop` does what
//! is always necessary.

use std::future::poll_fn;
use std::pin::Pin;

use super::close_reason::CloseReason;
use super::connection::Connection;
use super::limits::Limits;
use crate::buf::PoolBox;
use crate::http::Fault;
use crate::net::RecvOutcome;
use crate::rt::{ceil_ms, peer_after_ms};
use crate::service::Response;
use crate::sys::mutants::mutate;

/// How a connection ends.
#[derive(Debug)]
enum End {
    /// Nothing more is sent: the peer is gone, does not read, or must not get the rest of a
    /// response that failed.
    Silent,
    /// The queued responses are sent, and the connection is closed.
    Flush,
    /// The queued responses are sent. The peer may still be sending, and has time to read them.
    Deliver,
    /// As `Deliver`, with this response as the last one.
    Refuse(Response),
}

impl End {
    /// `can_respond`: no response has been begun, so an error response can still be sent.
    fn of(reason: CloseReason, can_respond: bool) -> Self {
        match reason {
            CloseReason::Reset | CloseReason::WriteTimeout => Self::Silent,
            CloseReason::HalfClosed if !can_respond => Self::Silent,
            CloseReason::HalfClosed
            | CloseReason::PeerClosed
            | CloseReason::Idle
            | CloseReason::Fault(Fault::Truncated) => Self::Flush,
            CloseReason::Answered | CloseReason::Drained => Self::Deliver,
            CloseReason::Fault(_)
            | CloseReason::ServicePanicked
            | CloseReason::ServiceFailed
            | CloseReason::Shed => match reason.refusal() {
                Some(refusal) if can_respond => Self::Refuse(refusal),
                _ => Self::Deliver,
            },
        }
    }
}

impl Connection {
    /// Ends the connection because of `reason`. The future is in a block of its own, because
    /// otherwise every idle connection would have to reserve the space for it.
    pub(super) fn close(&mut self, reason: CloseReason) -> Pin<PoolBox<impl Future<Output = ()>>> {
        self.reason = Some(reason);
        if reason == CloseReason::ServicePanicked {
            self.shared.metrics.service_panics.add(1);
        }
        let pool = self.shared.pool.clone();
        PoolBox::pin(&pool, || self.end(reason))
    }

    async fn end(&mut self, reason: CloseReason) {
        let mut end = match self.transport.is_broken() {
            true => End::Silent,
            false => End::of(reason, self.http.can_respond()),
        };
        // If the peer is still sending when the socket is closed, the kernel answers with a reset,
        // and the peer may lose the last response (RFC 9112 §9.6).
        let may_send = !self.transport.has_fin() && self.http.peer_may_send();
        if let End::Refuse(refusal) = &mut end {
            self.encode_refusal(refusal, reason);
        }
        self.transport.clear_recv_deadline();
        if matches!(end, End::Silent) {
            return;
        }
        if let Err(error) = poll_fn(|context| self.transport.poll_finish(context)).await {
            return self.write_cut_lines(error.into());
        }
        // The request of a connection beyond the limit may still arrive.
        if reason != CloseReason::Shed {
            self.write_sent_lines();
        }
        // More may have arrived while the last response was sent.
        let may_send = may_send || !self.transport.has_fin() && self.more_has_arrived();
        let waits = match end {
            End::Silent | End::Flush => false,
            End::Deliver | End::Refuse(_) => mutate!(NoLinger, false, may_send),
        };
        if waits && !self.http.must_reset(true) {
            self.linger().await;
        }
    }

    /// Encodes the response that ends the connection because of `reason`.
    fn encode_refusal(&mut self, refusal: &mut Response, reason: CloseReason) {
        let has_head = self.http.has_request();
        self.http.fail_request(self.transport.recv_buf.unread());
        let error = reason.cause();
        if has_head {
            // Without a line, requests of this path are not logged.
            if let Some(line) = self.lines.as_mut().and_then(|lines| lines.current()) {
                line.error = Some(error);
            }
        } else {
            self.begin_refused_line(error);
        }
        // Cannot fail: the head announces exactly this body.
        let _ = self.encode_full(refusal);
    }

    /// Sends FIN, and receives until the peer's FIN or a limit. Closing a socket with unread bytes
    /// resets the connection, and the peer may lose the response.
    async fn linger(&mut self) {
        let transport = &mut self.transport;
        transport.shutdown_write();
        let end_ms = peer_after_ms(ceil_ms(Limits::LINGER_TIME));
        let pause_ms = ceil_ms(Limits::LINGER_PAUSE);
        let mut left = Limits::LINGER_BYTES_MAX;
        while left > 0 {
            transport.set_recv_deadline(end_ms.min(peer_after_ms(pause_ms)));
            let unread = transport.recv_buf.unread();
            if let Some(lines) = &mut self.lines {
                lines.receive(unread);
            }
            let unread = unread.len();
            transport.recv_buf.consume(unread);
            match poll_fn(|context| transport.poll_recv(context)).await {
                Ok(RecvOutcome::Bytes(received)) => left = left.saturating_sub(received),
                Ok(RecvOutcome::Fin | RecvOutcome::Overdue) | Err(_) => break,
            }
        }
    }
}

impl Drop for Connection {
    /// Writes the lines of the access log that are left. Resets the connection if a response was
    /// cut short and would look whole otherwise. Counts the connection by its reason.
    fn drop(&mut self) {
        if self.http.must_reset(!self.transport.has_unsent()) {
            self.transport.stream().reset_on_close();
        }
        let reason = self.reason.unwrap_or_else(|| {
            // The panic is the service's: no other foreign code runs in a connection's coroutine.
            if std::thread::panicking() {
                CloseReason::ServiceFailed
            } else {
                CloseReason::Drained
            }
        });
        self.write_cut_lines(reason);
        self.shared.connection_closed(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_end() {
        let fault = CloseReason::Fault(Fault::BadField);
        for (reason, unanswered, begun) in [
            (CloseReason::PeerClosed, "flush", "flush"),
            (CloseReason::Answered, "deliver", "deliver"),
            (CloseReason::Idle, "flush", "flush"),
            (CloseReason::Reset, "silent", "silent"),
            (CloseReason::HalfClosed, "flush", "silent"),
            (CloseReason::WriteTimeout, "silent", "silent"),
            (CloseReason::Fault(Fault::Truncated), "flush", "flush"),
            (fault, "400", "deliver"),
            (CloseReason::ServicePanicked, "500", "deliver"),
            (CloseReason::ServiceFailed, "500", "deliver"),
            (CloseReason::Drained, "deliver", "deliver"),
            (CloseReason::Shed, "503", "deliver"),
        ] {
            for (can_respond, expected) in [(true, unanswered), (false, begun)] {
                let found = match End::of(reason, can_respond) {
                    End::Silent => "silent".to_owned(),
                    End::Flush => "flush".to_owned(),
                    End::Deliver => "deliver".to_owned(),
                    End::Refuse(refusal) => refusal.status().as_u16().to_string(),
                };
                assert_eq!(found, expected, "{reason:?}, can answer: {can_respond}");
            }
        }
    }
}
