//! One core's link with nothing around it, for fuzz targets: no sockets are listened to, and the
//! messages of workers are handed over directly.

use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};

use super::peer::Peer;
use super::{Dispatch, Form, Joined, Link};
use crate::python::message::Id;
use crate::python::outbox::Outgoing;
use crate::python::request;
use crate::service::Response;

/// The longest message to a worker that is of interest here.
const TOLD_BYTES_MAX: usize = 4096;

/// See the module. It must be used within an executor.
pub struct LinkBench {
    link: Rc<Link>,
    workers: Vec<Worker>,
    shared: OwnedFd,
    is_shared: bool,
}

struct Worker {
    peer: Rc<Peer>,
    /// What it would receive from.
    data: OwnedFd,
}

/// A message to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// A request, or a part of one.
    Request,
    /// The response to the request may continue by a number of bytes.
    Grant([u8; 8], u32),
    /// The response is not wanted.
    Unwanted([u8; 8]),
    /// A fence, which is to be answered.
    Fence([u8; 8]),
}

impl LinkBench {
    /// A link to `workers` workers, which all receive from one socket if `is_shared`. `memory` is
    /// the most bytes of a response that are kept, and of all responses.
    ///
    /// # Panics
    /// If there are no descriptors left.
    pub fn new(workers: u32, is_shared: bool, memory: (usize, usize)) -> Self {
        let (near, shared) = pair();
        let link = Link::new(0, near, usize::MAX, memory);
        let dispatch = match is_shared {
            true => Dispatch::Shared,
            false => Dispatch::Each(Form::Scope),
        };
        let join = |number| {
            let (data, far) = pair();
            let page = memfd_create("page", MemfdFlags::CLOEXEC).expect("a file");
            let joined = Joined {
                number,
                width: u32::MAX,
                dispatch,
                data,
                far: copy(&far),
                bell: copy(&page),
                process: None,
                page,
            };
            let (peer, _) = link.add(joined);
            Worker { peer, data: far }
        };
        let workers = (0..workers).map(join).collect();
        Self {
            link,
            workers,
            shared,
            is_shared,
        }
    }

    /// Sends a request. The result is its number, the worker that has it if that is known, and a
    /// future of its response; none if there is to be none.
    pub fn ask(
        &self,
        is_head: bool,
    ) -> (
        [u8; 8],
        Option<u32>,
        impl Future<Output = Option<Response>> + 'static,
    ) {
        let call = self.link.open(f64::MAX, is_head);
        let id = call.id;
        let message = Outgoing {
            bytes: request::begin(0, id).into_bytes(),
            descriptor: None,
        };
        let is_sent = match self.is_shared {
            true => {
                self.link.shared.send(message);
                true
            }
            false => self.link.send_to_one(id, message),
        };
        let worker = self.link.worker_of(id).map(|peer| peer.number);
        let response = async move {
            match is_sent {
                true => call.response(None::<std::future::Pending<()>>).await.ok(),
                false => None,
            }
        };
        (id, worker, response)
    }

    /// Whether messages of a worker are taken: not after its end.
    pub fn is_heard(&self, worker: usize) -> bool {
        let peer = &self.workers[worker].peer;
        !peer.is_condemned.get() && !peer.end.has_fired()
    }

    /// A message of a worker.
    pub fn receive(&self, worker: usize, message: &[u8]) {
        if self.is_heard(worker) {
            self.link.receive(&self.workers[worker].peer, message);
        }
    }

    /// A worker dies.
    pub fn end(&self, worker: usize) {
        let number = self.workers[worker].peer.number;
        self.link.worker_ended(number, false);
    }

    /// Takes what was sent to a worker, or to all of them.
    pub fn told(&self, worker: Option<usize>) -> Vec<Told> {
        let socket = worker.map_or(&self.shared, |worker| &self.workers[worker].data);
        let mut buffer = [0; TOLD_BYTES_MAX];
        let mut told = Vec::new();
        while let Ok((_, len @ 1..)) = recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
            told.push(parse(&buffer[..len]));
        }
        told
    }

    /// The lines of a response's head as they are sent.
    pub fn head_lines(response: &Response) -> Vec<u8> {
        let lines = response.shared().map(|lines| lines.lines().to_vec());
        lines.unwrap_or_default()
    }
}

impl fmt::Debug for LinkBench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkBench").finish_non_exhaustive()
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    socketpair(AddressFamily::UNIX, kind, flags, None).expect("descriptors")
}

fn copy(descriptor: &OwnedFd) -> OwnedFd {
    descriptor.try_clone().expect("a descriptor")
}

/// The message is a tuple of integers and a number of 8 bytes.
fn parse(message: &[u8]) -> Told {
    let id = |at: usize| -> Id { message[at..at + 8].try_into().expect("8 bytes") };
    match message[3] {
        2 => Told::Unwanted(id(12)),
        3 => {
            let size = message[21..25].try_into().expect("4 bytes");
            Told::Grant(id(12), u32::from_le_bytes(size))
        }
        5 => Told::Fence(id(17)),
        _ => Told::Request,
    }
}
