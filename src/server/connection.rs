//! One connection, from accept to its [`CloseReason`]: recv, decode, call, encode, send.
//!
//! What waits for the next request is small, for there may be very many of them. A request whose
//! service does not answer at once, or whose body or answer flows, goes on as an [`exchange`] in
//! a block of its own.

use std::cell::RefMut;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::access_log::Line;
use super::close_reason::CloseReason;
use super::date::Date;
use super::exchange;
use super::link::Link;
use super::shared::{Manner, Place};
use crate::buf::{Part, PoolBox};
use crate::http::Fault;
use crate::http::h1::{self, Answer, BodyLength, Event, Framing, Head};
use crate::net::Stream;
use crate::rt::after_ms;
use crate::service::{Inlet, Request, Response, Service};
use crate::sys::mutants::mutate;

/// Answers are sent when so many bytes have gathered, even while more requests are there.
const GATHER_BYTES_MAX: usize = 64 << 10;
/// A body part up to this size is copied behind its head, in bytes; a larger one rides along.
const COPY_BYTES_MAX: usize = 2048;

/// A connection's state between requests.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) http: h1::Connection,
    pub(super) link: Link,
    /// What all connections of the worker share, and this one's place among them.
    pub(super) shared: Place,
    /// The access log's line of the request at hand; none if there is no log.
    pub(super) line: Option<Box<Line>>,
    /// What is awaited (a head, or the rest of a body that nobody read) must have come until
    /// then, in ms; 0: nothing has begun to come.
    arrival_deadline_ms: u64,
}

/// What is to be done before the next request can be looked at.
enum Next<F> {
    /// Receive more, and send what is owed meanwhile.
    Receive,
    /// Send what is owed first: it is much.
    Send,
    /// Bring an exchange to its end.
    Exchange(Pending<F>),
}

/// An exchange that did not end at once.
pub(super) struct Pending<F> {
    /// The service's call, until it has answered.
    pub(super) call: Option<Pin<PoolBox<F>>>,
    /// What it returned, if it has. Boxed, for every idle connection has room for this.
    pub(super) answer: Option<Box<Response>>,
    /// The way of the request's body to its reader.
    pub(super) incoming: Option<Inlet>,
}

/// Serves a connection until its end.
pub(super) fn serve<S: Service>(
    stream: Stream,
    service: Rc<S>,
    place: Place,
) -> impl Future<Output = ()> {
    let mut connection = Connection::new(stream, place);
    // Not an async function: that would keep its arguments twice.
    async move {
        let ended = connection.exchanges(&*service).await;
        let (Ok(reason) | Err(reason)) = ended;
        connection.shared.closed(reason);
        connection.close(reason).await;
    }
}

/// Answers a connection that is one too many, and closes it.
pub(super) async fn shed(stream: Stream, place: Place) {
    let mut connection = Connection::new(stream, place);
    connection.shared.closed(CloseReason::Shed);
    connection.close(CloseReason::Shed).await;
}

impl Connection {
    fn new(stream: Stream, shared: Place) -> Self {
        let arrival_deadline_ms = after_ms(shared.limits.head_timeout_ms);
        let mut link = Link::new(stream);
        link.set_recv_deadline(arrival_deadline_ms);
        Self {
            http: h1::Connection::server(),
            link,
            shared,
            line: None,
            arrival_deadline_ms,
        }
    }

    /// One exchange after the other. `Ok`: ended as agreed; `Err`: cut short.
    async fn exchanges<S: Service>(&mut self, service: &S) -> Result<CloseReason, CloseReason> {
        let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        loop {
            let next = self.advance(service, &waker)?;
            match next {
                Next::Exchange(pending) => self.exchange(pending).await?,
                Next::Send => self.flush().await?,
                Next::Receive if self.http.must_close() => return Ok(CloseReason::Answered),
                Next::Receive if self.link.eof => {
                    let unread = self.link.inbox.unread();
                    self.http.receive_eof(unread).map_err(CloseReason::Fault)?;
                    return Ok(CloseReason::PeerClosed);
                }
                Next::Receive => self.receive().await?,
            }
        }
    }

    /// The hot path: decodes what is there, calls the service, encodes its answers.
    fn advance<'a, S: Service>(
        &mut self,
        service: &'a S,
        waker: &Waker,
    ) -> Result<Next<impl Future<Output = Response> + use<'a, S>>, CloseReason> {
        loop {
            let unread = self.link.inbox.unread();
            match self.http.next_event(unread, &self.shared.h1_limits) {
                Ok((used, Event::NeedData | Event::Paused)) => {
                    self.link.inbox.consume(used);
                    return Ok(Next::Receive);
                }
                Ok((used, Event::Request(head))) => {
                    let (request, incoming) = self.request(used, head);
                    if let Some(pending) = self.call(|| service.call(request), incoming, waker)? {
                        return Ok(Next::Exchange(pending));
                    }
                    if self.link.outbox.len() >= GATHER_BYTES_MAX {
                        return Ok(Next::Send);
                    }
                }
                // What is left of a body that nobody read.
                Ok((used, Event::Data(_))) => self.link.inbox.consume(used),
                Ok((used, Event::End)) => {
                    self.link.inbox.consume(used);
                    self.arrival_deadline_ms = 0;
                }
                Err(fault) => return Err(CloseReason::Fault(fault)),
            }
        }
    }

    /// Takes a request out of the inbox.
    #[inline]
    fn request(&mut self, used: usize, head: Head) -> (Request, Option<Inlet>) {
        self.shared.metrics.requests.add(1);
        self.link.clear_recv_deadline();
        self.arrival_deadline_ms = 0;
        let bytes = self.link.inbox.take(used);
        if let Some((line, mut date)) = self.next_line() {
            line.begin(date.now(), &head, &bytes);
        }
        let (incoming, body) = match head.framing {
            Framing::None => None,
            Framing::Length(length) => Some(Inlet::new(Some(length))),
            Framing::Chunked => Some(Inlet::new(None)),
        }
        .unzip();
        let body = body.unwrap_or_default();
        (Request::new(head, bytes, body), incoming)
    }

    /// Calls the service. Mostly it answers at once from memory: then the answer is encoded and
    /// nothing is left. Otherwise what is left goes on as an exchange.
    #[inline(always)]
    fn call<F: Future<Output = Response>>(
        &mut self,
        start: impl FnOnce() -> F,
        incoming: Option<Inlet>,
        waker: &Waker,
    ) -> Result<Option<Pending<F>>, CloseReason> {
        let mut call = None;
        let polled = self.run_service(|| {
            call = Some(PoolBox::pin(&self.shared.pool, start()));
            poll_call(&mut call, &mut Context::from_waker(waker))
        });
        let answer = match polled? {
            Poll::Ready(mut answer) if incoming.is_none() && !answer.has_flowing_body() => {
                self.encode_head(&answer);
                if let Some(part) = answer.body().take_full() {
                    self.encode_part(part)?;
                }
                self.encode_end()?;
                return Ok(None);
            }
            Poll::Ready(answer) => Some(Box::new(answer)),
            Poll::Pending => None,
        };
        Ok(Some(Pending {
            call,
            answer,
            incoming,
        }))
    }

    /// What is left of an exchange, in a block of its own for as long as it lasts.
    fn exchange<'a, F: Future<Output = Response> + 'a>(
        &'a mut self,
        pending: Pending<F>,
    ) -> Pin<PoolBox<impl Future<Output = Result<(), CloseReason>> + 'a>> {
        let pool = self.shared.pool.clone();
        PoolBox::pin(&pool, exchange::run(self, pending))
    }

    /// Runs what is the service's own; a panic in it ends this connection and nothing else. So
    /// does a status of 1xx: an interim answer is none (RFC 9110 §15.2).
    #[inline(always)]
    pub(super) fn run_service(
        &self,
        service: impl FnOnce() -> Poll<Response>,
    ) -> Result<Poll<Response>, CloseReason> {
        let polled = catch_unwind(AssertUnwindSafe(service)).map_err(|_| {
            self.shared.metrics.service_panics.add(1);
            CloseReason::ServiceFailed
        })?;
        match &polled {
            Poll::Ready(answer) if answer.status().is_informational() => {
                Err(CloseReason::ServiceFailed)
            }
            _ => Ok(polled),
        }
    }

    /// Encodes `100 Continue` if the client waits for it.
    pub(super) fn encode_continue(&mut self) {
        if self.http.wants_continue() {
            let interim = self.http.send_continue();
            self.link.outbox.write(&self.shared.pool, interim);
            self.shared.metrics.responses_1xx.add(1);
        }
    }

    /// Encodes the head of an answer. During a drain it is the last one of its connection, whenever
    /// its request came.
    #[inline]
    pub(super) fn encode_head(&mut self, response: &Response) {
        if self.shared.manner.get() != Manner::Serving && self.link.inbox.is_empty() {
            // Whatever else has arrived is answered, too: the last answer is the one that says so.
            mutate!(SilentDrain, (), self.http.close_after());
        }
        let length = response
            .body_length()
            .map_or(BodyLength::Unknown, BodyLength::Known);
        let answer = Answer {
            status: response.status(),
            fields: response.headers(),
            length,
        };
        let shared = &self.shared;
        let mut date = shared.date.borrow_mut();
        let http = &mut self.http;
        self.link
            .outbox
            .write_with(&shared.pool, answer.head_bytes_max(), |out| {
                http.send_head(&answer, date.now(), out)
            });
        let status = response.status();
        let class = match status.as_u16() / 100 {
            1 => &shared.metrics.responses_1xx,
            2 => &shared.metrics.responses_2xx,
            3 => &shared.metrics.responses_3xx,
            4 => &shared.metrics.responses_4xx,
            _ => &shared.metrics.responses_5xx,
        };
        class.add(1);
        if let Some(line) = &mut self.line {
            line.status = status.as_u16();
        }
    }

    /// Encodes a part of an answer's body. A body longer than announced is the service's fault.
    #[inline]
    pub(super) fn encode_part(&mut self, part: Part) -> Result<(), CloseReason> {
        if part.is_empty() || !self.http.body_allowed() {
            return Ok(());
        }
        let prefix = self
            .http
            .send_data(part.len())
            .map_err(|_| CloseReason::ServiceFailed)?;
        if let Some(line) = &mut self.line {
            line.body_bytes += part.len() as u64;
        }
        let (outbox, pool) = (&mut self.link.outbox, &self.shared.pool);
        outbox.write(pool, prefix.as_bytes());
        if part.len() <= COPY_BYTES_MAX {
            outbox.write(pool, &part);
        } else {
            outbox.push(part);
        }
        outbox.write(pool, self.http.data_suffix());
        Ok(())
    }

    /// Encodes the end of an answer.
    #[inline]
    pub(super) fn encode_end(&mut self) -> Result<(), CloseReason> {
        let end = self
            .http
            .send_end()
            .map_err(|_| CloseReason::ServiceFailed)?;
        self.link.outbox.write(&self.shared.pool, end);
        self.write_line();
        Ok(())
    }

    /// Sends everything that is owed.
    fn flush(&mut self) -> impl Future<Output = Result<(), CloseReason>> {
        poll_fn(|context| {
            let flushed = self.poll_flush(context);
            if flushed.is_pending() {
                self.link.wait(context);
            }
            flushed
        })
    }

    /// Ready when nothing is owed and nothing is on its way.
    pub(super) fn poll_flush(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        let Self { link, shared, .. } = self;
        link.poll_flush(context, &shared.limits)
    }

    /// Receives a piece of the next request, or of a body that nobody read.
    fn receive(&mut self) -> impl Future<Output = Result<(), CloseReason>> {
        let limits = &self.shared.limits;
        let has_begun = !self.link.inbox.is_empty() || !self.http.request_complete();
        let known_ms = mutate!(SlowlorisDeadline, 0, self.arrival_deadline_ms);
        let deadline_ms = match known_ms {
            0 if !has_begun => after_ms(limits.idle_timeout_ms),
            0 => {
                let is_head = self.http.request_complete();
                let timeout_ms = if is_head {
                    limits.head_timeout_ms
                } else {
                    limits.body_timeout_ms
                };
                self.arrival_deadline_ms = after_ms(timeout_ms);
                self.arrival_deadline_ms
            }
            known_ms => known_ms,
        };
        self.link.set_recv_deadline(deadline_ms);
        poll_fn(|context| self.poll_receive(context))
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        self.link.send_on(context, &self.shared.limits)?;
        if let Poll::Ready(filled) = self.link.poll_fill(context) {
            return Poll::Ready(filled.map(|_| ()));
        }
        let between_requests = self.http.is_idle() && self.link.inbox.is_empty();
        if between_requests && self.shared.manner.get() == Manner::CloseIdle {
            return Poll::Ready(Err(CloseReason::Drained));
        }
        if self.link.is_overdue() && self.link.owes() {
            // Who still takes an answer is not idle; its own deadline is the answer's.
            let later_ms = after_ms(self.shared.limits.idle_timeout_ms);
            self.link.set_recv_deadline(later_ms);
        }
        if !self.link.is_overdue() {
            self.link.wait(context);
            return Poll::Pending;
        }
        Poll::Ready(Err(match self.http.request_complete() {
            true if between_requests => CloseReason::Idle,
            true => CloseReason::Fault(Fault::HeadTimeout),
            false => CloseReason::Fault(Fault::BodyTimeout),
        }))
    }

    /// The end: tells the peer what it did wrong or what went wrong here, if it can still be
    /// told, and sees to it that the telling arrives. In a block of its own: the room for it
    /// would be in every idle connection.
    fn close(&mut self, reason: CloseReason) -> Pin<PoolBox<impl Future<Output = ()>>> {
        let pool = self.shared.pool.clone();
        PoolBox::pin(&pool, self.end(reason))
    }

    async fn end(&mut self, reason: CloseReason) {
        // Bytes that reach a closed socket reset the connection, and what we have said last may
        // be lost with that: who may still send is waited for (RFC 9112 §9.6).
        let may_send = !self.link.eof && (self.http.peer_may_send() || !self.link.inbox.is_empty());
        let refusal = reason.refusal();
        let says_last =
            refusal.is_some() || matches!(reason, CloseReason::Answered | CloseReason::Drained);
        if let Some(mut refusal) = refusal
            && self.http.can_answer()
        {
            self.http.refuse();
            self.http.close_after();
            if let Some((line, mut date)) = self.next_line()
                && !line.is_begun()
            {
                line.begin_without_request(date.now());
            }
            self.encode_head(&refusal);
            if let Some(part) = refusal.body().take_full() {
                // The head has just announced this very body.
                let _ = self.encode_part(part);
            }
            let _ = self.encode_end();
        }
        self.link.clear_recv_deadline();
        let hears = !matches!(reason, CloseReason::Reset | CloseReason::WriteTimeout);
        let told = hears && self.flush().await.is_ok();
        let may_send = may_send || says_last && told && self.link.more_has_come().await;
        if told && says_last && !self.http.must_reset(true) && mutate!(NoLinger, false, may_send) {
            self.link.linger().await;
        }
    }

    /// The access log's line to be begun, and the time of its beginning; none if there is no log.
    fn next_line(&mut self) -> Option<(&mut Line, RefMut<'_, Date>)> {
        self.shared.log.as_ref()?;
        let stream = self.link.stream();
        let line = self.line.get_or_insert_with(|| Line::new(stream));
        Some((line, self.shared.date.borrow_mut()))
    }

    /// Hands the line that was begun to the access log.
    fn write_line(&mut self) {
        if let Some(line) = &mut self.line
            && line.is_begun()
        {
            self.shared.write_line(line);
        }
    }
}

impl Drop for Connection {
    /// A connection that is dropped in the middle of a request is logged, too; and an answer that
    /// is cut short must not look whole.
    fn drop(&mut self) {
        self.write_line();
        if self.http.must_reset(!self.link.owes()) {
            self.link.stream().reset_on_close();
        }
    }
}

/// Polls a call of the service, which is dropped once it has answered.
#[inline(always)]
pub(super) fn poll_call<F: Future<Output = Response>>(
    call: &mut Option<Pin<PoolBox<F>>>,
    context: &mut Context<'_>,
) -> Poll<Response> {
    let running = call.as_mut().expect("a call is polled until it answers");
    let polled = running.as_mut().poll(context);
    if polled.is_ready() {
        *call = None;
    }
    polled
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
