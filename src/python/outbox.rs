//! The sending side of a socket of messages. A message that the socket does not take at once waits
//! in a queue, in order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::engine::Descriptor;
use crate::net::{Events, Polling};
use crate::rt::{Event, spawn_detached};
use crate::task::time::{sleep, timeout};

/// How often a message is tried again that the kernel has no memory for, or whose descriptor would
/// be one too many of this user's in sockets: nothing tells when that has passed. Nothing that the
/// kernel lacks for a while makes a socket unusable.
const RETRY: Duration = Duration::from_millis(50);

/// A message with the descriptor that it carries.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptor: Option<Rc<OwnedFd>>,
}

/// A socket, and the messages that wait for room in it.
#[derive(Debug)]
pub(super) struct Outbox {
    socket: RefCell<Descriptor>,
    queue: RefCell<VecDeque<Outgoing>>,
    is_flushing: Cell<bool>,
    /// The other end cannot receive any more.
    is_broken: Cell<bool>,
    /// Happens when no message waits any more, or none can be sent.
    room: RefCell<Option<Rc<Event>>>,
}

impl Outbox {
    /// Sends to a socket of the type `SOCK_SEQPACKET`.
    pub(super) fn new(socket: Descriptor) -> Self {
        Self {
            socket: RefCell::new(socket),
            queue: RefCell::default(),
            is_flushing: Cell::new(false),
            is_broken: Cell::new(false),
            room: RefCell::default(),
        }
    }

    /// Messages that wait for room.
    pub(super) fn queued(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Whether the other end cannot receive any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    /// Waits until no message waits for room. For senders of many messages: the queue has no bound.
    pub(super) async fn room(&self) {
        if self.queued() > 0 {
            let event = self.room.borrow_mut().get_or_insert_default().clone();
            event.wait().await;
        }
    }

    /// Takes the messages that wait. Nothing is sent any more.
    pub(super) fn close(&self) -> impl Iterator<Item = Outgoing> {
        self.is_broken.set(true);
        self.tell_room();
        self.queue.take().into_iter()
    }

    fn tell_room(&self) {
        let room = self.room.borrow_mut().take();
        room.inspect(|event| event.fire());
    }

    /// Sends a message now, or as soon as the socket has room for it. If the other end cannot
    /// receive it any more, it waits for another socket, or for another worker.
    pub(super) fn send(self: &Rc<Self>, message: Outgoing) {
        if self.queue.borrow().is_empty() && self.try_send(&message) {
            return;
        }
        self.queue.borrow_mut().push_back(message);
        self.start_flushing();
    }

    /// Sends what waits, and all further messages, to another socket.
    pub(super) fn reopen(self: &Rc<Self>, socket: OwnedFd) {
        self.socket.replace(Descriptor::new(socket));
        self.is_broken.set(false);
        self.start_flushing();
    }

    fn start_flushing(self: &Rc<Self>) {
        if !self.is_broken.get() && !self.is_flushing.replace(true) {
            let outbox = self.clone();
            spawn_detached(async move { outbox.flush().await });
        }
    }

    /// Whether the message is sent.
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
            return match sendmsg(&*self.socket.borrow(), &bytes, &mut ancillary, flags) {
                Ok(_) => true,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS) => false,
                Err(_) => {
                    self.is_broken.set(true);
                    false
                }
            };
        }
    }

    async fn flush(&self) {
        self.flush_queue().await;
        self.is_flushing.set(false);
        self.tell_room();
    }

    async fn flush_queue(&self) {
        loop {
            // It shares the descriptor: there may be no other one.
            let socket = self.socket.borrow().clone();
            let mut polling = Polling::sharing(&socket, Events::WRITABLE);
            while self.is_open(&socket) {
                self.send_queued();
                if self.queue.borrow().is_empty() || self.is_broken.get() {
                    return;
                }
                if let Ok(Err(_)) = timeout(RETRY, polling.ready()).await {
                    // The kernel cannot wait for it now.
                    sleep(RETRY).await;
                    break;
                }
            }
        }
    }

    /// Whether messages still go to this socket.
    fn is_open(&self, socket: &Descriptor) -> bool {
        socket.as_fd().as_raw_fd() == self.socket.borrow().as_fd().as_raw_fd()
    }

    /// Sends what waits, as far as there is room.
    fn send_queued(&self) {
        loop {
            let Some(first) = self.queue.borrow_mut().pop_front() else {
                return;
            };
            if !self.try_send(&first) {
                self.queue.borrow_mut().push_front(first);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{
        AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType, recv, shutdown, socketpair,
    };

    use super::*;
    use crate::task::run::run;
    use crate::task::time::sleep;

    fn pair() -> (OwnedFd, OwnedFd) {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        socketpair(AddressFamily::UNIX, kind, flags, None).expect("a pair")
    }

    /// The number in each message that has arrived.
    fn received(far: &OwnedFd) -> Vec<u8> {
        let mut buffer = [0; 8192];
        let mut numbers = Vec::new();
        while let Ok((_, 1..)) = recv(far, &mut buffer[..], RecvFlags::DONTWAIT) {
            numbers.push(buffer[0]);
        }
        numbers
    }

    #[test]
    fn what_a_socket_did_not_take_goes_to_the_next_one_in_order() {
        run(async {
            for is_full in [false, true] {
                let (near, far) = pair();
                let outbox = Rc::new(Outbox::new(Descriptor::new(near)));
                let count = if is_full { 250 } else { 10 };
                for number in 0..count {
                    if number == count / 2 {
                        sleep(Duration::from_millis(1)).await;
                        shutdown(&far, Shutdown::Both).expect("a shutdown");
                    }
                    outbox.send(Outgoing {
                        bytes: vec![number; 4096],
                        descriptor: None,
                    });
                }
                let mut all = received(&far);
                assert_eq!(all.len() < usize::from(count / 2), is_full);
                sleep(Duration::from_millis(1)).await;
                let (near, far) = pair();
                outbox.reopen(near);
                while all.len() < usize::from(count) {
                    sleep(Duration::from_millis(1)).await;
                    all.extend(received(&far));
                }
                assert_eq!(all, (0..count).collect::<Vec<u8>>());
            }
        });
    }
}
