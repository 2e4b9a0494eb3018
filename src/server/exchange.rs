//! An exchange that does not end at once: the service waits, or a body flows.
//!
//! It drives the service, receiving and sending together: the request's body is received while its
//! reader waits for it, the response's body is pulled while there is room, and what is queued is
//! sent meanwhile. It asks its [`Carrier`] for all of that, and does not know the connection. If
//! the client resets the connection the call is dropped; whether a half-close (FIN) does the same
//! is a limit, [`HalfClose`](super::limits::HalfClose).

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::StatusCode;

use super::carrier::{Arrived, Carrier};
use super::close_reason::CloseReason;
use crate::buf::PoolBox;
use crate::http::Fault;
use crate::net::Pace;
use crate::rt::{contain, peer_now_ms, spawn_joined};
use crate::service::{Body, Inlet, NextResponse, Piece, Response, Upgraded};
use crate::sys::mutants::mutate;

/// What arrives for a response's body is gathered to so many bytes for one send. With more, few
/// connections would hold all blocks that there are to receive into.
const RELAYED_BYTES_MAX: usize = 32 << 10;
/// So often in a row a response's body may go on, a part or a send at a time, while its client
/// takes whatever comes; then others have their turn. A span of a file takes as long as all of
/// these.
const ROUNDS_MAX: u32 = 4;
/// Pieces of a request's body that are handed over in a row: tiny chunks cost much more than their
/// bytes tell. Then the task yields.
const PIECES_MAX: u32 = 1024;
/// Of a request's body that nobody read, so much is received to keep the connection.
const DISCARD_BYTES_MAX: u64 = 64 << 10;

/// One request and its response, after the service was first polled.
pub(super) struct Exchange<F> {
    stage: Stage<F>,
    /// The way of the request's body to its reader, until nobody reads it or the response is out.
    incoming: Option<Inlet>,
    /// The progress of the request's body, once it was asked for.
    pace: Option<Pace>,
    /// Since when nobody asks for more of it.
    paused_ms: Option<u64>,
    /// Pieces that may still be handed over before the task yields.
    pieces_left: u32,
    /// Another protocol has taken the place of HTTP, and decides itself how long to wait.
    has_switched: bool,
}

/// What keeps an exchange from ending at once. It is small, because every idle connection has room
/// for it.
pub(super) enum Pending<F> {
    /// The service works on its response.
    Call(Pin<PoolBox<F>>),
    /// The response is there, and nothing of it is queued.
    Response(Box<Response>),
}

/// How far an exchange is.
enum Stage<F> {
    /// Nothing of the response is queued.
    Pending(Pending<F>),
    /// An interim response is queued; the service works on the next one.
    Next(NextResponse),
    /// The head is queued; the body follows, until none is left of it.
    Body(Option<Body>),
}

impl<F: Future<Output = Response>> Exchange<F> {
    /// The exchange of a request whose body comes by `incoming`, if it has one.
    pub(super) fn new(pending: Pending<F>, incoming: Option<Inlet>) -> Self {
        Self {
            stage: Stage::Pending(pending),
            incoming,
            pace: None,
            paused_ms: None,
            pieces_left: PIECES_MAX,
            has_switched: false,
        }
    }

    /// Brings the exchange on; ready when all of the response is sent.
    pub(super) fn poll(
        &mut self,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        self.pieces_left = PIECES_MAX;
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
            if is_interim && !carrier.has_room(usize::MAX) {
                // A service may have any number of them, and its client read none.
                ready!(carrier.poll_flush(context))?;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let stage = mem::replace(&mut self.stage, Stage::Body(None));
            let Stage::Pending(Pending::Response(mut response)) = stage else {
                unreachable!("looked at above");
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

    /// Drives the call until it has a response.
    fn poll_call(
        &mut self,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Poll<Result<Response, CloseReason>> {
        loop {
            self.forget_own_reader(context);
            let polled = contain(|| {
                let polled = match &mut self.stage {
                    Stage::Pending(Pending::Call(call)) => call.as_mut().poll(context),
                    Stage::Next(next) => next.as_mut().poll(context),
                    _ => unreachable!("polled while the service works"),
                };
                if polled.is_ready() {
                    // The call's destructors are the service's code, too.
                    self.stage = Stage::Body(None);
                }
                polled
            });
            if let Poll::Ready(response) = polled.ok_or(CloseReason::ServicePanicked)? {
                return Poll::Ready(Ok(response));
            }
            let received = self.receive(carrier, context)?;
            // Responses to earlier requests do not wait for this one.
            let _ = carrier.poll_flush(context)?;
            if self.pieces_left == 0 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !received {
                return Poll::Pending;
            }
        }
    }

    /// Queues the head of a response that agrees on another protocol, and starts what speaks it.
    /// Gives back the body of what that writes.
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
        let (inlet, incoming) = Inlet::new(None);
        let (stream, outgoing) = Upgraded::new(incoming);
        // The future is the service's code, too, and so is its making.
        drop(spawn_joined(async move { continuation(stream).await }));
        self.incoming = Some(inlet);
        self.has_switched = true;
        Ok(outgoing)
    }

    /// Queues the response's head, and gives back its body. The rest of a request's body that is
    /// not passed on decides whether the connection can persist.
    fn begin_response(
        &mut self,
        response: &mut Response,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Result<Body, CloseReason> {
        // All that has arrived, for the head cannot wait for another turn.
        self.pieces_left = u32::MAX;
        if let Some(incoming) = &self.incoming {
            if response.passes_on(incoming) {
                // An error in these bytes is still answered with its status.
                self.hand_over_arrived(carrier, context)?;
                // The client sends the rest only when it is asked to.
                carrier.ask_for_body();
            } else {
                let (is_read, is_little) = (incoming.has_reader(), is_little(incoming));
                if is_read {
                    // Nothing is received for it once the response is out, be it before its turn.
                    self.hand_over(carrier, context)?;
                }
                if !carrier.leave_body(is_read, is_little)? || !is_read {
                    self.incoming = None;
                }
            }
        }
        self.pieces_left = PIECES_MAX;
        if !carrier.head(response) {
            response.body().forgo();
        }
        Ok(mem::take(response.body()))
    }

    /// Drives the response's body until all of it is sent.
    fn poll_body(
        &mut self,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        for _ in 0..ROUNDS_MAX {
            let mut pulled = self.pull(carrier, context)?;
            while self.body().is_some()
                && self.pieces_left > 0
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
            if pulled == Pulled::Span && flushed.is_ready() || self.pieces_left == 0 {
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

    /// The response's body, until all of it is queued.
    fn body(&mut self) -> &mut Option<Body> {
        let Stage::Body(body) = &mut self.stage else {
            unreachable!("the head is queued");
        };
        body
    }

    /// Queues what the response's body has, while there is room.
    fn pull(
        &mut self,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Result<Pulled, CloseReason> {
        self.forget_own_reader(context);
        let mut pulled = Pulled::Nothing;
        while self.has_room(carrier)
            && let Some(source) = self.body()
        {
            match contain(|| source.poll_piece(context)).ok_or(CloseReason::ServicePanicked)? {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(piece))) => {
                    pulled = pulled.max(match piece {
                        Piece::Part(_) => Pulled::Parts,
                        Piece::Span(_) => Pulled::Span,
                    });
                    carrier.piece(piece)?;
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
        carrier.has_room(body.map_or(usize::MAX, Body::owed_bytes_max))
    }

    /// Only what the body's reader asks for in this very poll counts, if it runs in this task.
    fn forget_own_reader(&self, context: &Context<'_>) {
        if let Some(incoming) = &self.incoming {
            incoming.forget_own_reader(context);
        }
    }

    /// Receives the request's body while it is asked for. True: something was handed over, or
    /// nothing will be any more.
    fn receive(
        &mut self,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Result<bool, CloseReason> {
        let is_wanted = |incoming: &Inlet| !incoming.is_finished() && incoming.poll_wanted(context);
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
                    let received = u32::try_from(received?).expect("little comes at a time");
                    pace.moved(received, now_ms);
                }
            }
        }
    }

    /// Receives the request's body while the response flows. An error in it concerns only the
    /// body's reader, unless the response is this very body: the response goes on, and the
    /// connection closes after it.
    fn receive_beside(
        &mut self,
        carrier: &mut impl Carrier,
        context: &mut Context<'_>,
    ) -> Result<bool, CloseReason> {
        match (self.receive(carrier, context), &self.incoming) {
            (Err(CloseReason::Fault(_)), Some(incoming)) if !self.passes_on(incoming) => {
                carrier.refuse_body();
                // Its reader is told that the body is incomplete.
                self.incoming = None;
                Ok(true)
            }
            (received, _) => received,
        }
    }

    /// Whether the response's body is the one that comes by `incoming`.
    fn passes_on(&self, incoming: &Inlet) -> bool {
        matches!(&self.stage, Stage::Body(Some(body)) if body.comes_by(incoming))
    }

    /// Hands the reader what is known to have arrived of the body, up to a limit.
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

    /// Hands the reader what has arrived of the body. False: nothing.
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
                    self.pieces_left -= 1;
                    if self.pieces_left == 0 {
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

/// The part of a response's body that was queued, in the order of its cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pulled {
    Nothing,
    /// Parts in memory, or the end.
    Parts,
    /// A span of a file, after which others have their turn.
    Span,
}

/// Queues an interim response, and gives back what makes the next one. Without that it is no answer
/// (RFC 9110 §15.2).
fn begin_next(
    response: &mut Response,
    carrier: &mut impl Carrier,
) -> Result<NextResponse, CloseReason> {
    let next = response.take_next().ok_or(CloseReason::ServiceFailed)?;
    carrier.interim(response);
    Ok(next)
}

/// Whether what is left of a request's body is known to be little enough to be received and
/// dropped.
fn is_little(incoming: &Inlet) -> bool {
    incoming
        .left()
        .is_some_and(|left| left <= DISCARD_BYTES_MAX)
}
