//! The body of a request that its application receives while it arrives (ASGI, gevent).

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::link::Link;
use super::message::Id;
use super::stream::CREDIT_BYTES;
use crate::service::Body;

/// Bytes of a part of a body.
const PART_BYTES_MAX: usize = 64 << 10;

/// Bytes that a worker has room for.
#[derive(Debug)]
pub(super) struct Credit(RefCell<(u64, Option<Waker>)>);

impl Credit {
    /// What each worker begins with.
    pub(super) fn new() -> Self {
        Self(RefCell::new((CREDIT_BYTES.into(), None)))
    }

    /// The worker has room for `bytes` more.
    pub(super) fn add(&self, bytes: u32) {
        let mut inner = self.0.borrow_mut();
        // A worker that asks for more than it has room for gets no more than that.
        inner.0 = inner
            .0
            .saturating_add(bytes.into())
            .min(CREDIT_BYTES.into());
        let waker = inner.1.take();
        drop(inner);
        waker.inspect(Waker::wake_by_ref);
    }

    /// Waits until there is room for anything, and takes up to `bytes` of it.
    pub(super) async fn take(&self, bytes: usize) -> usize {
        poll_fn(|context| {
            let mut inner = self.0.borrow_mut();
            let taken = bytes.min(usize::try_from(inner.0).unwrap_or(usize::MAX));
            if taken == 0 {
                inner.1 = Some(context.waker().clone());
                return Poll::Pending;
            }
            inner.0 -= taken as u64;
            Poll::Ready(taken)
        })
        .await
    }
}

/// Passes a request's body on as it arrives, as far as the worker has room for it.
pub(super) async fn upload(link: Rc<Link>, id: Id, credit: Rc<Credit>, mut body: Body) {
    loop {
        match body.part().await {
            Ok(Some(part)) => {
                let mut rest = &part[..];
                while !rest.is_empty() {
                    let len = credit.take(rest.len().min(PART_BYTES_MAX)).await;
                    let (first, others) = rest.split_at(len);
                    link.send_part(id, first, true).await;
                    rest = others;
                }
            }
            Ok(None) => return link.send_part(id, b"", false).await,
            // The client has gone, which the worker hears of by itself.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run;

    /// A worker cannot have more sent to it than it said at first that it has room for.
    #[test]
    fn room_has_a_limit() {
        run(async {
            let credit = Credit::new();
            for added in [0, 1, CREDIT_BYTES, u32::MAX, u32::MAX] {
                credit.add(added);
                assert_eq!(credit.take(usize::MAX).await, CREDIT_BYTES as usize);
                credit.add(CREDIT_BYTES);
            }
            assert_eq!(credit.take(100).await, 100);
            assert_eq!(credit.take(usize::MAX).await, CREDIT_BYTES as usize - 100);
            credit.add(7);
            assert_eq!(credit.take(usize::MAX).await, 7);
        });
    }
}
