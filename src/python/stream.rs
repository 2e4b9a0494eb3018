//! The body of a response that a worker sends in several messages, on its way from the link to the
//! connection.
//!
//! A worker may be ahead of its client by the credit that it was given and not yet used
//! ([`CREDIT_BYTES`]), and by what the body's own queue holds (`--response-buffer`): that much of a
//! response is taken from the worker at full speed. Beyond that the worker waits. If the responses
//! of a core together have reached `--response-memory`, the queue holds a part, and so does the
//! credit.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::Bytes;

use crate::service::{BodySender, ResponseMemory};
use crate::sys::mutants::mutate;

/// Bytes of a body that a worker may send before it is granted more.
pub(super) const CREDIT_BYTES: u32 = 256 << 10;
/// The credit of a worker while memory is short, which is enough for a part.
const SHORT_CREDIT_BYTES: u32 = 64 << 10;

/// The queue between the link and the coroutine that writes the body.
#[derive(Debug, Default)]
pub(super) struct Incoming(RefCell<Queue>);

#[derive(Debug, Default)]
struct Queue {
    parts: VecDeque<Bytes>,
    /// Bytes that the worker may still send.
    credit: u32,
    /// Whether the body is whole, once it has ended.
    end: Option<bool>,
    waker: Option<Waker>,
}

impl Queue {
    fn ahead(&self) -> u32 {
        let waiting: usize = self.parts.iter().map(Bytes::len).sum();
        self.credit + u32::try_from(waiting).expect("no more than the first credit")
    }
}

/// How the writing of a body ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// The worker has sent all that it will send.
    Ended,
    /// The client does not read it any more.
    Gone,
}

impl Incoming {
    /// A body of which `sent` bytes have come with the head.
    pub(super) fn new(sent: usize) -> Self {
        let sent = u32::try_from(sent).unwrap_or(u32::MAX);
        Self(RefCell::new(Queue {
            credit: CREDIT_BYTES.saturating_sub(sent),
            ..Queue::default()
        }))
    }

    /// Adds a part. `false`: the worker has sent more than it may.
    pub(super) fn push(&self, part: Bytes) -> bool {
        let mut queue = self.0.borrow_mut();
        let credit = u32::try_from(part.len()).ok();
        let left = credit.and_then(|len| queue.credit.checked_sub(len));
        let Some(left) = mutate!(ForgetCredit, left.or(Some(0)), left) else {
            return false;
        };
        queue.credit = left;
        if !part.is_empty() {
            queue.parts.push_back(part);
        }
        let waker = queue.waker.take();
        drop(queue);
        waker.inspect(Waker::wake_by_ref);
        true
    }

    /// Ends the body, which is whole or is cut.
    pub(super) fn end(&self, is_whole: bool) {
        let mut queue = self.0.borrow_mut();
        queue.end.get_or_insert(is_whole);
        let waker = queue.waker.take();
        drop(queue);
        waker.inspect(Waker::wake_by_ref);
    }

    /// Writes what comes to `sender`, until the end or until `gone` says that the client has left.
    /// When the worker has half of its credit left, it gets more, of which `grant` is told. It gets
    /// less while `memory` is full, but never none.
    pub(super) async fn write_to(
        self: Rc<Self>,
        mut sender: BodySender,
        gone: Option<impl Future<Output = ()> + Unpin>,
        memory: &ResponseMemory,
        grant: impl Fn(u32),
    ) -> Written {
        let mut gone = gone;
        // Bytes that the worker may send, or has sent and which are not written yet.
        let mut ahead = self.0.borrow().ahead();
        loop {
            let next = poll_fn(|context| {
                let mut queue = self.0.borrow_mut();
                if let Some(part) = queue.parts.pop_front() {
                    return Poll::Ready(Some(Next::Part(part)));
                }
                if let Some(is_whole) = queue.end {
                    return Poll::Ready(Some(Next::End(is_whole)));
                }
                queue.waker = Some(context.waker().clone());
                drop(queue);
                let has_gone = match &mut gone {
                    Some(gone) => pin!(gone).poll(context).is_ready(),
                    None => false,
                };
                match has_gone || pin!(sender.gone()).poll(context).is_ready() {
                    true => Poll::Ready(None),
                    false => Poll::Pending,
                }
            });
            match next.await {
                None => return Written::Gone,
                Some(Next::End(true)) => {
                    sender.finish();
                    return Written::Ended;
                }
                // A sender that is dropped cuts the connection.
                Some(Next::End(false)) => return Written::Ended,
                Some(Next::Part(part)) => {
                    let len = u32::try_from(part.len()).expect("a message is short");
                    if sender.write(part).await.is_err() {
                        return Written::Gone;
                    }
                    ahead -= len;
                    let credit = match memory.is_full() {
                        true => SHORT_CREDIT_BYTES,
                        false => CREDIT_BYTES,
                    };
                    if ahead <= credit / 2 {
                        let more = credit - ahead;
                        ahead = credit;
                        self.0.borrow_mut().credit += more;
                        grant(more);
                    }
                }
            }
        }
    }
}

enum Next {
    Part(Bytes),
    End(bool),
}
