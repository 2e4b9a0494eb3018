//! Messages as coroutines send and receive them: an operation of the ring's for each, or plain
//! calls that do not wait, and on either engine a poll where the socket is not ready.
//!
//! A message that is under way outlives the future that began it: so a receive that is given up
//! loses no message, and messages leave in order.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use super::descriptor::Descriptor;
use super::handle::{Name, Polling};
use super::op::{Events, Message, OpId, RecvMessage, SendMessage};
use super::worker::Engine;
use crate::buf::Part;

/// The operation that is under way.
#[derive(Debug)]
enum Current<Here> {
    /// On the ring.
    Ring(Owned),
    /// By plain calls.
    Here(Box<Here>),
}

/// A name whose operation ends with it.
#[derive(Debug)]
struct Owned(Name);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.end(|engine, id| {
            if let Engine::Uring(uring) = engine {
                uring.0.orphan(id);
            }
        });
    }
}

/// A socket, and whether to wait until it is ready for the next attempt.
#[derive(Debug)]
struct Readiness {
    socket: Descriptor,
    polling: Polling,
    is_awaited: bool,
}

impl Readiness {
    fn new(socket: Descriptor, interest: Events) -> Self {
        Self {
            polling: Polling::new(socket.clone(), interest),
            socket,
            is_awaited: false,
        }
    }

    /// Ready when an attempt is worth it.
    fn poll(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        if self.is_awaited {
            ready!(self.polling.poll_events(context))?;
            self.is_awaited = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the attempt must be repeated when the socket is ready.
    fn is_to_wait<T>(&mut self, result: &io::Result<T>) -> bool {
        let would_block = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.is_awaited = result.as_ref().is_err_and(would_block);
        self.is_awaited
    }
}

/// The receiving side of a socket that keeps the bounds of messages.
#[derive(Debug)]
pub struct MessageReceiver {
    current: Option<Current<RecvMessage>>,
    readiness: Readiness,
}

impl MessageReceiver {
    pub fn new(socket: Descriptor) -> Self {
        Self {
            current: None,
            readiness: Readiness::new(socket, Events::READABLE),
        }
    }

    /// Begins to receive a message, into the capacity of `buffer`; one that was begun before goes
    /// on instead.
    pub fn start(&mut self, buffer: Vec<u8>) {
        let socket = self.readiness.socket.clone();
        self.current.get_or_insert_with(|| {
            self.readiness.polling.name().start(|engine| match engine {
                Engine::Uring(uring) => Ok(uring.0.start_recv_message(socket, buffer)),
                Engine::Epoll(_) => Err(RecvMessage::new(socket, buffer)),
            })
        });
    }

    /// The message that was begun; none at the end of what the peer sends.
    ///
    /// # Panics
    /// When none was begun.
    pub fn poll_end(&mut self, context: &Context<'_>) -> Poll<io::Result<Option<Message>>> {
        loop {
            ready!(self.readiness.poll(context))?;
            let result = match self.current.as_mut().expect("a receive was begun") {
                Current::Ring(Owned(name)) => ready!(name.with(|engine, id| match engine {
                    Engine::Uring(uring) => uring.0.poll_recv_message(id, context),
                    Engine::Epoll(_) => unreachable!("a name of the ring's"),
                })),
                Current::Here(message) => message.receive_now(),
            };
            if !self.readiness.is_to_wait(&result) {
                self.current = None;
                return Poll::Ready(result);
            }
        }
    }

    /// The message that waits, without waiting for one.
    ///
    /// # Errors
    /// Those of recvmsg(2): `WouldBlock` if no message waits; `ResourceBusy` while a receive is
    /// under way.
    pub fn receive_now(&mut self, buffer: Vec<u8>) -> io::Result<Option<Message>> {
        if self.current.is_some() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        RecvMessage::new(self.readiness.socket.clone(), buffer).receive_now()
    }
}

/// The sending side of a socket that keeps the bounds of messages.
#[derive(Debug)]
pub struct MessageSender {
    current: Option<Current<SendMessage>>,
    readiness: Readiness,
}

impl MessageSender {
    pub fn new(socket: Descriptor) -> Self {
        Self {
            current: None,
            readiness: Readiness::new(socket, Events::WRITABLE),
        }
    }

    /// Begins to send a message. There is one at a time.
    ///
    /// # Panics
    /// When one is under way.
    pub fn start(&mut self, bytes: Part, descriptors: Vec<OwnedFd>) {
        assert!(self.current.is_none(), "one send at a time keeps the order");
        let socket = self.readiness.socket.clone();
        let name = self.readiness.polling.name();
        self.current = Some(name.start(|engine| match engine {
            Engine::Uring(uring) => Ok(uring.0.start_send_message(socket, bytes, descriptors)),
            Engine::Epoll(_) => Err(SendMessage::new(socket, bytes, descriptors)),
        }));
    }

    /// How the send that is under way ended, if one is.
    pub fn poll_end(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let Some(current) = &mut self.current else {
                return Poll::Ready(Ok(()));
            };
            ready!(self.readiness.poll(context))?;
            let result = match current {
                Current::Ring(Owned(name)) => ready!(name.with(|engine, id| match engine {
                    Engine::Uring(uring) => uring.0.poll_send_message(id, context),
                    Engine::Epoll(_) => unreachable!("a name of the ring's"),
                })),
                Current::Here(message) => message.send_now(),
            };
            if !self.readiness.is_to_wait(&result) {
                self.current = None;
                return Poll::Ready(result);
            }
        }
    }
}

impl Name {
    /// What `start` begins in the run of this name: on the ring, or here.
    fn start<Here>(self, start: impl FnOnce(&Engine) -> Result<OpId, Here>) -> Current<Here> {
        match self.with(|engine, _| start(engine)) {
            Ok(id) => Current::Ring(Owned(self.beside(id))),
            Err(here) => Current::Here(Box::new(here)),
        }
    }
}
