//! An exchange that does not complete at once: the service waits, or a body arrives or leaves part
//! by part.
//!
//! It polls the service, and receives and sends meanwhile. It receives the request's body while a
//! reader waits for it, pulls the response's body while there is room, and sends the queued bytes.
//! All of that goes through its [`Carrier`]; it does not know the connection. If the client resets
//! the connection, the call is dropped. If the client half-closes it (FIN), that depends on
//! [`HalfClose`](super::limits::HalfClose).

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::StatusCode;

use super::carrier::{Arrived, Carrier};
use super::close_reason::CloseReason;
use super::limits::Limits;
use crate::buf::PoolBox;
use crate::http::Fault;
use crate::net::Pace;
use crate::rt::{catch_panic, peer_now_ms, spawn_joined};
use crate::service::{Body, BodyPart, NextResponse, RequestBodySender, Response, Upgraded};
use crate::sys::mutants::mutate;

/// How many bytes of a response's body are gathered for one send while the request's body arrives.
/// With a larger limit a few connections that pass bodies on could use up the receive buffers.
const RELAYED_BYTES_MAX: usize = 32 << 10;
/// How often in a row a response's body is pulled and sent before the coroutine yields, if the
/// client takes everything at once. A span of a file takes as long as all of these, and so ends the
/// turn.
const ROUNDS_MAX: u32 = 4;
/// How many parts of a request's body are passed on before the coroutine yields. Parts are counted
/// instead of bytes, because a tiny chunk costs almost as much as a large one.
const BODY_PARTS_MAX: u32 = 1024;

/// One request and its response, from the end of the service's first poll.
pub(super) struct Exchange<F> {
    stage: Stage<F>,
    /// Writes the request's body to its reader. `None`: there is no body, or no more of it is read.
    incoming: Option<RequestBodySender>,
    /// The progress of the request's body. `None` until a reader asks for it.
    pace: Option<Pace>,
    /// When the reader stopped asking for more, in ms. `None` while it asks.
    paused_ms: Option<u64>,
    /// Parts that may still be passed on before the coroutine yields.
    parts_left: u32,
    /// The connection has switched to another protocol, which decides how long it waits.
    has_switched: bool,
}

/// Where an exchange begins. It is small, because every idle connection reserves space for it.
pub(super) enum Pending<F> {
    /// The service has not responded yet.
    Call(Pin<PoolBox<F>>),
    /// The service has responded, and nothing of the response is queued.
    Response(Box<Response>),
}

/// The progress of an exchange.
enum Stage<F> {
    /// Nothing of the response is queued.
    Pending(Pending<F>),
    /// An interim response is queued. The service has not made the next one yet.
    Next(NextResponse),
    /// The head is queued. The body follows; `None` when all of it is queued.
    Body(Option<Body>),
}

impl<F: Future<Output = Response>> Exchange<F> {
    /// An exchange whose request body, if there is one, is written to `incoming`.
    pub(super) fn new(pending: Pending<F>, incoming: Option<RequestBodySender>) -> Self {
        Self {
            stage: Stage::Pending(pending),
            incoming,
            pace: None,
            paused_ms: None,
            parts_left: BODY_PARTS_MAX,
            has_switched: false,
        }
    }

    /// Drives the exchange. Ready when the whole response is sent.
    pub(super) fn poll(
        &mut self,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        self.parts_left = BODY_PARTS_MAX;
        loop {
            if matches!(
                self.stage,
                Stage::Pending(Pending::Call(_)) | Stage::Next(_)
            ) {
                let response = ready!(self.poll_call(carrier, context))?;
                self.stage = Stage::Pending(Pending::Response(Box::new(response)));
            }
            let Stage::Pending(Pending::Response(response)) = &self.stage else {
                break;
            };
            let status = response.status();
            let is_interim = status.is_informational();
            if status.as_u16() >= 600 {
                // RFC 9110 §15: a status is from 100 to 599.
                return Poll::Ready(Err(CloseReason::ServiceFailed));
            }
            if is_interim && !carrier.has_room(usize::MAX) {
                // A service may make any number of them, for a client that reads none.
                ready!(carrier.poll_flush(context))?;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let stage = mem::replace(&mut self.stage, Stage::Body(None));
            let Stage::Pending(Pending::Response(mut response)) = stage else {
                unreachable!("matched above");
            };
            self.stage = match is_interim {
                true if status == StatusCode::SWITCHING_PROTOCOLS => {
                    Stage::Body(Some(self.switch(&mut response, carrier)?))
                }
                true => Stage::Next(begin_next(&mut response, carrier)?),
                false => Stage::Body(Some(self.begin_response(
                    &mut response,
                    carrier,
                    context,
                )?)),
            };
        }
        self.poll_body(carrier, context)
    }

    /// Polls the call until it returns a response, and receives the request's body meanwhile.
    fn poll_call(
        &mut self,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Poll<Result<Response, CloseReason>> {
        loop {
            self.clear_own_wait(context);
            let polled = catch_panic(|| {
                let polled = match &mut self.stage {
                    Stage::Pending(Pending::Call(call)) => call.as_mut().poll(context),
                    Stage::Next(next) => next.as_mut().poll(context),
                    _ => unreachable!("called only before there is a response"),
                };
                if polled.is_ready() {
                    // Dropped within `catch_panic`: the call's destructors are the service's code,
                    // too.
                    self.stage = Stage::Body(None);
                }
                polled
            });
            if let Poll::Ready(response) = polled.ok_or(CloseReason::ServicePanicked)? {
                return Poll::Ready(Ok(response));
            }
            let received = self.receive(carrier, context)?;
            // Send the responses to earlier requests, and do not wait for the end of that.
            let _ = carrier.poll_flush(context)?;
            if self.parts_left == 0 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !received {
                return Poll::Pending;
            }
        }
    }

    /// Queues the head of a response that switches to another protocol, and spawns its
    /// continuation, which speaks that protocol. Returns the body that the continuation writes.
    fn switch(
        &mut self,
        response: &mut Response,
        carrier: &mut impl Carrier,
    ) -> Result<Body, CloseReason> {
        let continuation = response.take_continuation();
        let continuation = continuation.ok_or(CloseReason::ServiceFailed)?;
        if self
            .incoming
            .as_ref()
            .is_some_and(|incoming| !incoming.is_finished())
        {
            return Err(CloseReason::ServiceFailed);
        }
        carrier.switch(response)?;
        let (body_sender, incoming) = RequestBodySender::new(None);
        let (stream, outgoing) = Upgraded::new(incoming);
        // The continuation is the service's code and may panic, so it is called in the coroutine.
        drop(spawn_joined(async move { continuation(stream).await }));
        self.incoming = Some(body_sender);
        self.has_switched = true;
        Ok(outgoing)
    }

    /// Queues the response's head, and returns its body. If the rest of the request's body is not
    /// part of the response, its length decides whether the connection persists.
    fn begin_response(
        &mut self,
        response: &mut Response,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Result<Body, CloseReason> {
        // All that has arrived is passed on: after the head it would be too late.
        self.parts_left = u32::MAX;
        if let Some(incoming) = &self.incoming {
            let (is_read, is_rest_small) = (incoming.has_reader(), is_rest_small(incoming));
            let is_forwarded = response.forwards(incoming);
            if is_forwarded {
                // An error in these bytes can still be answered with its own status.
                self.hand_over_arrived(carrier, context)?;
            } else if is_read {
                // The response may end before the reader runs. After it nothing is received.
                let handed = self.hand_over(carrier, context);
                self.spare_response(handed, carrier)?;
            }
            if is_read {
                // A client that waits for `100 Continue` sends the rest only after it. After the
                // head it is too late, and the reader may not have run yet.
                carrier.ask_for_body();
            }
            if !is_forwarded {
                carrier.leave_body(is_read, is_rest_small);
            }
            if !is_read {
                self.incoming = None;
            }
        }
        self.parts_left = BODY_PARTS_MAX;
        if !carrier.head(response) {
            // The body's destructor is the service's code.
            catch_panic(|| response.body().discard()).ok_or(CloseReason::ServicePanicked)?;
        }
        Ok(mem::take(response.body()))
    }

    /// Pulls and sends the response's body. Ready when all of it is sent.
    fn poll_body(
        &mut self,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        for _ in 0..ROUNDS_MAX {
            let mut pulled = self.pull(carrier, context)?;
            while self.body().is_some()
                && self.parts_left > 0
                && self.receive_beside(carrier, context)?
            {
                pulled = pulled.max(Pulled::Parts);
                if carrier.queued() >= RELAYED_BYTES_MAX {
                    break;
                }
                match self.pull(carrier, context)? {
                    Pulled::Nothing => break,
                    more => pulled = pulled.max(more),
                }
            }
            let was_full = !self.has_room(carrier);
            let flushed = carrier.poll_flush(context)?;
            if pulled == Pulled::Span && flushed.is_ready() || self.parts_left == 0 {
                break;
            }
            if self.body().is_none() && flushed.is_ready() {
                return Poll::Ready(Ok(()));
            }
            let progress = pulled > Pulled::Nothing || was_full && self.has_room(carrier);
            if !progress {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// The response's body. `None` when all of it is queued.
    fn body(&mut self) -> &mut Option<Body> {
        let Stage::Body(body) = &mut self.stage else {
            unreachable!("called only after the head was queued");
        };
        body
    }

    /// Queues parts of the response's body, while it has some and there is room.
    fn pull(
        &mut self,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Result<Pulled, CloseReason> {
        self.clear_own_wait(context);
        let mut pulled = Pulled::Nothing;
        while self.has_room(carrier)
            && let Some(source) = self.body()
        {
            match catch_panic(|| source.poll_body_part(context))
                .ok_or(CloseReason::ServicePanicked)?
            {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(body_part))) => {
                    pulled = pulled.max(match body_part {
                        BodyPart::Part(_) => Pulled::Parts,
                        BodyPart::Span(_) => Pulled::Span,
                    });
                    carrier.body_part(body_part)?;
                }
                Poll::Ready(Ok(None)) => {
                    let trailers = source.take_trailers();
                    *self.body() = None;
                    carrier.end(trailers)?;
                    pulled = pulled.max(Pulled::Parts);
                }
                Poll::Ready(Err(_)) => {
                    mutate!(BrokenIsWhole, carrier.end(None)?);
                    return Err(CloseReason::ServiceFailed);
                }
            }
        }
        Ok(pulled)
    }

    /// Whether more of the response's body can be queued.
    fn has_room(&mut self, carrier: &impl Carrier) -> bool {
        let body = self.body().as_ref();
        carrier.has_room(body.map_or(usize::MAX, Body::unsent_bytes_max))
    }

    /// Withdraws the request of a reader that runs in this coroutine. The reader is polled next,
    /// and asks again if it still waits.
    fn clear_own_wait(&self, context: &Context<'_>) {
        if let Some(incoming) = &self.incoming {
            incoming.clear_own_wait(context);
        }
    }

    /// Receives the request's body while its reader asks for it. Returns true if something was
    /// passed on, or the body is complete.
    fn receive(
        &mut self,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Result<bool, CloseReason> {
        let is_wanted =
            |incoming: &RequestBodySender| !incoming.is_finished() && incoming.poll_wanted(context);
        if !self.incoming.as_ref().is_some_and(is_wanted) {
            if self.pace.is_some() {
                self.paused_ms.get_or_insert_with(peer_now_ms);
            }
            carrier.check_client(context)?;
            return Ok(false);
        }
        loop {
            if self.hand_over(carrier, context)? {
                return Ok(true);
            }
            let now_ms = peer_now_ms();
            let pace = self.pace.get_or_insert_with(|| Pace::start(now_ms));
            if let Some(since_ms) = self.paused_ms.take() {
                pace.paused(now_ms - since_ms);
            }
            let limits = carrier.limits();
            let deadline_ms = match self.has_switched {
                true => u64::MAX,
                false => pace.deadline_ms(limits.body_timeout_ms, limits.bytes_per_second_min),
            };
            match carrier.poll_receive(deadline_ms, context) {
                Poll::Pending => return Ok(false),
                Poll::Ready(received) => {
                    let received = u32::try_from(received?).expect("a receive is small");
                    pace.moved(received, now_ms);
                }
            }
        }
    }

    /// Receives the request's body while the response's body is sent.
    fn receive_beside(
        &mut self,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Result<bool, CloseReason> {
        let received = self.receive(carrier, context);
        match &self.incoming {
            Some(incoming) if self.forwards(incoming) => received,
            _ => self.spare_response(received, carrier),
        }
    }

    /// Limits a fault in the request's body to its reader, if the response does not pass the body
    /// on: the response is made, and must not depend on whether the fault arrived before it. It
    /// continues, and the connection closes after it.
    fn spare_response(
        &mut self,
        received: Result<bool, CloseReason>,
        carrier: &mut impl Carrier,
    ) -> Result<bool, CloseReason> {
        match received {
            Err(CloseReason::Fault(_)) => {
                carrier.refuse_body();
                // The reader gets `BodyError::Incomplete`.
                self.incoming = None;
                Ok(true)
            }
            received => received,
        }
    }

    /// Whether the response's body is the request's body.
    fn forwards(&self, incoming: &RequestBodySender) -> bool {
        matches!(&self.stage, Stage::Body(Some(body)) if body.is_sent_by(incoming))
    }

    /// Passes on the part of the body that is known to have arrived, up to [`RELAYED_BYTES_MAX`].
    fn hand_over_arrived(
        &mut self,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Result<(), CloseReason> {
        let mut received = 0;
        loop {
            self.hand_over(carrier, context)?;
            match carrier.receive_arrived(context)? {
                0 => return Ok(()),
                bytes => received += bytes,
            }
            if received >= RELAYED_BYTES_MAX {
                return self.hand_over(carrier, context).map(|_| ());
            }
        }
    }

    /// Passes the received part of the body on to its reader. Returns false if there is none.
    fn hand_over(
        &mut self,
        carrier: &mut impl Carrier,
        context: &Context<'_>,
    ) -> Result<bool, CloseReason> {
        let Some(incoming) = &self.incoming else {
            return Ok(false);
        };
        let mut handed = false;
        loop {
            match carrier.take_body()? {
                Some(Arrived::Part(part)) => {
                    incoming.push(part, context);
                    handed = true;
                    self.parts_left -= 1;
                    if self.parts_left == 0 {
                        return Ok(true);
                    }
                }
                Some(Arrived::Trailer(name, value)) => {
                    if !incoming.push_trailer(name, value) {
                        return Err(CloseReason::Fault(Fault::TooManyFields));
                    }
                }
                Some(Arrived::End) => {
                    incoming.finish(context);
                    return Ok(true);
                }
                None => return Ok(handed),
            }
        }
    }
}

/// The most expensive kind of data that a pull has queued, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pulled {
    Nothing,
    /// Parts in memory, or the end.
    Parts,
    /// A span of a file. The coroutine yields after it.
    Span,
}

/// Queues an interim response, and returns the future of the response that follows it. There must
/// be one (RFC 9110 §15.2).
fn begin_next(
    response: &mut Response,
    carrier: &mut impl Carrier,
) -> Result<NextResponse, CloseReason> {
    let next = response.take_next().ok_or(CloseReason::ServiceFailed)?;
    carrier.interim(response);
    Ok(next)
}

/// Whether the rest of a request's body may be small enough to be received and dropped. The length
/// of a chunked one is not known, so its bytes are counted as they come.
fn is_rest_small(incoming: &RequestBodySender) -> bool {
    let left = incoming.left();
    left.is_none_or(|left| left <= u64::from(Limits::DISCARD_BYTES_MAX))
}
