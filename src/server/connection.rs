//! One connection, from accept to its [`CloseReason`]: receive, decode, call, encode, send.
//!
//! A connection that waits for its next request is small, because there may be very many. If the
//! service does not respond at once, or if a body arrives or leaves part by part, the request
//! continues as an [`Exchange`] in a block of its own. `encode.rs` encodes the responses, and
//! `end.rs` ends the connection.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use super::access_log::Lines;
use super::carrier::Carrier;
use super::close_reason::CloseReason;
use super::exchange::{Exchange, Pending};
use super::shared::{DrainState, Shared};
use crate::buf::PoolBox;
use crate::engine::Interest;
use crate::http::Fault;
use crate::http::h1::{self, Event, Framing};
use crate::net::{RecvOutcome, Stream, Transport};
use crate::rt::{drop_panic_payload, peer_after_ms, yield_now};
use crate::service::{Request, RequestBodySender, Response, Service};
use crate::sys::mutants::mutate;

/// Once responses of this many bytes are queued, spans of files included, they are sent, even if
/// more requests have been received.
const GATHER_BYTES_MAX: usize = 64 << 10;

/// A connection, with all the state that it keeps between requests.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) http: h1::Codec,
    pub(super) transport: Transport,
    /// The state that all connections of the worker share.
    pub(super) shared: Rc<Shared>,
    /// The access log's lines. `None` before the first request, and without a log.
    pub(super) lines: Option<Box<Lines>>,
    /// When a head, or the rest of a body that the service did not read, must have arrived, in ms
    /// on the clock of `peer_now_ms`. 0: not set, because no byte of it has arrived.
    arrival_deadline_ms: u64,
    /// How many more bytes of a body that the service did not read may be received and dropped.
    pub(super) discard_left: u32,
    /// Why the connection ends. `None` until then. It stays `None` if the coroutine is dropped
    /// early: by the end of the server, or by a panic in one of the service's destructors.
    pub(super) reason: Option<CloseReason>,
}

/// What must happen before the next request can be decoded.
enum Next<F> {
    /// Receive more, and send the queued responses meanwhile.
    SendAndReceive,
    /// Send the queued responses first, because they are large.
    Send,
    /// Complete an exchange.
    Exchange(Pending<F>, Option<RequestBodySender>),
}

/// Serves a connection until it is closed.
pub(super) fn serve<S: Service>(
    stream: Stream,
    service: Rc<S>,
    shared: Rc<Shared>,
) -> impl Future<Output = ()> {
    let mut connection = Connection::new(stream, shared);
    // Not an `async fn`: its future would hold the arguments twice.
    async move {
        let ended = connection.exchanges(&*service).await;
        let (Ok(reason) | Err(reason)) = ended;
        connection.close(reason).await;
    }
}

/// Sends a 503 to a connection beyond the limit, and closes it.
pub(super) fn refuse(stream: Stream, shared: Rc<Shared>) -> impl Future<Output = ()> {
    let mut connection = Connection::new(stream, shared);
    async move { connection.close(CloseReason::Shed).await }
}

impl Connection {
    /// Counts the connection as open until it is dropped, and sets the deadline of its first head.
    fn new(stream: Stream, shared: Rc<Shared>) -> Self {
        shared.connection_opened();
        let arrival_deadline_ms = peer_after_ms(shared.limits.head_timeout_ms);
        let mut transport = Transport::with_deadlines(stream, shared.send_limits.clone());
        transport.set_recv_deadline(arrival_deadline_ms);
        Self {
            http: h1::Codec::server(),
            transport,
            shared,
            lines: None,
            arrival_deadline_ms,
            discard_left: 0,
            reason: None,
        }
    }

    /// Serves one request after the other. `Ok`: the connection ends in order. `Err`: it is cut
    /// short.
    async fn exchanges<S: Service>(&mut self, service: &S) -> Result<CloseReason, CloseReason> {
        let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        loop {
            let next = self.advance(service, &waker)?;
            match next {
                Next::Exchange(pending, incoming) => self.exchange(pending, incoming).await?,
                Next::Send => {
                    self.flush().await?;
                    // A flush that completes at once does not yield, so let other coroutines run.
                    if !self.transport.recv_buf.is_empty() {
                        yield_now().await;
                    }
                }
                Next::SendAndReceive if self.http.must_close() => return Ok(CloseReason::Answered),
                Next::SendAndReceive if self.transport.has_fin() => {
                    let unread = self.transport.recv_buf.unread();
                    self.http.receive_eof(unread).map_err(CloseReason::Fault)?;
                    return Ok(CloseReason::PeerClosed);
                }
                Next::SendAndReceive => self.send_and_receive().await?,
            }
        }
    }

    /// The hot path: decodes the received requests, calls the service, encodes its responses. A
    /// panic of the service ends only this connection.
    fn advance<'a, S: Service>(
        &mut self,
        service: &'a S,
        waker: &Waker,
    ) -> Result<Next<impl Future<Output = Response> + use<'a, S>>, CloseReason> {
        let mut in_service = false;
        // One `catch_unwind` for all received requests: one for each call would move its response.
        catch_unwind(AssertUnwindSafe(|| {
            self.advance_unguarded(service, waker, &mut in_service)
        }))
        .unwrap_or_else(|panic| match in_service {
            true => {
                drop_panic_payload(panic);
                Err(CloseReason::ServicePanicked)
            }
            false => resume_unwind(panic),
        })
    }

    /// As [`Connection::advance`], without catching panics. `in_service` is true while the
    /// service's code runs.
    #[inline(always)]
    fn advance_unguarded<'a, S: Service>(
        &mut self,
        service: &'a S,
        waker: &Waker,
        in_service: &mut bool,
    ) -> Result<Next<impl Future<Output = Response> + use<'a, S>>, CloseReason> {
        loop {
            mutate!(
                RespondAfterClose,
                if self.http.must_close() && !self.transport.recv_buf.is_empty() {
                    self.http = h1::Codec::server();
                }
            );
            if self.transport.recv_buf.is_empty() && self.http.request_complete() {
                return Ok(Next::SendAndReceive);
            }
            let mut request = Request::unread(&self.shared.pool, self.transport.stream().remote());
            let unread = self.transport.recv_buf.unread();
            let limits = &self.shared.limits.h1;
            let framing = match self.http.next_event(unread, limits, request.head_mut()) {
                Ok((used, Event::Request(framing))) => {
                    self.take_request(used, &mut request);
                    framing
                }
                Ok((0, Event::NeedData | Event::Paused)) => return Ok(Next::SendAndReceive),
                // The rest of a body that the service did not read.
                Ok((
                    used,
                    Event::Data(_) | Event::Trailer(_) | Event::NeedData | Event::Paused,
                )) => {
                    self.discard(used);
                    continue;
                }
                Ok((used, Event::End)) => {
                    self.transport.recv_buf.consume(used);
                    self.arrival_deadline_ms = 0;
                    continue;
                }
                Err(fault) => return Err(CloseReason::Fault(fault)),
            };
            let incoming = begin_body(framing, &mut request);
            *in_service = true;
            let mut call = PoolBox::pin(&self.shared.pool, || service.call(request));
            let mut polled = call.as_mut().poll(&mut Context::from_waker(waker));
            // Used in place: moving the response costs as much as encoding it.
            let Poll::Ready(response) = &mut polled else {
                *in_service = false;
                return Ok(Next::Exchange(Pending::Call(call), incoming));
            };
            drop(call);
            *in_service = false;
            // Interim responses, and statuses that HTTP does not have.
            let is_special = !(200..600).contains(&response.status().as_u16());
            if is_special || incoming.is_some() || response.has_streamed_body() {
                let Poll::Ready(response) = polled else {
                    unreachable!("matched above");
                };
                let pending = Pending::Response(Box::new(response));
                return Ok(Next::Exchange(pending, incoming));
            }
            self.encode_full(response)?;
            self.transport.stream().end_exchange();
            let is_log_full = self.lines.as_ref().is_some_and(|lines| lines.is_full());
            if self.transport.send_queue.len() >= GATHER_BYTES_MAX || is_log_full {
                return Ok(Next::Send);
            }
        }
    }

    /// Drops bytes of a body that the service did not read. If there are too many of them, the
    /// connection ends after the response.
    #[cold]
    fn discard(&mut self, bytes: usize) {
        self.transport.recv_buf.consume(bytes);
        let left = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.discard_left.checked_sub(bytes));
        match left {
            Some(left) => self.discard_left = left,
            None => self.http.fail_request(self.transport.recv_buf.unread()),
        }
    }

    /// Begins a request whose head was decoded: moves its bytes from the receive buffer into
    /// `request`, and begins its line of the access log.
    #[inline(always)]
    fn take_request(&mut self, used: usize, request: &mut Request) {
        self.shared.metrics.requests.add(1);
        self.transport.clear_recv_deadline();
        self.arrival_deadline_ms = 0;
        self.transport.recv_buf.take(used, request.bytes_mut());
        if self.shared.logs(request) {
            self.begin_line(request.head());
        }
    }

    /// Completes an exchange. The future is in a block of its own, which is taken only while the
    /// exchange lasts.
    fn exchange<'a, F: Future<Output = Response> + 'a>(
        &'a mut self,
        pending: Pending<F>,
        incoming: Option<RequestBodySender>,
    ) -> Pin<PoolBox<impl Future<Output = Result<(), CloseReason>> + 'a>> {
        let pool = self.shared.pool.clone();
        PoolBox::pin(&pool, || async move {
            let mut exchange = Exchange::new(pending, incoming);
            let ended = poll_fn(|context| exchange.poll(self, context)).await;
            self.transport.clear_recv_deadline();
            self.transport.stream().end_exchange();
            ended
        })
    }

    /// Sends all queued responses.
    fn flush(&mut self) -> impl Future<Output = Result<(), CloseReason>> {
        poll_fn(|context| Carrier::poll_flush(self, context))
    }

    /// Receives more of the next request, or of a body that the service did not read. Sends the
    /// queued responses meanwhile, and does not wait for the end of that.
    fn send_and_receive(&mut self) -> impl Future<Output = Result<(), CloseReason>> {
        let has_begun = self.has_unread() || !self.http.request_complete();
        let known_ms = mutate!(SlowlorisDeadline, 0, self.arrival_deadline_ms);
        let deadline_ms = match known_ms {
            0 => peer_after_ms(self.arrival_timeout_ms()),
            known_ms => known_ms,
        };
        if has_begun {
            self.arrival_deadline_ms = deadline_ms;
        }
        self.transport.set_recv_deadline(deadline_ms);
        poll_fn(|context| self.poll_send_and_receive(context))
    }

    /// The timeout, in ms, of the bytes that are awaited: of a body, the rest of a head, or another
    /// request.
    fn arrival_timeout_ms(&self) -> u64 {
        let limits = &self.shared.limits;
        match (self.http.request_complete(), self.has_unread()) {
            (false, _) => limits.body_timeout_ms,
            (true, true) => limits.head_timeout_ms,
            (true, false) => limits.idle_timeout_ms,
        }
    }

    #[inline(always)]
    fn poll_send_and_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        if self.closes_for_drain() {
            self.transport.set_recv_deadline(0);
        }
        loop {
            let interest = match &self.lines {
                // A line of the access log waits for the end of its send.
                Some(lines) if lines.any_complete() => Interest::End,
                _ => Interest::Failure,
            };
            let received = self.transport.poll_recv_and_send(interest, context);
            if self.lines.is_some() {
                self.write_sent_lines();
            }
            match ready!(received)? {
                RecvOutcome::Bytes(_) | RecvOutcome::Fin => return Poll::Ready(Ok(())),
                RecvOutcome::Overdue => self.pass_deadline()?,
            }
        }
    }

    /// The awaited bytes have not arrived before the deadline. Sets a later one, or fails.
    #[cold]
    fn pass_deadline(&mut self) -> Result<(), CloseReason> {
        if self.closes_for_drain() {
            return Err(CloseReason::Drained);
        }
        if self.transport.has_unsent() {
            // A client that is still taking responses is not idle. The send has its own deadline.
            let later_ms = peer_after_ms(self.arrival_timeout_ms());
            self.transport.set_recv_deadline(later_ms);
            return Ok(());
        }
        Err(match self.http.request_complete() {
            true if self.is_idle() => CloseReason::Idle,
            true => CloseReason::Fault(Fault::HeadTimeout),
            false => CloseReason::Fault(Fault::BodyTimeout),
        })
    }

    /// Whether the connection is idle and a drain closes idle connections.
    fn closes_for_drain(&self) -> bool {
        self.shared.drain_state.get() == DrainState::CloseIdle && self.is_idle()
    }

    /// Whether nothing of the next request has arrived, and no other is in progress.
    fn is_idle(&self) -> bool {
        self.http.is_idle() && !self.has_unread()
    }

    /// Whether bytes have been received and not decoded. Empty lines do not count.
    fn has_unread(&self) -> bool {
        !h1::is_blank(self.transport.recv_buf.unread())
    }

    /// Whether bytes are known to have arrived that were not decoded.
    pub(super) fn more_has_arrived(&self) -> bool {
        self.has_unread() || self.transport.has_more()
    }
}

/// Gives the request its body, which is still to be received. Returns the end that the connection
/// writes to, or `None` if the request has no body.
#[inline(always)]
fn begin_body(framing: Framing, request: &mut Request) -> Option<RequestBodySender> {
    let length = match framing {
        Framing::None => return None,
        Framing::Length(length) => Some(length),
        Framing::Chunked => None,
    };
    let (body_sender, body) = RequestBodySender::new(length);
    *request.body() = body;
    Some(body_sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Large;

    impl Service for Large {
        async fn call(&self, _: Request) -> Response {
            let large = [1_u8; 10_000];
            std::future::ready(()).await;
            Response::text(large.to_vec())
        }
    }

    fn size_of_future<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        let size = size_of_future(serve::<Large>);
        assert!(
            size <= 384,
            "the future of an idle connection has {size} bytes"
        );
    }
}
