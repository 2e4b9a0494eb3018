//! An exchange that does not end at once: the service waits, or a body flows.
//!
//! One coroutine drives the service, receiving and sending together: the request's body is
//! received while its reader waits for it, the answer's body is pulled while there is room, and
//! what is owed is sent meanwhile. If the peer resets the connection the call is dropped; whether a
//! half-close (FIN) does the same is a limit, [`HalfClose`](super::limits::HalfClose).

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::close_reason::CloseReason;
use super::connection::{Connection, Pending, refuse_interim};
use super::limits::Pace;
use crate::buf::{Part, PoolBox};
use crate::http::h1::{self, Event};
use crate::http::{Fault, Head};
use crate::rt::{contain, peer_now_ms};
use crate::service::{Body, Inlet, Piece, Response};

/// An answer's body is pulled while fewer bytes than this are owed.
const OWED_BYTES_MAX: usize = 128 << 10;
/// What arrives for an answer's body is gathered to so many bytes for one send. With more, few
/// connections would hold all blocks that there are to receive into.
const RELAYED_BYTES_MAX: usize = 32 << 10;
/// So often in a row an answer's body may go on, a part or a send at a time, while its client takes
/// whatever comes; then others have their turn. A span of a file takes as long as all of these.
const ROUNDS_MAX: u32 = 4;
/// Pieces of a request's body that are handed over in a row: tiny chunks cost much more than their
/// bytes tell. Then the task yields.
const PIECES_MAX: u32 = 1024;
/// Of a request's body that nobody read, so much is received to keep the connection.
const DISCARD_BYTES_MAX: u64 = 64 << 10;

/// Brings an exchange to its end.
pub(super) async fn run<F: Future<Output = Response>>(
    connection: &mut Connection,
    pending: Pending<F>,
) -> Result<(), CloseReason> {
    let Pending {
        mut call,
        answer,
        incoming,
    } = pending;
    let mut pump = Pump {
        connection,
        incoming,
        pace: None,
        paused_ms: None,
        pieces_left: 0,
    };
    let outcome = async {
        let mut answer = match answer {
            Some(answer) => *answer,
            None => poll_fn(|context| pump.poll_answer(&mut call, context)).await?,
        };
        poll_fn(|context| Poll::Ready(pump.begin_answer(&answer, context))).await?;
        if !pump.connection.http.body_allowed() {
            answer.body().forgo();
        }
        let mut body = Some(std::mem::take(answer.body()));
        poll_fn(|context| pump.poll_body(&mut body, context)).await
    }
    .await;
    pump.connection.link.clear_recv_deadline();
    outcome
}

/// Moves bytes in both directions while an exchange runs.
struct Pump<'a> {
    connection: &'a mut Connection,
    /// The way of the request's body to its reader, until nobody reads it or the answer is out.
    incoming: Option<Inlet>,
    /// The progress of the request's body, once it was asked for.
    pace: Option<Pace>,
    /// Since when nobody asks for more of it.
    paused_ms: Option<u64>,
    /// Pieces that may still be handed over before the task yields.
    pieces_left: u32,
}

impl Pump<'_> {
    /// Drives the call until it answers.
    fn poll_answer<F: Future<Output = Response>>(
        &mut self,
        call: &mut Option<Pin<PoolBox<F>>>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Response, CloseReason>> {
        self.pieces_left = PIECES_MAX;
        loop {
            self.forget_own_reader(context);
            let polled = contain(|| poll_call(call, context));
            let polled = polled.ok_or_else(|| self.connection.service_panicked())?;
            if let Poll::Ready(answer) = polled {
                return Poll::Ready(refuse_interim(&answer).map(|()| answer));
            }
            let received = self.receive(context)?;
            // Answers to earlier requests do not wait for this one.
            let _ = self.connection.poll_flush(context)?;
            if self.pieces_left == 0 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !received {
                self.connection.link.wait(context);
                return Poll::Pending;
            }
        }
    }

    /// Encodes the answer's head. A request's body that is not passed on decides on persistence.
    fn begin_answer(
        &mut self,
        answer: &Response,
        context: &Context<'_>,
    ) -> Result<(), CloseReason> {
        // All that has arrived, for the head cannot wait for another turn.
        self.pieces_left = u32::MAX;
        if let Some(incoming) = &self.incoming {
            if answer.passes_on(incoming) {
                // An error in these bytes is still answered with its status.
                self.hand_over_arrived(context)?;
                // The client sends the rest only when it is asked to.
                self.connection.encode_continue();
            } else {
                let can_discard = can_discard(incoming);
                if incoming.has_reader() {
                    // Nothing is received for it once the answer is out, be it before its turn.
                    self.hand_over(context)?;
                } else {
                    self.incoming = None;
                    self.skip_received()?;
                }
                let http = &mut self.connection.http;
                if http.wants_continue() {
                    // Who was not told to go on need not send it, so nobody is to wait for it.
                    self.incoming = None;
                }
                if !http.request_complete() && !can_discard {
                    http.close_after();
                }
            }
        }
        self.connection.encode_head(answer);
        Ok(())
    }

    /// Drives the answer's body until all of it is sent.
    fn poll_body(
        &mut self,
        body: &mut Option<Body>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        self.pieces_left = PIECES_MAX;
        for _ in 0..ROUNDS_MAX {
            let mut progress = self.pull(body, context)?;
            while body.is_some()
                && self.pieces_left > 0
                && self.receive_beside(body.as_ref(), context)?
            {
                progress = true;
                let gathered = self.connection.link.outbox.len();
                if gathered >= RELAYED_BYTES_MAX || !self.pull(body, context)? {
                    break;
                }
            }
            let (was_full, is_span) = (
                !self.has_room(body.as_ref()),
                self.connection.link.outbox.ends_in_file(),
            );
            let flushed = self.connection.poll_flush(context)?;
            if body.is_none() && flushed.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if is_span && flushed.is_ready() || self.pieces_left == 0 {
                break;
            }
            progress |= was_full && self.has_room(body.as_ref());
            if !progress {
                self.connection.link.wait(context);
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Queues what the answer's body has, while there is room. False: nothing.
    fn pull(
        &mut self,
        body: &mut Option<Body>,
        context: &mut Context<'_>,
    ) -> Result<bool, CloseReason> {
        self.forget_own_reader(context);
        let mut progress = false;
        while self.has_room(body.as_ref())
            && let Some(source) = body
        {
            match source.poll_piece(context) {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(Piece::Part(part)))) => self.connection.encode_part(part)?,
                Poll::Ready(Ok(Some(Piece::Span(span)))) => {
                    self.connection.encode_span(span)?;
                    return Ok(true);
                }
                Poll::Ready(Ok(None)) => {
                    *body = None;
                    self.connection.link.clear_recv_deadline();
                    self.connection.encode_end()?;
                }
                Poll::Ready(Err(_)) => return Err(CloseReason::ServiceFailed),
            }
            progress = true;
        }
        Ok(progress)
    }

    /// Whether more of the answer's `body` can be queued. At a bound of the worker's memory only if
    /// nothing is owed: a client that does not read gets no more memory, and every client that
    /// reads makes progress.
    fn has_room(&self, body: Option<&Body>) -> bool {
        let Connection { link, shared, .. } = &*self.connection;
        let is_scarce =
            shared.is_memory_scarce() || body.is_some_and(|body| body.is_short_of_memory());
        let owed_bytes_max = body.map_or(usize::MAX, Body::owed_bytes_max);
        let has_room = match is_scarce {
            true => !link.owes(),
            false => link.outbox.len() < OWED_BYTES_MAX.min(owed_bytes_max),
        };
        has_room && !link.ends_in_file()
    }

    /// Only what the body's reader asks for in this very poll counts, if it runs in this task.
    fn forget_own_reader(&self, context: &Context<'_>) {
        if let Some(incoming) = &self.incoming {
            incoming.forget_own_reader(context);
        }
    }

    /// Receives the request's body while it is asked for. True: something was handed over, or
    /// nothing will be any more.
    fn receive(&mut self, context: &mut Context<'_>) -> Result<bool, CloseReason> {
        let incoming = self.incoming.as_ref();
        if !incoming
            .is_some_and(|incoming| !incoming.is_finished() && incoming.poll_wanted(context))
        {
            if self.pace.is_some() {
                self.paused_ms.get_or_insert_with(peer_now_ms);
            }
            self.connection.link.clear_recv_deadline();
            let half_close = self.connection.shared.limits.half_close;
            self.connection.link.check_peer(context, half_close)?;
            return Ok(false);
        }
        loop {
            if self.hand_over(context)? {
                return Ok(true);
            }
            let connection = &mut *self.connection;
            connection.encode_continue();
            let now_ms = peer_now_ms();
            let pace = self.pace.get_or_insert_with(|| Pace::start(now_ms));
            if let Some(since_ms) = self.paused_ms.take() {
                pace.paused(now_ms - since_ms);
            }
            let (link, limits) = (&mut connection.link, &connection.shared.limits);
            let mut filled = link.poll_fill(context);
            if filled.is_pending() {
                let rate = limits.bytes_per_second_min;
                link.set_recv_deadline(pace.deadline_ms(limits.body_timeout_ms, rate));
                if link.is_overdue() {
                    let reason = CloseReason::Fault(Fault::BodyTimeout);
                    filled = Poll::Ready(link.fill_overdue(context, reason));
                }
            }
            if let Poll::Ready(received) = filled {
                let received = received?;
                if received == 0 {
                    connection
                        .http
                        .receive_eof(link.inbox.unread())
                        .map_err(CloseReason::Fault)?;
                }
                pace.moved(u32::try_from(received).expect("a block is small"), now_ms);
                continue;
            }
            return Ok(false);
        }
    }

    /// Receives the request's body while the answer flows. An error in it concerns only the body's
    /// reader, unless the answer is this very body: the answer goes on, and the connection closes
    /// after it.
    fn receive_beside(
        &mut self,
        body: Option<&Body>,
        context: &mut Context<'_>,
    ) -> Result<bool, CloseReason> {
        match (self.receive(context), &self.incoming) {
            (Err(CloseReason::Fault(_)), Some(incoming))
                if !body.is_some_and(|body| body.comes_by(incoming)) =>
            {
                self.connection.http.refuse();
                // Its reader is told that the body is incomplete.
                self.incoming = None;
                Ok(true)
            }
            (received, _) => received,
        }
    }

    /// Hands the reader what is known to have arrived of the body, up to a limit.
    fn hand_over_arrived(&mut self, context: &Context<'_>) -> Result<(), CloseReason> {
        let mut received = 0;
        self.hand_over(context)?;
        while received < RELAYED_BYTES_MAX
            && !self.connection.http.request_complete()
            && self.connection.link.stream().has_more()
            && let Poll::Ready(filled) = self.connection.link.poll_fill(context)
        {
            received += filled?;
            self.hand_over(context)?;
        }
        Ok(())
    }

    /// Hands the reader what the inbox has of the body. False: nothing.
    fn hand_over(&mut self, context: &Context<'_>) -> Result<bool, CloseReason> {
        let Some(incoming) = &self.incoming else {
            return Ok(false);
        };
        let mut handed = false;
        loop {
            let Connection {
                http, link, shared, ..
            } = &mut *self.connection;
            let step = next_piece(http, link.inbox.unread(), &shared.limits.h1);
            match step? {
                (used, Event::Data(range)) => {
                    let mut part = Part::Static(b"");
                    link.inbox.take(used, &mut part);
                    part.truncate(range.end);
                    part.advance(range.start);
                    incoming.push(part, context);
                    handed = true;
                    self.pieces_left -= 1;
                    if self.pieces_left == 0 {
                        return Ok(true);
                    }
                }
                (used, Event::End) => {
                    link.inbox.consume(used);
                    incoming.finish(context);
                    return Ok(true);
                }
                // A chunk's framing, but no content yet.
                (used, Event::NeedData) if used > 0 => link.inbox.consume(used),
                _ => return Ok(handed),
            }
        }
    }

    /// Drops what the inbox has of a body that nobody will read.
    fn skip_received(&mut self) -> Result<(), CloseReason> {
        let Connection {
            http, link, shared, ..
        } = &mut *self.connection;
        while !http.request_complete() {
            let step = next_piece(http, link.inbox.unread(), &shared.limits.h1);
            match step? {
                (0, _) => break,
                (used, _) => link.inbox.consume(used),
            }
        }
        Ok(())
    }
}

/// Polls a call of the service, which is dropped once it has answered.
fn poll_call<F: Future<Output = Response>>(
    call: &mut Option<Pin<PoolBox<F>>>,
    context: &mut Context<'_>,
) -> Poll<Response> {
    let running = call.as_mut().expect("a call is polled until it answers");
    let answer = running.as_mut().poll(context);
    if answer.is_ready() {
        *call = None;
    }
    answer
}

/// What follows in the request's body: no head before the answer is out.
fn next_piece(
    http: &mut h1::Connection,
    unread: &[u8],
    limits: &h1::Limits,
) -> Result<(usize, Event), CloseReason> {
    let step = http.next_event(unread, limits, &mut Head::new());
    step.map_err(CloseReason::Fault)
}

/// Whether the answer of a request that was not read to its end may leave the connection open:
/// the rest must be known to be little.
fn can_discard(incoming: &Inlet) -> bool {
    incoming
        .left()
        .is_some_and(|left| left <= DISCARD_BYTES_MAX)
}
