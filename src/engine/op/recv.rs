//! Receiving: one submission, and a completion with a provided buffer for each chunk that arrives
//! (recv(2), `IORING_RECV_MULTISHOT`, Linux 6.0). The first chunk is received by a single-shot
//! receive, so that a connection with a single request leaves no receive to cancel.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};

use super::{After, OpId};
use crate::buf::{BLOCK_BYTES, Block, Chunk, Pool};
use crate::engine::descriptor::Descriptor;
use crate::engine::uring::{Cqe, Sqe};
use crate::sys::mutants::mutate;

/// How the incoming side of a stream ended.
#[derive(Debug)]
pub(in crate::engine) enum StreamEnd {
    /// The peer sends no more (FIN).
    Eof,
    Error(io::Error),
}

impl StreamEnd {
    /// The result for the reader, at this and every later call: a broken connection stays broken.
    pub(in crate::engine) fn result(&self) -> io::Result<Option<Chunk>> {
        match self {
            Self::Eof => Ok(None),
            Self::Error(error) => Err(error
                .raw_os_error()
                .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)),
        }
    }
}

/// The receives on one socket. It lives as long as the socket's owner.
#[derive(Debug)]
pub(in crate::engine) struct Recv {
    socket: Descriptor,
    /// A receive was submitted before.
    has_begun: bool,
    /// The oldest chunk that the reader has not taken. Usually there is at most one, so the queue
    /// for more is allocated only when it is needed.
    first: Option<Chunk>,
    #[expect(
        clippy::box_collection,
        reason = "a box keeps an idle connection small"
    )]
    more: Option<Box<VecDeque<Chunk>>>,
    /// How the stream ended. The queued chunks come before that.
    pub(in crate::engine) end: Option<StreamEnd>,
    /// The last chunk filled its buffer while receives take turns, so the socket may have more.
    /// [`Recv::receive_directly`] then receives the rest of the turn.
    pub(in crate::engine) may_have_more: bool,
    /// Queued for a provided buffer, and submitted when its turn comes.
    pub(in crate::engine) is_queued: bool,
    /// The poll that reports a disconnecting peer, once one was needed.
    pub(in crate::engine) hangup: Option<OpId>,
}

impl Recv {
    /// The receive is cancelled when this many chunks wait to be taken. Then the socket's buffer
    /// fills up, and TCP slows the peer down.
    const RECV_QUEUE_MAX: usize = 8;
    /// Blocks that a turn receives directly, after its first chunk: enough to make the overhead of
    /// a turn small, and so few that other receives wait no longer than on epoll.
    const DIRECT_BLOCKS: usize = 8;

    pub(in crate::engine) fn new(socket: Descriptor) -> Self {
        Self {
            socket,
            has_begun: false,
            first: None,
            more: None,
            end: None,
            may_have_more: false,
            is_queued: false,
            hangup: None,
        }
    }

    #[cfg(feature = "mutants")]
    pub(in crate::engine) fn fd(&self) -> std::os::fd::RawFd {
        self.socket.raw()
    }

    pub(in crate::engine) fn socket(&self) -> Descriptor {
        self.socket.clone()
    }

    /// A multishot, unless `one_by_one`: an armed multishot takes everything that the socket has
    /// before a cancellation takes effect.
    pub(in crate::engine) fn sqe(&mut self, one_by_one: bool) -> Sqe {
        let fd = self.socket.raw();
        if std::mem::replace(&mut self.has_begun, true) && !one_by_one {
            Sqe::RecvMulti { fd }
        } else {
            Sqe::Recv { fd }
        }
    }

    /// Handles a completion: a chunk, the end of the stream, or the end of this submission only. A
    /// multishot may end at any time, with or without data (no buffers left, completion queue full,
    /// cancelled).
    ///
    /// With `one_by_one`, because memory is scarce or receives are queued for buffers, nothing more
    /// is received until the reader asks for it.
    #[inline(always)]
    pub(in crate::engine) fn complete(
        &mut self,
        cqe: &Cqe,
        chunk: Option<Chunk>,
        one_by_one: bool,
    ) -> After {
        match (cqe.result(), chunk) {
            (Ok(0), _) => self.end = mutate!(RearmOnEof, None, Some(StreamEnd::Eof)),
            (Ok(_), Some(chunk)) => {
                self.may_have_more = one_by_one && chunk.is_whole_block();
                mutate!(
                    DropLastData,
                    if cqe.more() {
                        self.queue(chunk)
                    },
                    self.queue(chunk)
                );
            }
            (Ok(_), None) => debug_assert!(false, "a receive with data has a buffer"),
            (Err(error), _) => match error.raw_os_error() {
                // A reader that has chunks to take submits again after it has taken them.
                Some(libc::ENOBUFS) if self.is_empty() => return After::AwaitBuffer,
                Some(libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
                _ => self.end = Some(StreamEnd::Error(error)),
            },
        }
        let is_full = self.is_full() || one_by_one && !self.is_empty();
        if mutate!(NeverFull, false, is_full) {
            After::WakeAndCancel
        } else {
            After::Wake
        }
    }

    /// Receives the rest of a turn by a system call, into blocks of the pool instead of provided
    /// buffers. Returns the number of bytes.
    #[cold]
    pub(in crate::engine) fn receive_directly(&mut self, pool: &Pool) -> usize {
        self.may_have_more = false;
        let mut blocks: [Block; Self::DIRECT_BLOCKS] = std::array::from_fn(|_| pool.take());
        match recv_many(&self.socket, &mut blocks) {
            Ok(0) => self.end = Some(StreamEnd::Eof),
            Ok(received) => {
                let mut left = received;
                for block in blocks {
                    let len = left.min(BLOCK_BYTES);
                    if len == 0 {
                        break;
                    }
                    self.queue(block.into_chunk(0..len));
                    left -= len;
                }
                return received;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => self.end = Some(StreamEnd::Error(errno.into())),
        }
        0
    }

    /// Whether the queue of chunks is full, so that the peer must be slowed down.
    fn is_full(&self) -> bool {
        self.more
            .as_ref()
            .is_some_and(|more| more.len() + 1 >= Self::RECV_QUEUE_MAX)
    }

    /// Whether no chunk waits to be taken.
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Takes the oldest chunk.
    #[inline]
    pub(in crate::engine) fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.first.take()?;
        if let Some(more) = &mut self.more {
            self.first = more.pop_front();
            if more.is_empty() {
                self.more = None;
            }
        }
        Some(chunk)
    }

    /// Queues a chunk. A small one is appended to the block of the last one, so that a peer that
    /// sends single bytes does not occupy a block with each.
    #[inline(always)]
    fn queue(&mut self, chunk: Chunk) {
        let last = match &mut self.more {
            Some(more) => more.back_mut(),
            None => self.first.as_mut(),
        };
        match last {
            None => self.first = Some(chunk),
            Some(last) => {
                if !last.absorb(&chunk) {
                    self.more.get_or_insert_default().push_back(chunk);
                }
            }
        }
    }
}

/// Receives by a system call, without waiting. `Ok(None)` if nothing has arrived.
pub(in crate::engine) fn recv(socket: impl AsFd, pool: &Pool) -> Result<Option<Chunk>, StreamEnd> {
    let mut block = pool.take();
    loop {
        match rustix::net::recv(&socket, block.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(StreamEnd::Eof),
            Ok((len, _)) => return Ok(Some(block.into_chunk(0..len))),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(StreamEnd::Error(errno.into())),
        }
    }
}

/// Receives by recvmsg(2) into `blocks`, without waiting. Returns the number of bytes.
fn recv_many(socket: impl AsFd, blocks: &mut [Block]) -> Result<usize, Errno> {
    let slices = blocks.iter_mut().map(Block::as_mut_slice);
    let mut slices: Vec<IoSliceMut<'_>> = slices.map(IoSliceMut::new).collect();
    #[cfg(feature = "sim")]
    if let Some(received) = crate::sim::recvmsg(socket.as_fd(), &mut slices) {
        return received;
    }
    let mut control = RecvAncillaryBuffer::default();
    let received = recvmsg(socket, &mut slices, &mut control, RecvFlags::DONTWAIT)?;
    Ok(received.bytes)
}
