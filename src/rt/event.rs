//! Something that happens once, and those that wait for it.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::foreign::{drop_waker, wake};
use super::waker::note_waker;

/// An event on one worker.
#[derive(Debug, Default)]
pub struct Event {
    has_happened: Cell<bool>,
    /// The waiters, by the place that each has taken.
    waiting: RefCell<Vec<Option<Waker>>>,
    vacant: RefCell<Vec<usize>>,
}

impl Event {
    /// It happens now, if it has not happened before.
    pub fn happen(&self) {
        self.has_happened.set(true);
        let waiting = self.waiting.take();
        waiting.into_iter().flatten().for_each(wake);
    }

    /// Whether it has happened.
    pub fn has_happened(&self) -> bool {
        self.has_happened.get()
    }

    /// Waits until it has happened.
    pub fn wait(self: &Rc<Self>) -> Occurrence {
        Occurrence {
            event: self.clone(),
            place: None,
        }
    }
}

/// The future of [`Event::wait`].
#[derive(Debug)]
#[must_use = "nothing waits before it is awaited"]
pub struct Occurrence {
    event: Rc<Event>,
    place: Option<usize>,
}

impl Future for Occurrence {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let event = self.event.clone();
        if event.has_happened() {
            self.place = None;
            return Poll::Ready(());
        }
        let mut waiting = event.waiting.borrow_mut();
        let place = *self.place.get_or_insert_with(|| {
            let vacant = event.vacant.borrow_mut().pop();
            vacant.unwrap_or_else(|| {
                waiting.push(None);
                waiting.len() - 1
            })
        });
        let replaced = note_waker(&mut waiting[place], context.waker());
        drop(waiting);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Occurrence {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let waker = self
            .event
            .waiting
            .borrow_mut()
            .get_mut(place)
            .and_then(Option::take);
        // After the event there are no places any more.
        if !self.event.has_happened() {
            self.event.vacant.borrow_mut().push(place);
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
    fn wakes_those_that_wait_and_forgets_the_others() {
        let event = Rc::new(Event::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let context = &mut Context::from_waker(&waker);
        let mut first = pin!(event.wait());
        assert!(first.as_mut().poll(context).is_pending());
        assert!(first.as_mut().poll(context).is_pending());
        for _ in 0..10 {
            let mut given_up = Box::pin(event.wait());
            assert!(given_up.as_mut().poll(context).is_pending());
        }
        assert_eq!(event.waiting.borrow().len(), 2, "places are used again");
        event.happen();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(first.as_mut().poll(context).is_ready());
        assert!(pin!(event.wait()).poll(context).is_ready(), "it stays so");
    }
}
