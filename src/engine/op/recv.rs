//! Receiving: one submission, a completion with a provided buffer for each piece that arrives
//! (recv(2), `IORING_RECV_MULTISHOT`, Linux 6.0). Only the first piece has a submission of its own:
//! a connection that is over after one request has then nothing to be cancelled.

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

/// How a stream's incoming side ended.
#[derive(Debug)]
pub(in crate::engine) enum End {
    /// The peer sends no more (FIN).
    Eof,
    Error(io::Error),
}

impl End {
    /// What whoever asks for more is told, again and again: a broken connection stays broken.
    pub(in crate::engine) fn again(&self) -> io::Result<Option<Chunk>> {
        match self {
            Self::Eof => Ok(None),
            Self::Error(error) => Err(error
                .raw_os_error()
                .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)),
        }
    }
}

/// The receives on one socket; it lives as long as the socket's owner.
#[derive(Debug)]
pub(in crate::engine) struct Recv {
    socket: Descriptor,
    /// Something was asked for already.
    has_begun: bool,
    /// What has arrived and was not yet asked for. Mostly there is at most one piece, so the
    /// queue for more is made when it is needed.
    first: Option<Chunk>,
    #[expect(
        clippy::box_collection,
        reason = "every idle connection has room for this"
    )]
    more: Option<Box<VecDeque<Chunk>>>,
    /// Nothing more will come after what is queued.
    pub(in crate::engine) end: Option<End>,
    /// It is its turn, and the socket had more than a buffer takes.
    pub(in crate::engine) has_turn: bool,
    /// It waits for its turn to get a provided buffer, and is submitted then.
    pub(in crate::engine) is_queued: bool,
    /// The poll that reports that the peer goes away, once one was needed.
    pub(in crate::engine) hangup: Option<OpId>,
}

impl Recv {
    /// Pieces that may wait to be asked for before the submission is cancelled, so that the
    /// socket's own buffer fills and TCP slows the peer down.
    const QUEUE_MAX: usize = 8;
    /// Blocks that follow the first piece of a turn: enough that a turn costs little beside what it
    /// brings, and few enough that others wait no longer than on epoll.
    const TURN_BLOCKS: usize = 8;

    pub(in crate::engine) fn new(socket: Descriptor) -> Self {
        Self {
            socket,
            has_begun: false,
            first: None,
            more: None,
            end: None,
            has_turn: false,
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

    /// A multishot, unless pieces are to be had `one_by_one`: a multishot that is armed takes all
    /// that the socket has before its cancellation reaches it.
    pub(in crate::engine) fn sqe(&mut self, one_by_one: bool) -> Sqe {
        let fd = self.socket.raw();
        if std::mem::replace(&mut self.has_begun, true) && !one_by_one {
            Sqe::RecvMulti { fd }
        } else {
            Sqe::Recv { fd }
        }
    }

    /// A piece, the end, or the end of this submission only: a multishot may stop at any time,
    /// with or without data (no buffers left, completion queue full, cancelled).
    ///
    /// If pieces are to be had `one_by_one`, because memory is scarce or others wait for buffers,
    /// none is received ahead of the caller's asking.
    #[inline(always)]
    pub(in crate::engine) fn complete(
        &mut self,
        cqe: &Cqe,
        chunk: Option<Chunk>,
        one_by_one: bool,
    ) -> After {
        match (cqe.result(), chunk) {
            (Ok(0), _) => self.end = mutate!(RearmOnEof, None, Some(End::Eof)),
            (Ok(_), Some(chunk)) => {
                self.has_turn = one_by_one && chunk.is_whole_block();
                mutate!(
                    DropLastData,
                    if cqe.more() {
                        self.queue(chunk)
                    },
                    self.queue(chunk)
                );
            }
            (Ok(_), None) => debug_assert!(false, "a receive selects its buffer"),
            (Err(error), _) => match error.raw_os_error() {
                // A reader that has something to take asks again when it has taken it.
                Some(libc::ENOBUFS) if self.is_empty() => return After::AwaitBuffer,
                Some(libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
                _ => self.end = Some(End::Error(error)),
            },
        }
        let is_full = self.is_full() || one_by_one && !self.is_empty();
        if mutate!(NeverFull, false, is_full) {
            After::WakeAndCancel
        } else {
            After::Wake
        }
    }

    /// Receives the rest of its turn with a plain call, into blocks that others do not wait for:
    /// how many bytes.
    #[cold]
    pub(in crate::engine) fn receive_in_turn(&mut self, pool: &Pool) -> usize {
        self.has_turn = false;
        let mut blocks: [Block; Self::TURN_BLOCKS] = std::array::from_fn(|_| pool.take());
        match recv_many(&self.socket, &mut blocks) {
            Ok(0) => self.end = Some(End::Eof),
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
            Err(errno) => self.end = Some(End::Error(errno.into())),
        }
        0
    }

    /// Whether so much waits that the peer must be slowed down.
    fn is_full(&self) -> bool {
        self.more
            .as_ref()
            .is_some_and(|more| more.len() + 1 >= Self::QUEUE_MAX)
    }

    /// Whether nothing waits to be asked for.
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The piece that arrived first.
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

    /// A small piece joins the one before it, so that a peer cannot hold a block with each byte.
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

/// Receives by readiness: a piece, nothing as yet, or the end.
pub(in crate::engine) fn recv(socket: impl AsFd, pool: &Pool) -> Result<Option<Chunk>, End> {
    let mut block = pool.take();
    loop {
        match rustix::net::recv(&socket, block.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(End::Eof),
            Ok((len, _)) => return Ok(Some(block.into_chunk(0..len))),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(End::Error(errno.into())),
        }
    }
}

/// recvmsg(2) without waiting, into as many `blocks` as it takes: how many bytes.
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
