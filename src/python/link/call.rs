//! A request that waits for its response.

use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::Link;
use crate::python::body::Share;
use crate::python::message::Id;
use crate::python::slots::{Failure, StartedResponse, State};
use crate::python::stream::{Incoming, Written};
use crate::python::upload::Credit;
use crate::rt::spawn_detached;
use crate::service::{BodySender, Response};

/// A request that waits for its response. If it is dropped, its worker is told.
#[derive(Debug)]
pub(in crate::python) struct Call {
    pub(super) link: Rc<Link>,
    pub(in crate::python) id: Id,
}

impl Call {
    /// The request's body follows it; the result says how much of it the worker has room for.
    pub(in crate::python) fn upload(&self) -> Rc<Credit> {
        let credit = Rc::new(Credit::new());
        if let Some(slot) = self.link.slots.borrow_mut().get(self.id) {
            slot.upload = Some(credit.clone());
        }
        credit
    }

    /// The request's body has a share of the memory for bodies, until its worker is done with it.
    pub(in crate::python) fn keep(&self, share: Share) {
        if let Some(slot) = self.link.slots.borrow_mut().get(self.id) {
            slot.share = Some(share);
        }
    }

    /// Waits for the response. `gone` is ready when the client has disconnected, for a worker that
    /// is to hear of that.
    pub(in crate::python) async fn response<G>(
        self,
        mut gone: Option<G>,
    ) -> Result<Response, Failure>
    where
        G: Future<Output = ()> + Unpin + 'static,
    {
        let outcome = poll_fn(|context| {
            if let Some(future) = &mut gone
                && Pin::new(future).poll(context).is_ready()
            {
                gone = None;
                self.disconnect();
            }
            self.poll_outcome(context)
        });
        let StartedResponse { response, rest } = outcome.await?;
        if let Some((incoming, sender)) = rest {
            spawn_detached(self.write_rest(incoming, sender, gone));
        }
        Ok(response)
    }

    fn poll_outcome(&self, context: &mut Context<'_>) -> Poll<Result<StartedResponse, Failure>> {
        let mut slots = self.link.slots.borrow_mut();
        let slot = slots.get(self.id).expect("its call holds it");
        match &mut slot.state {
            State::Waiting(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            state => match mem::replace(state, State::Over) {
                State::Responded(outcome) => Poll::Ready(outcome),
                _ => unreachable!("a call takes one outcome"),
            },
        }
    }

    async fn write_rest(
        self,
        incoming: Rc<Incoming>,
        sender: BodySender,
        gone: Option<impl Future<Output = ()> + Unpin>,
    ) {
        let grant = |bytes| self.link.grant(self.id, bytes);
        if incoming
            .write_to(sender, gone, &self.link.memory, grant)
            .await
            == Written::Gone
        {
            self.disconnect();
        }
    }

    /// Tells the worker that the response is not wanted any more.
    fn disconnect(&self) {
        if let Some(peer) = self.link.worker_of(self.id) {
            peer.tell_unwanted(self.id);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut slots = self.link.slots.borrow_mut();
        let Some(slot) = slots.get(self.id) else {
            return;
        };
        slot.incoming = None;
        if slot.is_ended {
            slots.remove(self.id);
            return;
        }
        slot.state = State::Over;
        let upload = slot.upload.take();
        drop(slots);
        upload.inspect(|upload| upload.close());
        self.disconnect();
    }
}
