//! One connection, from accept to its [`CloseReason`]: recv, decode, call, encode, send.
//!
//! What waits for the next request is small, for there may be very many of them. A request whose
//! service does not answer at once, or whose body or answer flows, goes on as an [`exchange`] in
//! a block of its own; how an answer is encoded stands in `encode.rs`, how a connection ends in
//! `end.rs`.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use super::access_log::Line;
use super::carrier::Carrier;
use super::close_reason::CloseReason;
use super::exchange::{Exchange, Pending};
use super::shared::{Manner, Shared};
use crate::buf::PoolBox;
use crate::http::Fault;
use crate::http::h1::{self, Event, Framing};
use crate::net::{Filled, Stream, Transport};
use crate::rt::{discard, peer_after_ms, yield_now};
use crate::service::{Inlet, Request, Response, Service};
use crate::sys::mutants::mutate;

/// Answers are sent when so many bytes have gathered, those of files included, even while more
/// requests are there.
const GATHER_BYTES_MAX: usize = 64 << 10;

/// A connection's state between requests.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) http: h1::Connection,
    pub(super) transport: Transport,
    /// What all connections of the worker share.
    pub(super) shared: Rc<Shared>,
    /// The access log's line of the request at hand; none if there is no log.
    pub(super) line: Option<Box<Line>>,
    /// What is awaited (a head, or the rest of a body that nobody read) must have come until
    /// then, in ms; 0: nothing has begun to come.
    arrival_deadline_ms: u64,
    /// Why the connection ends. Without a reason its coroutine was dropped: by the end of the
    /// server, or by a panic in a destructor of the service's.
    pub(super) reason: Option<CloseReason>,
}

/// What is to be done before the next request can be looked at.
enum Next<F> {
    /// Send what is owed, and receive more meanwhile.
    SendAndReceive,
    /// Send what is owed first: it is much.
    Send,
    /// Bring an exchange to its end.
    Exchange(Pending<F>, Option<Inlet>),
}

/// Serves a connection until its end.
pub(super) fn serve<S: Service>(
    stream: Stream,
    service: Rc<S>,
    shared: Rc<Shared>,
) -> impl Future<Output = ()> {
    let mut connection = Connection::new(stream, shared);
    // Not an async function: that would keep its arguments twice.
    async move {
        let ended = connection.exchanges(&*service).await;
        let (Ok(reason) | Err(reason)) = ended;
        connection.close(reason).await;
    }
}

/// Answers a connection that is one too many, and closes it.
pub(super) fn shed(stream: Stream, shared: Rc<Shared>) -> impl Future<Output = ()> {
    let mut connection = Connection::new(stream, shared);
    async move { connection.close(CloseReason::Shed).await }
}

impl Connection {
    /// From now on the connection is counted as open, until it is dropped.
    fn new(stream: Stream, shared: Rc<Shared>) -> Self {
        shared.connection_opened();
        let arrival_deadline_ms = peer_after_ms(shared.limits.head_timeout_ms);
        let mut transport = Transport::with_deadlines(stream, shared.send_limits.clone());
        transport.set_recv_deadline(arrival_deadline_ms);
        Self {
            http: h1::Connection::server(),
            transport,
            shared,
            line: None,
            arrival_deadline_ms,
            reason: None,
        }
    }

    /// One exchange after the other. `Ok`: ended as agreed; `Err`: cut short.
    async fn exchanges<S: Service>(&mut self, service: &S) -> Result<CloseReason, CloseReason> {
        let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        loop {
            let next = self.advance(service, &waker)?;
            match next {
                Next::Exchange(pending, incoming) => self.exchange(pending, incoming).await?,
                Next::Send => {
                    self.flush().await?;
                    // What the socket takes at once would keep others waiting.
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

    /// The hot path: decodes what is there, calls the service, encodes its answers. A panic of the
    /// service's ends this connection and nothing else.
    fn advance<'a, S: Service>(
        &mut self,
        service: &'a S,
        waker: &Waker,
    ) -> Result<Next<impl Future<Output = Response> + use<'a, S>>, CloseReason> {
        let mut in_service = false;
        // Around all requests that are there: around each call, what it answers would be moved.
        catch_unwind(AssertUnwindSafe(|| {
            self.advance_unguarded(service, waker, &mut in_service)
        }))
        .unwrap_or_else(|panic| match in_service {
            true => {
                discard(panic);
                Err(CloseReason::ServicePanicked)
            }
            false => resume_unwind(panic),
        })
    }

    /// As [`Connection::advance`]; while the service's own code runs, it says so.
    #[inline(always)]
    fn advance_unguarded<'a, S: Service>(
        &mut self,
        service: &'a S,
        waker: &Waker,
        in_service: &mut bool,
    ) -> Result<Next<impl Future<Output = Response> + use<'a, S>>, CloseReason> {
        loop {
            mutate!(
                AnswerAfterClose,
                if self.http.must_close() && !self.transport.recv_buf.is_empty() {
                    self.http = h1::Connection::server();
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
                Ok((used, Event::NeedData | Event::Paused)) => {
                    self.transport.recv_buf.consume(used);
                    return Ok(Next::SendAndReceive);
                }
                // What is left of a body that nobody read.
                Ok((used, Event::Data(_) | Event::Trailer(_))) => {
                    self.transport.recv_buf.consume(used);
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
            // Looked at where it lies: moving it costs as much as encoding it.
            let Poll::Ready(answer) = &mut polled else {
                *in_service = false;
                return Ok(Next::Exchange(Pending::Call(call), incoming));
            };
            drop(call);
            *in_service = false;
            let is_interim = answer.status().is_informational();
            if is_interim || incoming.is_some() || answer.has_flowing_body() {
                let Poll::Ready(response) = polled else {
                    unreachable!("looked at above");
                };
                let pending = Pending::Response(Box::new(response));
                return Ok(Next::Exchange(pending, incoming));
            }
            self.encode_full(answer)?;
            if self.transport.send_queue.len() >= GATHER_BYTES_MAX {
                return Ok(Next::Send);
            }
        }
    }

    /// Takes a request, whose head was read, out of the received bytes.
    #[inline(always)]
    fn take_request(&mut self, used: usize, request: &mut Request) {
        self.shared.metrics.requests.add(1);
        self.transport.clear_recv_deadline();
        self.arrival_deadline_ms = 0;
        self.transport.recv_buf.take(used, request.bytes_mut());
        if let Some((line, mut date)) = self.next_line() {
            let (head, bytes) = request.head();
            line.begin(date.now(), head, bytes);
        }
    }

    /// What is left of an exchange, in a block of its own for as long as it lasts.
    fn exchange<'a, F: Future<Output = Response> + 'a>(
        &'a mut self,
        pending: Pending<F>,
        incoming: Option<Inlet>,
    ) -> Pin<PoolBox<impl Future<Output = Result<(), CloseReason>> + 'a>> {
        let pool = self.shared.pool.clone();
        PoolBox::pin(&pool, || async move {
            let mut exchange = Exchange::new(pending, incoming);
            let ended = poll_fn(|context| exchange.poll(self, context)).await;
            self.transport.clear_recv_deadline();
            ended
        })
    }

    /// Sends everything that is owed.
    fn flush(&mut self) -> impl Future<Output = Result<(), CloseReason>> {
        poll_fn(|context| Carrier::poll_flush(self, context))
    }

    /// Receives a piece of the next request, or of a body that nobody read; what is owed is sent
    /// meanwhile, and not waited for.
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

    /// How long what comes next may take: a body, the rest of a head, or another request.
    fn arrival_timeout_ms(&self) -> u64 {
        let limits = &self.shared.limits;
        match (self.http.request_complete(), self.has_unread()) {
            (false, _) => limits.body_timeout_ms,
            (true, true) => limits.head_timeout_ms,
            (true, false) => limits.idle_timeout_ms,
        }
    }

    fn poll_send_and_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        if self.is_to_close() {
            self.transport.set_recv_deadline(0);
        }
        match ready!(self.transport.poll_fill_and_send(context))? {
            Filled::Bytes(_) | Filled::Fin => Poll::Ready(Ok(())),
            Filled::Overdue => self.poll_overdue(context),
        }
    }

    /// The peer has not sent in time what was awaited.
    #[cold]
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        if self.is_to_close() {
            return Poll::Ready(Err(CloseReason::Drained));
        }
        if self.transport.has_unsent() {
            // Who still takes an answer is not idle; its own deadline is the answer's.
            let later_ms = peer_after_ms(self.arrival_timeout_ms());
            self.transport.set_recv_deadline(later_ms);
            return self.poll_send_and_receive(context);
        }
        Poll::Ready(Err(match self.http.request_complete() {
            true if self.is_idle() => CloseReason::Idle,
            true => CloseReason::Fault(Fault::HeadTimeout),
            false => CloseReason::Fault(Fault::BodyTimeout),
        }))
    }

    /// Whether a drain closes this connection, which is idle.
    fn is_to_close(&self) -> bool {
        self.shared.manner.get() == Manner::CloseIdle && self.is_idle()
    }

    /// Whether nothing has come of the next request.
    fn is_idle(&self) -> bool {
        self.http.is_idle() && !self.has_unread()
    }

    /// Whether anything is unread but empty lines.
    fn has_unread(&self) -> bool {
        !h1::is_blank(self.transport.recv_buf.unread())
    }

    /// Whether the peer is known to have sent something that was not looked at.
    pub(super) fn more_has_come(&self) -> bool {
        self.has_unread() || self.transport.has_more()
    }
}

/// Gives the request its body, which is to come; none if it has no body.
#[inline(always)]
fn begin_body(framing: Framing, request: &mut Request) -> Option<Inlet> {
    let length = match framing {
        Framing::None => return None,
        Framing::Length(length) => Some(length),
        Framing::Chunked => None,
    };
    let (inlet, body) = Inlet::new(length);
    *request.body() = body;
    Some(inlet)
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
