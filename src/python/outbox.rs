//! The sending side of a socket of messages. A message that the socket does not take at once waits
//! in a queue, in order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::net::{Events, Polling};
use crate::rt::spawn_detached;

/// A message with the descriptor that it carries.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptor: Option<Rc<OwnedFd>>,
}

/// A socket, and the messages that wait for room in it.
#[derive(Debug)]
pub(super) struct Outbox {
    socket: OwnedFd,
    queue: RefCell<VecDeque<Outgoing>>,
    is_flushing: Cell<bool>,
    is_broken: Cell<bool>,
}

impl Outbox {
    /// Takes over a socket of the type `SOCK_SEQPACKET`.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            queue: RefCell::default(),
            is_flushing: Cell::new(false),
            is_broken: Cell::new(false),
        }
    }

    /// Messages that wait for room.
    pub(super) fn queued(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Sends a message now, or as soon as the socket has room for it. If the other end cannot
    /// receive it any more, it is dropped: the supervisor reports the end of workers.
    pub(super) fn send(self: &Rc<Self>, message: Outgoing) {
        if self.is_broken.get() {
            return;
        }
        if self.queue.borrow().is_empty() && self.try_send(&message) {
            return;
        }
        self.queue.borrow_mut().push_back(message);
        if !self.is_flushing.replace(true) {
            let outbox = self.clone();
            spawn_detached(async move { outbox.flush().await });
        }
    }

    /// The messages that wait for room. They are not sent any more.
    pub(super) fn take_queue(&self) -> VecDeque<Outgoing> {
        self.queue.take()
    }

    /// Whether the message is sent, or need not be.
    fn try_send(&self, message: &Outgoing) -> bool {
        let descriptors: Option<[BorrowedFd<'_>; 1]> =
            message.descriptor.as_ref().map(|fd| [fd.as_fd()]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(descriptors) = &descriptors {
            let has_room = ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
            debug_assert!(has_room, "the space is for one descriptor");
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let bytes = [IoSlice::new(&message.bytes)];
        loop {
            return match sendmsg(&self.socket, &bytes, &mut ancillary, flags) {
                Ok(_) => true,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => false,
                Err(_) => {
                    self.is_broken.set(true);
                    true
                }
            };
        }
    }

    async fn flush(&self) {
        let outcome = self.flush_queue().await;
        self.is_flushing.set(false);
        if outcome.is_err() || self.is_broken.get() {
            self.is_broken.set(true);
            self.queue.borrow_mut().clear();
        }
    }

    async fn flush_queue(&self) -> io::Result<()> {
        let mut polling = Polling::new(self.socket.try_clone()?, Events::WRITABLE);
        loop {
            loop {
                let Some(first) = self.queue.borrow_mut().pop_front() else {
                    return Ok(());
                };
                if !self.try_send(&first) {
                    self.queue.borrow_mut().push_front(first);
                    break;
                }
            }
            polling.ready().await?;
        }
    }
}
