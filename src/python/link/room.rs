//! Requests that wait until a worker runs fewer than it may.

use std::rc::Rc;
use std::time::Duration;

use super::{Link, monotonic};
use crate::rt::Event;
use crate::task::time::timeout;

/// A request's place among those that wait.
struct Place<'a> {
    link: &'a Link,
    event: Rc<Event>,
    is_used: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.event.has_fired() {
            // It was given up, and another one may have its place.
            if !self.is_used {
                self.link.admit();
            }
            return;
        }
        let is_other = |event: &Rc<Event>| !Rc::ptr_eq(event, &self.event);
        self.link.crowd.borrow_mut().retain(is_other);
    }
}

impl Link {
    /// Whether a worker may be given a request.
    pub(super) fn has_room(&self) -> bool {
        let peers = self.peers.borrow();
        let mut used = peers.iter().filter(|peer| !peer.is_retired.get());
        used.any(|peer| peer.running.get() < peer.width)
    }

    /// The request that has waited longest may look whether there is room.
    pub(super) fn admit(&self) {
        if self.crowd.borrow().is_empty() || !self.has_room() {
            return;
        }
        if let Some(event) = self.crowd.borrow_mut().pop_front() {
            event.fire();
        }
    }

    /// Waits until a worker runs fewer requests than it may, for a request that is sent at once
    /// then. `false`: none did until the deadline.
    pub(in crate::python) async fn room(&self, deadline: f64) -> bool {
        let mut is_first = false;
        loop {
            let is_next = is_first || self.crowd.borrow().is_empty();
            if is_next && self.has_room() {
                return true;
            }
            let mut place = Place {
                link: self,
                event: Rc::default(),
                is_used: false,
            };
            let event = place.event.clone();
            match is_first {
                true => self.crowd.borrow_mut().push_front(event),
                false => self.crowd.borrow_mut().push_back(event),
            }
            let left = Duration::from_secs_f64((deadline - monotonic()).max(0.0));
            if timeout(left, place.event.wait()).await.is_err() {
                return false;
            }
            place.is_used = true;
            is_first = true;
        }
    }
}
