//! Receiving on the ring: the reads of connections, and the order in which receives get buffers.

use std::io;
#[cfg(feature = "mutants")]
use std::os::fd::RawFd;
use std::task::{Context, Poll};

use super::Uring;
use crate::buf::Chunk;
use crate::engine::descriptor::Descriptor;
use crate::engine::op::{OP_EXISTS, Op, OpEntry, OpId, OpState, Recv};
use crate::rt::ClonedWaker;
use crate::sys::mutants::mutate;

impl Uring {
    pub(in crate::engine) fn start_recv(&self, socket: Descriptor) -> OpId {
        let recv = || Op::Recv(Recv::new(socket));
        self.table.borrow_mut().insert(recv).0
    }

    /// The next chunk; `None` at the end of the stream.
    #[inline]
    pub(in crate::engine) fn poll_recv(
        &self,
        id: OpId,
        context: &Context<'_>,
    ) -> Poll<io::Result<Option<Chunk>>> {
        let mut waker = ClonedWaker::of(context);
        let mut table = self.table.borrow_mut();
        let entry = table.get(id).expect(OP_EXISTS);
        let Op::Recv(recv) = &mut entry.op else {
            unreachable!("the id of a receive")
        };
        if let Some(chunk) = recv.pop() {
            return Poll::Ready(Ok(Some(chunk)));
        }
        // After an error nothing more is received: the kernel would report the end of the stream.
        let ask = entry.state == OpState::Idle && !recv.is_queued && recv.end.is_none();
        if ask && recv.may_have_more && !self.is_memory_scarce() {
            let received = recv.receive_directly(&self.pool);
            self.metrics.bytes_received.add(received as u64);
            if let Some(chunk) = recv.pop() {
                return Poll::Ready(Ok(Some(chunk)));
            }
        }
        if let Some(end) = &recv.end {
            return Poll::Ready(end.result());
        }
        waker.store(&mut entry.waker);
        drop(table);
        if ask {
            self.ask_to_receive(id);
        }
        Poll::Pending
    }

    /// Whether a received chunk waits to be taken. Makes no system call.
    pub(in crate::engine) fn has_received(&self, id: OpId) -> bool {
        let mut table = self.table.borrow_mut();
        let entry = table.get(id).map(|entry| &entry.op);
        matches!(entry, Some(Op::Recv(recv)) if !recv.is_empty())
    }

    /// Submits a receive. In a crowded ring it is queued for a buffer instead.
    pub(super) fn ask_to_receive(&self, id: OpId) {
        if mutate!(SkipBufferQueue, false, self.buffer_queue.is_crowded()) {
            self.enqueue_receive(id);
        } else {
            self.submit(id);
        }
    }

    pub(super) fn enqueue_receive(&self, id: OpId) {
        let mut table = self.table.borrow_mut();
        if let Some(OpEntry {
            op: Op::Recv(recv), ..
        }) = table.get(id)
        {
            recv.is_queued = true;
            mutate!(ForgetQueued, (), self.buffer_queue.push(id));
        }
    }

    /// The sockets whose receives are queued for a buffer.
    #[cfg(feature = "mutants")]
    pub(in crate::engine) fn queued_receives(&self) -> Vec<RawFd> {
        let mut table = self.table.borrow_mut();
        let ids = table.ids();
        let queued = |id| match &table.get(id)?.op {
            Op::Recv(recv) if recv.is_queued => Some(recv.fd()),
            _ => None,
        };
        ids.into_iter().filter_map(queued).collect()
    }

    /// Submits the receives whose turn it is. They may take half of the buffers. The other half is
    /// for receives that the kernel already has, whose peers may send now.
    pub(super) fn admit_receives(&self) {
        if self.buffer_queue.is_empty() {
            return;
        }
        let mut left = (self.buffers.borrow().len() / 2).max(1);
        while left > 0
            && let Some(id) = self.buffer_queue.pop()
        {
            let mut table = self.table.borrow_mut();
            let Some(entry) = table.get(id) else { continue };
            let Op::Recv(recv) = &mut entry.op else {
                unreachable!("only receives wait for buffers")
            };
            recv.is_queued = false;
            drop(table);
            self.submit(id);
            left -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{self, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::sync::Arc;
    use std::time::Duration;

    use rustix::net::{AddressFamily, sockopt};

    use crate::buf::BLOCK_BYTES;
    use crate::engine::current::with_current;
    use crate::engine::descriptor::Descriptor;
    use crate::engine::worker::Engine;
    use crate::engine::{EngineChoice, Receiving, Worker};
    use crate::rt::yield_now;

    /// In a crowded ring, a multishot reports a full block and the reset after it in one batch.
    #[test]
    fn a_reset_after_a_full_block_is_reported_as_a_reset() {
        let Ok(selected) = EngineChoice::Uring.probe() else {
            return;
        };
        let worker = Worker::new(&selected, usize::MAX, &Arc::default()).unwrap();
        let outcome = worker.run(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let mut client = TcpStream::connect(listener.local_addr()?)?;
            let socket = Descriptor::new(listener.accept()?.0.into());
            let receiving = Receiving::new(socket, AddressFamily::INET);
            let next = || poll_fn(|context| receiving.poll_next(context));
            client.write_all(b"a")?;
            assert_eq!(next().await?.unwrap().len(), 1);
            // From the second chunk on the receive is a multishot.
            client.write_all(b"b")?;
            assert_eq!(next().await?.unwrap().len(), 1);
            with_current(|engine| match engine {
                Engine::Uring(uring) => uring.0.buffer_queue.note_exhausted(1),
                Engine::Epoll(_) => unreachable!("the ring was selected"),
            });
            client.write_all(&[7; BLOCK_BYTES])?;
            sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
            drop(client);
            while !receiving.has_more() {
                yield_now().await;
            }
            assert_eq!(next().await?.unwrap().len(), BLOCK_BYTES);
            assert_eq!(
                next().await.unwrap_err().kind(),
                io::ErrorKind::ConnectionReset
            );
            io::Result::Ok(())
        });
        outcome.unwrap().unwrap();
    }
}
