//! One request and its response on a connection. Nothing runs in the background: the exchange makes
//! progress in both directions while its caller polls for the response's head, and then for its
//! body.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use ::http::{HeaderMap, HeaderName, HeaderValue, Response, Version};

use super::Shared;
use super::connection::Connection;
use super::error::{Error, Phase};
use super::pool::keep;
use super::request::{Origin, Outgoing};
use crate::buf::Part;
use crate::engine;
use crate::http::field::{Fields, split_line};
use crate::http::h1::{DATA_SUFFIX, ReceivedHead, ResponseEvent};
use crate::http::{Fault, head};
use crate::net::{RecvOutcome, TransportError};
use crate::rt::{Timer, now_ms, peer_after_ms, peer_now_ms};
use crate::service::{Body, BodyError, BodyParts};

/// No more of the request's body is queued while this many bytes wait to be sent.
const UNSENT_BYTES_MAX: usize = 64 << 10;

/// What the exchange waits for, which decides the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// The end of the request. The response may come before it, but need not.
    Request,
    Head,
    /// Nothing: the program has what has come, and does not ask for more.
    Nothing,
    Body,
}

/// An exchange whose request has begun.
#[derive(Debug)]
pub(super) struct Exchange {
    shared: Rc<Shared>,
    origin: Origin,
    /// `None` once it is given back or closed.
    connection: Option<Connection>,
    request_body: Body,
    awaited: Awaited,
    /// When this must have come, on the peer clock.
    deadline_ms: u64,
    /// When the exchange must have ended, on the peer clock.
    total_ms: u64,
    /// While the request waits for `100 Continue`: ends the wait.
    continue_timer: Option<Timer>,
    /// Why the rest of the request cannot be sent. The response may have come nevertheless.
    send_error: Option<TransportError>,
    /// Nothing has failed but the connection itself, before any byte of a response.
    may_repeat: bool,
    trailers: Option<HeaderMap>,
}

impl Exchange {
    /// Queues the head of a request on `connection`.
    pub(super) fn begin(
        shared: Rc<Shared>,
        mut connection: Connection,
        outgoing: Outgoing,
        total_ms: u64,
    ) -> Result<Self, Error> {
        let head = connection.http.encode_request(&outgoing.head());
        let head = head.map_err(|fault| Error::of_request(fault.reason()))?;
        connection
            .transport
            .send_queue
            .write(&engine::pool(), &head);
        let continue_timer = connection.http.awaits_continue().then(|| {
            let timer = Timer::new();
            timer.set(now_ms().saturating_add(shared.bounds.continue_timeout_ms));
            timer
        });
        let mut exchange = Self {
            origin: outgoing.origin().clone(),
            shared,
            connection: Some(connection),
            request_body: outgoing.body,
            awaited: Awaited::Request,
            deadline_ms: u64::MAX,
            total_ms,
            continue_timer,
            send_error: None,
            may_repeat: true,
            trailers: None,
        };
        exchange.await_next(Awaited::Request);
        Ok(exchange)
    }

    /// After an error: whether the connection has ended before any byte of a response, as a kept
    /// connection may at any time.
    pub(super) fn may_repeat(&self) -> bool {
        self.may_repeat
    }

    /// The head of the final response, with `()` as its body.
    pub(super) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, Error>> {
        loop {
            let Some(connection) = &mut self.connection else {
                return Poll::Ready(Err(Error::Broken(io::ErrorKind::NotConnected.into())));
            };
            let recv_buf = &mut connection.transport.recv_buf;
            let unread = recv_buf.unread();
            let has_waited = connection.http.awaits_continue();
            match connection.http.next_event(unread, &self.shared.bounds.h1) {
                Ok((used, ResponseEvent::Response(head))) => {
                    let response = response(head, head.fields(unread));
                    recv_buf.consume(used);
                    if has_waited {
                        // The server does not want the body.
                        self.drop_request();
                    }
                    self.awaited = Awaited::Nothing;
                    if self.is_over() {
                        self.settle(context);
                    }
                    return Poll::Ready(Ok(response));
                }
                Ok((used, ResponseEvent::Interim(_))) => {
                    recv_buf.consume(used);
                    // The transport looks at the time only when nothing has arrived.
                    if peer_now_ms() >= self.deadline_ms
                        && let Err(error) = self.overdue()
                    {
                        return Poll::Ready(Err(self.end(error)));
                    }
                    continue;
                }
                Ok((used, _)) => recv_buf.consume(used),
                Err(fault) => return Poll::Ready(Err(self.end(Error::of_response(fault)))),
            }
            if let Err(error) = ready!(self.poll_io(context)) {
                return Poll::Ready(Err(self.end(error)));
            }
        }
    }

    /// The next part of the response's body; `None` at its end.
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Part>, Error>> {
        loop {
            let Some(connection) = &mut self.connection else {
                return Poll::Ready(Ok(None));
            };
            // The transport looks at the time only when nothing has arrived.
            if peer_now_ms() >= self.total_ms {
                return Poll::Ready(Err(self.end(Error::Timeout(Phase::Total))));
            }
            let recv_buf = &mut connection.transport.recv_buf;
            let unread = recv_buf.unread();
            match connection.http.next_event(unread, &self.shared.bounds.h1) {
                Ok((used, ResponseEvent::Data(range))) => {
                    let mut part = Part::Static(b"");
                    recv_buf.consume(range.start);
                    recv_buf.take(range.len(), &mut part);
                    recv_buf.consume(used - range.end);
                    self.awaited = Awaited::Nothing;
                    return Poll::Ready(Ok(Some(part)));
                }
                Ok((used, ResponseEvent::Trailer(range))) => {
                    let (name, value) = field(split_line(&unread[range]).unwrap_or_default());
                    recv_buf.consume(used);
                    let trailers = self.trailers.get_or_insert_default();
                    if trailers.try_append(name, value).is_err() {
                        let error = Error::of_response(Fault::TooManyFields);
                        return Poll::Ready(Err(self.end(error)));
                    }
                    continue;
                }
                Ok((used, ResponseEvent::End)) => {
                    recv_buf.consume(used);
                    self.settle(context);
                    return Poll::Ready(Ok(None));
                }
                Ok((used, _)) => recv_buf.consume(used),
                Err(fault) => return Poll::Ready(Err(self.end(Error::of_response(fault)))),
            }
            if self.awaited == Awaited::Nothing {
                // From now on the server is slow, and not the program.
                self.await_next(Awaited::Body);
            }
            match ready!(self.poll_io(context)) {
                Ok(()) if self.is_over() => {
                    self.settle(context);
                    return Poll::Ready(Ok(None));
                }
                Ok(()) => {}
                Err(error) => return Poll::Ready(Err(self.end(error))),
            }
        }
    }

    /// Sends more of the request, and receives more of the response. Ready when something was
    /// received, or the end of the connection completes the response.
    fn poll_io(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            if let Err(error) = self.send(context) {
                return Poll::Ready(Err(error));
            }
            let Some(connection) = &mut self.connection else {
                unreachable!("an exchange that is polled has its connection")
            };
            match ready!(connection.transport.poll_recv(context)) {
                Ok(RecvOutcome::Bytes(_)) => {
                    self.may_repeat = false;
                    return Poll::Ready(Ok(()));
                }
                Ok(RecvOutcome::Fin) => {
                    let outcome = connection.http.receive_eof();
                    return Poll::Ready(outcome.map(drop).map_err(Error::of_response));
                }
                Ok(RecvOutcome::Overdue) => {
                    if let Err(error) = self.overdue() {
                        return Poll::Ready(Err(error));
                    }
                }
                Err(error) => return Poll::Ready(Err(broken(error))),
            }
        }
    }

    /// Queues and sends what there is of the request.
    fn send(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        loop {
            let is_starved = self.queue_body(context)?;
            let Some(Connection { transport, http }) = &mut self.connection else {
                return Ok(());
            };
            if transport.is_broken() {
                return Ok(());
            }
            match transport.poll_flush(context) {
                Poll::Ready(Ok(())) if http.is_sending() && !is_starved => {}
                Poll::Ready(Ok(())) | Poll::Pending => return Ok(()),
                Poll::Ready(Err(TransportError::Broken(errno))) => {
                    // The server may have responded before it closed the connection.
                    self.send_error = Some(TransportError::Broken(errno));
                    self.drop_request();
                    return Ok(());
                }
                Poll::Ready(Err(error)) => return Err(broken(error)),
            }
        }
    }

    /// Queues parts of the request's body up to the limit. Returns whether the next one is not
    /// ready.
    fn queue_body(&mut self, context: &mut Context<'_>) -> Result<bool, Error> {
        let Some(Connection { transport, http }) = &mut self.connection else {
            return Ok(true);
        };
        if http.awaits_continue() {
            let timer = self.continue_timer.as_ref();
            if timer.is_some_and(|timer| timer.poll_expired(context).is_pending()) {
                return Ok(true);
            }
            http.proceed();
        }
        let pool = engine::pool();
        while http.is_sending() && transport.unsent_bytes() < UNSENT_BYTES_MAX {
            let queue = &mut transport.send_queue;
            match self.request_body.poll_part(context) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Ok(Some(part))) => match http.encode_data_prefix(part.len()) {
                    Ok(Some(prefix)) => {
                        queue.write(&pool, prefix.as_bytes());
                        queue.push(part);
                        queue.write(&pool, DATA_SUFFIX);
                    }
                    Ok(None) => queue.push(part),
                    Err(_) => return Err(Error::RequestBody(BodyError::WrongLength)),
                },
                Poll::Ready(Ok(None)) => {
                    let trailers = self.request_body.take_trailers();
                    match http.encode_end(trailers.as_ref()) {
                        Ok(end) => queue.write(&pool, &end),
                        Err(_) => return Err(Error::RequestBody(BodyError::WrongLength)),
                    }
                    self.request_body = Body::empty();
                }
                Poll::Ready(Err(error)) => return Err(Error::RequestBody(error)),
            }
        }
        if self.awaited == Awaited::Request && !http.is_sending() {
            self.await_next(Awaited::Head);
        }
        Ok(false)
    }

    /// Stops sending the request.
    fn drop_request(&mut self) {
        self.request_body = Body::empty();
        if let Some(connection) = &mut self.connection {
            if connection.http.is_sending() || connection.http.awaits_continue() {
                connection.http.fail_request();
            }
            if self.awaited == Awaited::Request {
                self.await_next(Awaited::Head);
            }
        }
    }

    /// Sets what is awaited, and the deadline for it.
    fn await_next(&mut self, awaited: Awaited) {
        self.awaited = awaited;
        let timeout_ms = match awaited {
            Awaited::Request | Awaited::Nothing => u64::MAX,
            Awaited::Head => self.shared.bounds.head_timeout_ms,
            Awaited::Body => self.shared.bounds.body_timeout_ms,
        };
        self.deadline_ms = peer_after_ms(timeout_ms).min(self.total_ms);
        if let Some(connection) = &mut self.connection {
            connection.transport.set_recv_deadline(self.deadline_ms);
        }
    }

    /// The deadline has passed and nothing has arrived.
    #[cold]
    fn overdue(&mut self) -> Result<(), Error> {
        if peer_now_ms() >= self.total_ms {
            return Err(Error::Timeout(Phase::Total));
        }
        let connection = self.connection.as_ref();
        let is_sending = connection.is_some_and(|connection| connection.transport.has_unsent());
        match self.awaited {
            // The time counts from the end of the request. A send has a deadline of its own.
            Awaited::Head if is_sending && self.send_error.is_none() => {
                self.await_next(Awaited::Head);
                Ok(())
            }
            Awaited::Body => Err(Error::Timeout(Phase::Body)),
            _ => Err(Error::Timeout(Phase::Head)),
        }
    }

    /// Whether the response is complete.
    fn is_over(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_none_or(|connection| connection.http.response_complete())
    }

    /// The response is complete: keeps the connection if the request is, too, and otherwise closes
    /// it.
    fn settle(&mut self, context: &mut Context<'_>) {
        self.request_body = Body::empty();
        if let Some(connection) = self.connection.take() {
            keep(&self.shared, self.origin.clone(), connection, context);
        }
    }

    /// Resets the connection, if the exchange is not complete. A server does not take a reset for a
    /// client that only sends no more, and so can stop working on the request.
    fn abort(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.transport.stream().reset_on_close();
        }
    }

    /// Closes the connection. An error of the send explains the end of the connection better than
    /// the missing response does.
    fn end(&mut self, error: Error) -> Error {
        self.request_body = Body::empty();
        self.abort();
        self.may_repeat &= matches!(error, Error::Broken(_));
        match (self.send_error.take(), error) {
            (Some(cause), Error::Broken(_)) => broken(cause),
            (_, error) => error,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.abort();
    }
}

fn broken(error: TransportError) -> Error {
    match error {
        TransportError::SendTimeout => Error::Timeout(Phase::Send),
        error => Error::Broken(error.into()),
    }
}

/// A response of the `http` crate with a received head.
fn response(head: ReceivedHead, fields: Fields<'_>) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.version_mut() = match head.version {
        head::Version::Http10 => Version::HTTP_10,
        head::Version::Http11 => Version::HTTP_11,
    };
    for line in fields {
        let (name, value) = field(line);
        response.headers_mut().append(name, value);
    }
    response
}

/// A received field, which the parser has validated.
fn field((name, value): (&[u8], &[u8])) -> (HeaderName, HeaderValue) {
    (
        HeaderName::from_bytes(name).expect("a received name is a token"),
        HeaderValue::from_bytes(value).expect("a received value has no controls"),
    )
}

/// The body of a response: the rest of its exchange. Dropping it closes the connection, unless all
/// was read.
pub(super) struct ReceivedBody {
    exchange: Exchange,
    /// The number of bytes that are not yet read, by Content-Length.
    left: Option<u64>,
    has_failed: bool,
}

impl ReceivedBody {
    /// The body of the response whose head `exchange` has returned.
    pub(super) fn of(exchange: Exchange) -> Body {
        match &exchange.connection {
            None => Body::empty(),
            Some(connection) => Body::from_parts(Box::new(Self {
                left: connection.http.response_length(),
                exchange,
                has_failed: false,
            })),
        }
    }
}

impl fmt::Debug for ReceivedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedBody")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl BodyParts for ReceivedBody {
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Part>, BodyError>> {
        if self.has_failed {
            return Poll::Ready(Err(BodyError::Incomplete));
        }
        match ready!(self.exchange.poll_part(context)) {
            Ok(part) => {
                let len = part.as_ref().map_or(0, |part| part.len() as u64);
                self.left = self.left.map(|left| left.saturating_sub(len));
                if self.left == Some(0) {
                    // A reader that counts does not ask for the end. Its connection is kept, too.
                    let _ = self.exchange.poll_part(context);
                }
                Poll::Ready(Ok(part))
            }
            Err(_) => {
                self.has_failed = true;
                Poll::Ready(Err(BodyError::Incomplete))
            }
        }
    }

    fn left(&self) -> Option<u64> {
        self.left
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        match self.exchange.connection {
            None if !self.has_failed => self.exchange.trailers.take(),
            _ => None,
        }
    }
}
