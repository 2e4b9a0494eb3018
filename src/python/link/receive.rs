//! The messages of workers, and what each of them changes.

use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::{Link, Peer, unwanted};
use crate::messages;
use crate::python::message::{self, Id, Message, ResponseHead};
use crate::python::slots::{Failure, Slot, StartedResponse, State};
use crate::python::stream::Incoming;
use crate::service::{Body, Response};

/// Bytes of a response that are taken from a worker ahead of its client.
const RESPONSE_BYTES_MAX: usize = 1 << 20;

impl Link {
    /// Takes all messages that a worker has sent.
    pub(super) fn collect(&self, peer: &Peer) {
        let mut buffer = self.buffer.borrow_mut();
        loop {
            match recv(&peer.data, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return,
                Ok((_, len)) => match message::parse(&buffer[..len]) {
                    Ok(message) => self.take(peer, message),
                    Err(malformed) => report(peer, &malformed),
                },
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn take(&self, peer: &Peer, message: Message<'_>) {
        match message {
            Message::Head {
                id,
                status,
                head,
                body,
                is_whole,
            } => {
                self.begin(peer, id, (status, head), body, is_whole);
                if is_whole {
                    self.end(id, true);
                }
            }
            Message::Body { id, body, is_last } => {
                let incoming = self
                    .slots
                    .borrow_mut()
                    .get(id)
                    .and_then(|slot| slot.incoming.clone());
                if let Some(incoming) = incoming
                    && !incoming.push(Bytes::copy_from_slice(body))
                {
                    report(peer, &"it is beyond the credit of its response");
                    incoming.end(false);
                }
                if is_last {
                    self.end(id, true);
                }
            }
            Message::Abort { id } => {
                self.deliver(id, Err(Failure::Invalid));
                self.end(id, false);
            }
            Message::Expired { id } => self.fail(id, Failure::Expired),
            Message::Fenced { id } => {
                let fence = self.fence.borrow_mut().take_if(|(other, _)| *other == id);
                if let Some((_, event)) = fence {
                    event.fire();
                }
            }
            Message::Want { id, size } => {
                let upload = self
                    .slots
                    .borrow_mut()
                    .get(id)
                    .and_then(|slot| slot.upload.clone());
                if let Some(upload) = upload {
                    upload.add(size);
                }
            }
        }
    }

    /// The head of a response has come.
    fn begin(&self, peer: &Peer, id: Id, head: (u16, &[u8]), body: &[u8], is_whole: bool) {
        let is_head = {
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.get(id) else { return };
            if slot.worker.is_none() {
                slot.worker = Some(peer.number);
            }
            if slot.incoming.is_some() || matches!(slot.state, State::Responded(_)) {
                drop(slots);
                return report(peer, &"its request has a response already");
            }
            slot.is_head
        };
        let outcome = match message::parse_head(head.0, head.1) {
            Ok(head) => Ok(started(head, body, is_whole && !is_head)),
            Err(invalid) => {
                messages::report(format_args!(
                    "the application's response is not valid: {invalid}; its client gets 502"
                ));
                Err(Failure::Invalid)
            }
        };
        if let Ok(started) = &outcome
            && let Some(slot) = self.slots.borrow_mut().get(id)
        {
            slot.incoming = started.rest.as_ref().map(|(incoming, _)| incoming.clone());
        }
        if !self.deliver(id, outcome) && !is_whole {
            unwanted(peer, id);
        }
    }

    /// Hands the outcome to the call. `false`: there is none that waits for a response to read.
    fn deliver(&self, id: Id, outcome: Result<StartedResponse, Failure>) -> bool {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get(id) else {
            return false;
        };
        let State::Waiting(waker) = &mut slot.state else {
            return false;
        };
        let (waker, is_response) = (waker.take(), outcome.is_ok());
        slot.state = State::Responded(outcome);
        drop(slots);
        if let Some(waker) = waker {
            waker.wake();
        }
        is_response
    }

    /// The worker will send no more for this request.
    fn end(&self, id: Id, is_whole: bool) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get(id) else { return };
        let incoming = slot.incoming.take();
        if let Some(peer) = slot.worker.take().and_then(|number| self.peer(number)) {
            peer.running.set(peer.running.get().saturating_sub(1));
        }
        slot.is_ended = true;
        if matches!(slot.state, State::Over) {
            slots.remove(id);
        }
        drop(slots);
        if let Some(incoming) = incoming {
            incoming.end(is_whole);
        }
    }

    /// There will be no response, or no more of it.
    pub(super) fn fail(&self, id: Id, failure: Failure) {
        self.deliver(id, Err(failure));
        self.end(id, false);
    }

    pub(super) fn fail_where(&self, is_lost: impl Fn(Id, &Slot) -> bool) {
        let slots = self.slots.borrow();
        let lost = slots
            .iter()
            .filter(|(id, slot)| !slot.is_ended && is_lost(*id, slot));
        let lost: Vec<Id> = lost.map(|(id, _)| id).collect();
        drop(slots);
        for id in lost {
            self.fail(id, Failure::WorkerDied);
        }
    }
}

/// The response of a head. The rest of its body is still to come unless `is_complete`.
fn started(head: ResponseHead, body: &[u8], is_complete: bool) -> StartedResponse {
    let mut response = Response::new(head.status).with_field_lines(Rc::new(head.lines));
    if let Some(reason) = head.reason {
        response = response.with_reason(reason);
    }
    let body = Bytes::copy_from_slice(body);
    if is_complete && head.length.is_none_or(|length| length == body.len() as u64) {
        let response = response.with_body(body);
        return StartedResponse {
            response,
            rest: None,
        };
    }
    // A length that is stated is held against the body, or sent without one (HEAD).
    let (mut sender, channel) = Body::channel(RESPONSE_BYTES_MAX);
    let incoming = Rc::new(Incoming::new(body.len()));
    sender.try_write(body).expect("an empty queue has room");
    let channel = match head.length {
        Some(length) => channel.with_length(length),
        None => channel,
    };
    StartedResponse {
        response: response.with_body(channel),
        rest: Some((incoming, sender)),
    }
}

fn report(peer: &Peer, what: &dyn fmt::Display) {
    let number = peer.number;
    messages::report(format_args!(
        "worker {number} has sent a message that is dropped: {what}; does the application write to \
         descriptors that it has not opened?"
    ));
}
