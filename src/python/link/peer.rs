//! A worker, as a core sees it. Nothing that it does is relied on: it runs code that coring does
//! not know, which may write to its sockets, shut them, or not read from them.

use std::cell::Cell;
use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::io::pread;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use rustix::process::{Signal, pidfd_send_signal};

use super::{Dispatch, Joined};
use crate::engine::Descriptor;
use crate::messages;
use crate::python::marshal::Marshal;
use crate::python::message::{Id, MESSAGE_BYTES_MAX};
use crate::python::outbox::{Outbox, Outgoing};
use crate::rt::Event;

/// Bytes of the page in which a worker's threads mark their requests, 16 for each.
pub(in crate::python) const PAGE_BYTES: usize = 4096;
const MARK_BYTES: usize = 16;
/// A worker that has sent this many messages which are not valid to a core is ended.
const INVALID_MAX: u32 = 1024;
/// How many of them are reported.
const INVALID_REPORTED: u32 = 8;
/// A worker is ended if this many messages to it wait for room in its socket.
const UNREAD_MAX: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) number: u32,
    /// Requests that it runs at a time, of those that this core gives it.
    pub(super) width: u32,
    pub(super) dispatch: Dispatch,
    pub(super) outbox: Rc<Outbox>,
    /// The near end of its socket for this core.
    pub(super) data: Descriptor,
    /// The far end of it.
    far: OwnedFd,
    page: OwnedFd,
    process: Option<OwnedFd>,
    /// Requests that it was given and has not answered in full; for `Dispatch::Each`.
    pub(super) running: Cell<u32>,
    /// It gets no further requests.
    pub(super) is_retired: Cell<bool>,
    /// Messages of it that were not valid.
    invalid: Cell<u32>,
    /// It was killed, and nothing more is taken from it.
    pub(super) is_condemned: Cell<bool>,
    /// Happens when the supervisor has said that it ended.
    pub(super) end: Rc<Event>,
}

impl Peer {
    /// A worker that is ready, and its bell.
    pub(super) fn new(joined: Joined) -> (Self, OwnedFd) {
        let data = Descriptor::new(joined.data);
        let peer = Self {
            number: joined.number,
            width: joined.width,
            dispatch: joined.dispatch,
            outbox: Rc::new(Outbox::new(data.clone())),
            data,
            far: joined.far,
            page: joined.page,
            process: joined.process,
            running: Cell::new(0),
            is_retired: Cell::new(false),
            invalid: Cell::new(0),
            is_condemned: Cell::new(false),
            end: Rc::default(),
        };
        (peer, joined.bell)
    }

    /// Sends a message. A worker that cannot or does not receive is ended.
    pub(super) fn send(&self, message: Outgoing) {
        self.outbox.send(message);
        if self.outbox.is_broken() {
            self.condemn(&"its socket was shut down");
        } else if self.outbox.queued() > UNREAD_MAX {
            self.condemn(&format_args!("it has not read {UNREAD_MAX} messages"));
        }
    }

    /// Sends a short message.
    pub(super) fn tell(&self, write: impl FnOnce(&mut Marshal)) {
        let mut message = Marshal::with_capacity(64);
        write(&mut message);
        self.send(Outgoing {
            bytes: message.into_bytes(),
            descriptor: None,
        });
    }

    pub(super) fn tell_drain(&self) {
        self.tell(|message| {
            message.tuple(1);
            message.int(4);
        });
    }

    /// The response to a request is not wanted any more.
    pub(super) fn tell_unwanted(&self, id: Id) {
        self.tell(|message| {
            message.tuple(2);
            message.int(2);
            message.bytes(&id);
        });
    }

    /// It has sent a message that is not valid. Some of them are reported; a worker that sends many
    /// is ended.
    pub(super) fn refuse(&self, what: &dyn fmt::Display) {
        let count = self.invalid.get() + 1;
        self.invalid.set(count);
        if count <= INVALID_REPORTED {
            let number = self.number;
            let further = match count {
                INVALID_REPORTED => "; further ones are not reported",
                _ => "",
            };
            messages::report(format_args!(
                "worker {number} has sent a message that is dropped: {what}; does the application \
                 write to descriptors that it has not opened?{further}"
            ));
        }
        if count >= INVALID_MAX {
            self.condemn(&format_args!(
                "it has sent {INVALID_MAX} messages that are not valid"
            ));
        }
    }

    /// Kills the worker, or ends the link with it if its process is not coring's own. The
    /// supervisor notices that, and starts another one.
    fn condemn(&self, why: &dyn fmt::Display) {
        if self.is_condemned.replace(true) {
            return;
        }
        match &self.process {
            Some(process) => {
                messages::report(format_args!("worker {} is killed: {why}", self.number));
                // It fails if the worker has ended by now.
                let _ = pidfd_send_signal(process, Signal::KILL);
            }
            None => {
                messages::report(format_args!("the link to the program is ended: {why}"));
                let _ = shutdown(&self.data, Shutdown::Both);
            }
        }
    }

    /// The requests that its threads have marked.
    pub(super) fn marks(&self) -> Vec<Id> {
        let mut bytes = [0; PAGE_BYTES];
        // A page that cannot be read has no marks: its worker's requests are found to be lost.
        let len = pread(&self.page, &mut bytes, 0).unwrap_or(0);
        let marks = bytes[..len].chunks_exact(MARK_BYTES).map(|mark| {
            let mut id = Id::default();
            id.copy_from_slice(&mark[..8]);
            id
        });
        marks.filter(|id| *id != Id::default()).collect()
    }

    /// The messages that it has not received, when it is dead: they are read from its own end of
    /// the socket, and those that had no room follow.
    pub(super) fn take_unreceived(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        while let Ok((_, len @ 1..)) = recv(&self.far, &mut buffer[..], RecvFlags::DONTWAIT) {
            frames.push(buffer[..len].to_vec());
        }
        frames.extend(self.outbox.close().map(|message| message.bytes));
        frames
    }
}
