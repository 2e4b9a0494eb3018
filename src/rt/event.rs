//! A one-shot event, and the futures that wait for it.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::foreign::{drop_waker, wake};
use super::waker::ClonedWaker;

/// An event that happens once. Tasks of one worker can wait for it.
#[derive(Debug, Default)]
pub struct Event {
    has_fired: Cell<bool>,
    /// The wakers of the waiting futures. Each [`EventWait`] has an index into this list.
    waiting: RefCell<Vec<Option<Waker>>>,
    /// Unused indices of `waiting`.
    vacant: RefCell<Vec<usize>>,
}

impl Event {
    /// Marks the event as happened and wakes all waiting tasks. A second call has no effect.
    pub fn fire(&self) {
        self.has_fired.set(true);
        let waiting = self.waiting.take();
        waiting.into_iter().flatten().for_each(wake);
    }

    /// Whether the event has happened.
    pub fn has_fired(&self) -> bool {
        self.has_fired.get()
    }

    /// Waits until the event has happened; ready at once if it has happened already.
    pub fn wait(self: &Rc<Self>) -> EventWait {
        EventWait {
            event: self.clone(),
            index: None,
        }
    }
}

/// The future of [`Event::wait`].
#[derive(Debug)]
#[must_use = "this future does nothing unless it is awaited"]
pub struct EventWait {
    event: Rc<Event>,
    /// Its index in the event's `waiting`, from the first poll on.
    index: Option<usize>,
}

impl Future for EventWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let event = self.event.clone();
        let mut waker = ClonedWaker::of(context);
        if event.has_fired() {
            self.index = None;
            return Poll::Ready(());
        }
        let mut waiting = event.waiting.borrow_mut();
        let index = *self.index.get_or_insert_with(|| {
            let vacant = event.vacant.borrow_mut().pop();
            vacant.unwrap_or_else(|| {
                waiting.push(None);
                waiting.len() - 1
            })
        });
        waker.store(&mut waiting[index]);
        Poll::Pending
    }
}

impl Drop for EventWait {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        let waker = self
            .event
            .waiting
            .borrow_mut()
            .get_mut(index)
            .and_then(Option::take);
        // `fire` has emptied `waiting`, so afterwards there is no index to reuse.
        if !self.event.has_fired() {
            self.event.vacant.borrow_mut().push(index);
        }
        waker.into_iter().for_each(drop_waker);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_waiting_futures_and_reuses_the_indices_of_dropped_ones() {
        let event = Rc::new(Event::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let context = &mut Context::from_waker(&waker);
        let mut first = pin!(event.wait());
        assert!(first.as_mut().poll(context).is_pending());
        assert!(first.as_mut().poll(context).is_pending());
        for _ in 0..10 {
            let mut dropped = Box::pin(event.wait());
            assert!(dropped.as_mut().poll(context).is_pending());
        }
        assert_eq!(event.waiting.borrow().len(), 2, "indices are reused");
        event.fire();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(first.as_mut().poll(context).is_ready());
        assert!(
            pin!(event.wait()).poll(context).is_ready(),
            "still happened"
        );
    }
}
