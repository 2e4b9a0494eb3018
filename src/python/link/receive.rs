//! The messages of workers, and what each of them changes.

use std::rc::Rc;

use bytes::Bytes;
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{RecvFlags, recv};

use super::{Link, Peer};
use crate::messages;
use crate::python::message::{self, Id, Message, ResponseHead};
use crate::python::slots::{Failure, Slot, StartedResponse, State};
use crate::python::stream::Incoming;
use crate::service::{Body, Response};
use crate::sys::mutants::mutate;

impl Link {
    /// Takes the messages that a worker has sent until now. Further ones, which it may send at the
    /// same time, are left for the next call: a worker that never stops cannot hold the core.
    pub(super) fn collect(&self, peer: &Peer) {
        let mut buffer = self.buffer.borrow_mut();
        // Empty messages count as nothing, and so does the end of a socket that was shut down. Both
        // are found to be invalid.
        let mut left = ioctl_fionread(&peer.data).unwrap_or(0).max(1);
        while left > 0 && !peer.is_condemned.get() {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match recv(&peer.data, &mut buffer[..], flags) {
                Ok((_, len)) => {
                    left = left.saturating_sub(len as u64);
                    // One that is longer than the buffer is too long without its rest, too.
                    self.receive(peer, &buffer[..len.min(buffer.len())]);
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Takes one message of a worker.
    pub(super) fn receive(&self, peer: &Peer, bytes: &[u8]) {
        match message::parse(bytes) {
            Ok(message) => self.take(peer, message),
            Err(malformed) => peer.refuse(&malformed),
        }
    }

    fn take(&self, peer: &Peer, message: Message<'_>) {
        let id = message.id();
        if let Message::Fenced { .. } = message {
            let fence = self.fence.borrow_mut().take_if(|(other, _)| *other == id);
            if let Some((_, event)) = fence {
                event.fire();
            }
            return;
        }
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get(id).filter(|slot| slot.may_be_of(peer.number)) else {
            return;
        };
        match message {
            Message::Head {
                status,
                head,
                body,
                is_whole,
                ..
            } => {
                drop(slots);
                self.begin(peer, id, (status, head), body, is_whole);
                if is_whole {
                    self.end(id, true);
                }
            }
            Message::Body { body, is_last, .. } => {
                let has_head = !matches!(slot.state, State::Waiting(_));
                let incoming = slot.incoming.clone();
                let is_refused =
                    incoming.is_some_and(|incoming| !incoming.push(Bytes::copy_from_slice(body)));
                drop(slots);
                if is_refused {
                    peer.refuse(&"it is beyond the credit of its response");
                    self.cut(id);
                }
                match is_last {
                    true if has_head => self.end(id, true),
                    // It will not get one any more.
                    true => self.fail(id, Failure::Invalid),
                    false => {}
                }
            }
            Message::Abort { .. } => {
                drop(slots);
                self.fail(id, Failure::Invalid);
            }
            Message::Expired { .. } => {
                drop(slots);
                self.fail(id, Failure::Expired);
            }
            Message::Want { size, .. } => {
                let upload = slot.upload.clone();
                drop(slots);
                upload.inspect(|upload| upload.add(size));
            }
            Message::Begun { size, .. } => slot.waited = Some(size),
            Message::Fenced { .. } => {}
        }
    }

    /// The head of a response has come.
    fn begin(&self, peer: &Peer, id: Id, head: (u16, &[u8]), body: &[u8], is_whole: bool) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get(id) else { return };
        slot.worker = Some(peer.number);
        let has_response = slot.incoming.is_some() || matches!(slot.state, State::Responded(_));
        if mutate!(SecondHead, false, has_response) {
            drop(slots);
            return peer.refuse(&"its request has a response already");
        }
        let is_wanted = mutate!(SecondHead, true, matches!(slot.state, State::Waiting(_)));
        let is_complete = is_whole && !slot.is_head;
        let waited = slot.waited;
        drop(slots);
        if is_wanted {
            let mut outcome = self.response(head, body, is_complete);
            if self.notes_for_log.get() {
                outcome = outcome.map(|started| with_notes(started, peer.number, waited));
            }
            let incoming = outcome
                .as_ref()
                .ok()
                .and_then(|started| started.rest.as_ref());
            let incoming = incoming.map(|(incoming, _)| incoming.clone());
            if let Some(slot) = self.slots.borrow_mut().get(id) {
                slot.incoming = incoming;
            }
            if self.deliver(id, outcome) {
                return;
            }
        }
        if !is_whole {
            peer.tell_unwanted(id);
        }
    }

    /// No more of a response's body is passed on, and its client's connection is cut.
    fn cut(&self, id: Id) {
        let slot_incoming = |slot: &mut Slot| slot.incoming.take();
        let incoming = self.slots.borrow_mut().get(id).and_then(slot_incoming);
        incoming.inspect(|incoming| incoming.end(false));
    }

    /// Hands the outcome to the call. `false`: there is no call that waits, or no response.
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
        let (incoming, upload) = (slot.incoming.take(), slot.upload.take());
        let mut is_room = false;
        if let Some(peer) = slot.worker.take().and_then(|number| self.peer(number)) {
            peer.running.set(peer.running.get().saturating_sub(1));
            is_room = true;
        }
        slot.share = None;
        slot.is_ended = true;
        if matches!(slot.state, State::Over) {
            slots.remove(id);
        }
        drop(slots);
        upload.inspect(|upload| upload.close());
        if let Some(incoming) = incoming {
            incoming.end(is_whole);
        }
        if is_room {
            self.admit();
        }
    }

    /// There will be no response, or no more of it.
    pub(super) fn fail(&self, id: Id, failure: Failure) {
        self.deliver(id, Err(failure));
        self.end(id, false);
    }

    pub(super) fn fail_where(&self, failure: Failure, is_lost: impl Fn(Id, &Slot) -> bool) {
        let slots = self.slots.borrow();
        let lost = slots
            .iter()
            .filter(|(id, slot)| !slot.is_ended && is_lost(*id, slot));
        let lost: Vec<Id> = lost.map(|(id, _)| id).collect();
        drop(slots);
        for id in lost {
            self.fail(id, failure);
        }
    }

    /// The response that a head begins, if the head is valid.
    fn response(
        &self,
        (status, head): (u16, &[u8]),
        body: &[u8],
        is_complete: bool,
    ) -> Result<StartedResponse, Failure> {
        match message::parse_head(status, head) {
            Ok(head) => Ok(self.started(head, body, is_complete)),
            Err(invalid) => {
                messages::report(format_args!(
                    "the application's response is not valid: {invalid}; its client gets 502"
                ));
                Err(Failure::Invalid)
            }
        }
    }

    /// The response of a head. The rest of its body is still to come unless `is_complete`.
    fn started(&self, head: ResponseHead, body: &[u8], is_complete: bool) -> StartedResponse {
        let mut response = Response::new(head.status).with_field_lines(Rc::new(head.lines));
        if let Some(reason) = head.reason {
            response = response.with_reason(reason);
        }
        let body = Bytes::copy_from_slice(body);
        if is_complete && head.length.is_none_or(|length| length == body.len() as u64) {
            let response = match body.is_empty() && head.length.is_none() {
                // Of HEAD the application may have left it out.
                true => response,
                false => response.with_body(body),
            };
            return StartedResponse {
                response,
                rest: None,
            };
        }
        // A length that is stated is held against the body, or sent without one (HEAD).
        let (mut sender, channel) = Body::channel_within(&self.memory, self.response_bytes_max);
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
}

/// Notes for the access log which worker responds, and how long the request waited for it, in µs.
fn with_notes(started: StartedResponse, worker: u32, waited: Option<u32>) -> StartedResponse {
    let mut response = started.response.with_log_note("worker", worker.to_string());
    if let Some(waited) = waited {
        let (seconds, micros) = (waited / 1_000_000, waited % 1_000_000);
        response = response.with_log_note("queue", format!("{seconds}.{micros:06}"));
    }
    StartedResponse {
        response,
        ..started
    }
}
