//! Messages with descriptors, as coroutines send and receive them. On the ring each message is an
//! operation. On epoll each attempt is a system call that does not wait. On both, an attempt that
//! would block is repeated once a poll reports that the socket is ready.
//!
//! A message in flight outlives the future that began it. So a dropped receive loses no message,
//! and messages leave in order.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use super::descriptor::Descriptor;
use super::handle::{Polling, ScopedId};
use super::op::{Events, Message, OpId, RecvMessage, SendMessage};
use super::worker::Engine;
use crate::buf::Part;

/// A message in flight.
#[derive(Debug)]
enum InFlight<Direct> {
    /// An operation on the ring.
    Ring(OwnedId),
    /// Attempts by system calls.
    Direct(Box<Direct>),
}

/// An operation's id. Dropping it ends the operation.
#[derive(Debug)]
struct OwnedId(ScopedId);

impl Drop for OwnedId {
    fn drop(&mut self) {
        self.0.end(|engine, id| {
            if let Engine::Uring(uring) = engine {
                uring.0.orphan(id);
            }
        });
    }
}

/// A socket, and whether the next attempt must wait until the socket is ready.
#[derive(Debug)]
struct Readiness {
    socket: Descriptor,
    polling: Polling,
    must_wait: bool,
}

impl Readiness {
    fn new(socket: Descriptor, interest: Events) -> Self {
        Self {
            polling: Polling::new(socket.clone(), interest),
            socket,
            must_wait: false,
        }
    }

    /// Ready when the next attempt may succeed, or when the socket cannot be polled.
    fn poll(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        if self.must_wait {
            let events = ready!(self.polling.poll_events(context));
            self.must_wait = false;
            events?;
        }
        Poll::Ready(Ok(()))
    }

    /// Notes the result of an attempt. True: it would have blocked, and must be repeated.
    fn must_retry<T>(&mut self, result: &io::Result<T>) -> bool {
        let would_block = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.must_wait = result.as_ref().is_err_and(would_block);
        self.must_wait
    }
}

/// The receiving half of a socket that preserves message boundaries.
#[derive(Debug)]
pub struct MessageReceiver {
    in_flight: Option<InFlight<RecvMessage>>,
    readiness: Readiness,
}

impl MessageReceiver {
    pub fn new(socket: Descriptor) -> Self {
        Self {
            in_flight: None,
            readiness: Readiness::new(socket, Events::READABLE),
        }
    }

    /// Begins to receive a message into the capacity of `buffer`. If a receive is in flight
    /// already, that one continues, and `buffer` is dropped.
    pub fn start(&mut self, buffer: Vec<u8>) {
        let socket = self.readiness.socket.clone();
        self.in_flight.get_or_insert_with(|| {
            self.readiness.polling.id().start(|engine| match engine {
                Engine::Uring(uring) => Ok(uring.0.start_recv_message(socket, buffer)),
                Engine::Epoll(_) => Err(RecvMessage::new(socket, buffer)),
            })
        });
    }

    /// The message of the receive in flight; `None` at the end of the stream.
    ///
    /// # Panics
    /// If no receive is in flight.
    pub fn poll_end(&mut self, context: &Context<'_>) -> Poll<io::Result<Option<Message>>> {
        loop {
            let in_flight = self.in_flight.as_mut().expect("a receive was begun");
            let ready = ready!(self.readiness.poll(context));
            let result = match (ready, in_flight) {
                (Err(error), _) => Err(error),
                (Ok(()), InFlight::Ring(OwnedId(id))) => {
                    ready!(id.with(|engine, id| match engine {
                        Engine::Uring(uring) => uring.0.poll_recv_message(id, context),
                        Engine::Epoll(_) => unreachable!("epoll has no message operations"),
                    }))
                }
                (Ok(()), InFlight::Direct(message)) => message.receive_now(),
            };
            if !self.readiness.must_retry(&result) {
                self.in_flight = None;
                return Poll::Ready(result);
            }
        }
    }

    /// Receives a message that has already arrived, without waiting.
    ///
    /// # Errors
    /// Those of recvmsg(2): `WouldBlock` if no message has arrived. `ResourceBusy` while a receive
    /// is in flight.
    pub fn receive_now(&mut self, buffer: Vec<u8>) -> io::Result<Option<Message>> {
        if self.in_flight.is_some() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        RecvMessage::new(self.readiness.socket.clone(), buffer).receive_now()
    }
}

/// The sending half of a socket that preserves message boundaries.
#[derive(Debug)]
pub struct MessageSender {
    in_flight: Option<InFlight<SendMessage>>,
    readiness: Readiness,
}

impl MessageSender {
    pub fn new(socket: Descriptor) -> Self {
        Self {
            in_flight: None,
            readiness: Readiness::new(socket, Events::WRITABLE),
        }
    }

    /// Begins to send a message. Only one send may be in flight.
    ///
    /// # Panics
    /// If a send is in flight.
    pub fn start(&mut self, bytes: Part, descriptors: Vec<OwnedFd>) {
        assert!(self.in_flight.is_none(), "a send is already in flight");
        let socket = self.readiness.socket.clone();
        let id = self.readiness.polling.id();
        self.in_flight = Some(id.start(|engine| match engine {
            Engine::Uring(uring) => Ok(uring.0.start_send_message(socket, bytes, descriptors)),
            Engine::Epoll(_) => Err(SendMessage::new(socket, bytes, descriptors)),
        }));
    }

    /// The result of the send in flight; ready at once if there is none.
    pub fn poll_end(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let Some(in_flight) = &mut self.in_flight else {
                return Poll::Ready(Ok(()));
            };
            let ready = ready!(self.readiness.poll(context));
            let result = match (ready, in_flight) {
                (Err(error), _) => Err(error),
                (Ok(()), InFlight::Ring(OwnedId(id))) => {
                    ready!(id.with(|engine, id| match engine {
                        Engine::Uring(uring) => uring.0.poll_send_message(id, context),
                        Engine::Epoll(_) => unreachable!("epoll has no message operations"),
                    }))
                }
                (Ok(()), InFlight::Direct(message)) => message.send_now(),
            };
            if !self.readiness.must_retry(&result) {
                self.in_flight = None;
                return Poll::Ready(result);
            }
        }
    }
}

impl ScopedId {
    /// Begins an operation in the run of this id: on the ring, or by system calls.
    fn start<Direct>(
        self,
        start: impl FnOnce(&Engine) -> Result<OpId, Direct>,
    ) -> InFlight<Direct> {
        match self.with(|engine, _| start(engine)) {
            Ok(id) => InFlight::Ring(OwnedId(self.sibling(id))),
            Err(direct) => InFlight::Direct(Box::new(direct)),
        }
    }
}
