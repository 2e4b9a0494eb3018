//! Accepting and connecting on epoll.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use rustix::event::epoll::EventFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::SocketAddrAny;

use super::{Epoll, find};
use crate::engine::descriptor::Descriptor;
use crate::engine::op::{self, OP_EXISTS, OpId, StreamEnd};
use crate::rt::{ClonedWaker, wake};

impl Epoll {
    pub(in crate::engine) fn start_accept(&self, listener: Descriptor) -> OpId {
        if let Ok(flags) = fcntl_getfl(&listener) {
            // If this fails, the descriptor is invalid, and the accept reports that.
            let _ = fcntl_setfl(&listener, flags | OFlags::NONBLOCK);
        }
        self.watch(listener, EventFlags::IN)
    }

    /// The next connection; `None` once the accept was stopped.
    pub(in crate::engine) fn poll_accept(
        &self,
        id: OpId,
        context: &Context<'_>,
    ) -> Poll<Option<io::Result<OwnedFd>>> {
        let mut waker = ClonedWaker::of(context);
        let mut watches = self.watches.borrow_mut();
        let watch = find(&mut watches, id).expect(OP_EXISTS);
        if watch.stopped {
            return Poll::Ready(None);
        }
        if watch.end.is_some()
            && let Some(listener) = &watch.owner
        {
            // The listener could not be watched when the accept began. Try again.
            self.add(listener, id, EventFlags::IN)?;
            watch.end = None;
        }
        let listener = watch.owner.as_ref().filter(|_| watch.readable);
        match listener.map(op::accept) {
            Some(Ok(Some(fd))) => Poll::Ready(Some(Ok(fd))),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            Some(Ok(None)) | None => {
                watch.readable = false;
                waker.store(&mut watch.reader);
                Poll::Pending
            }
        }
    }

    /// Stops an accept.
    pub(in crate::engine) fn stop_accept(&self, id: OpId) {
        let mut watches = self.watches.borrow_mut();
        let waker = find(&mut watches, id).and_then(|watch| {
            watch.stopped = true;
            watch.reader.take()
        });
        drop(watches);
        waker.into_iter().for_each(wake);
    }

    pub(in crate::engine) fn start_connect(
        &self,
        socket: Descriptor,
        address: &SocketAddrAny,
    ) -> OpId {
        // Connect before watching: epoll reports an unconnected socket as hung up.
        let connected = op::connect(&socket, address);
        self.metrics.submissions.add(1);
        let id = self.watch(socket, EventFlags::OUT);
        if let Some(watch) = find(&mut self.watches.borrow_mut(), id) {
            match connected {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => watch.writable = true,
                Poll::Ready(Err(error)) => watch.end = Some(StreamEnd::Error(error)),
            }
        }
        id
    }

    /// The result of a connect.
    pub(in crate::engine) fn poll_connect(
        &self,
        id: OpId,
        context: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut waker = ClonedWaker::of(context);
        let mut watches = self.watches.borrow_mut();
        let watch = find(&mut watches, id).expect(OP_EXISTS);
        if let Some(StreamEnd::Error(error)) = watch.end.take() {
            return Poll::Ready(Err(error));
        }
        if watch.writable {
            return Poll::Ready(Ok(()));
        }
        waker.store(&mut watch.writer);
        Poll::Pending
    }
}
