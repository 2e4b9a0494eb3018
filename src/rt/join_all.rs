//! Waiting for all of many futures, which run concurrently within one task.
//!
//! The futures are polled in groups, and each group has a waker of its own: a wake-up polls the
//! futures of one group, not all. If there is only one group, it uses the task's waker. So a few
//! futures cost nothing more, and many cost the time of their own wake-ups.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};

use super::foreign::{drop_waker, wake};
use super::waker::ClonedWaker;
use crate::sys::lock::lock;

/// The futures of a group.
const GROUP: usize = 32;

/// The future of [`join_all`](crate::task::join_all): all values, in the order of the futures.
#[must_use = "this future does nothing unless it is awaited"]
pub struct JoinAll<F: Future> {
    /// Pinned: a future stays in its place until it is dropped there.
    entries: Box<[Entry<F>]>,
    pending: usize,
    groups: Groups,
}

enum Entry<F: Future> {
    Pending(F),
    Ready(F::Output),
    Taken,
}

enum Groups {
    /// The futures use the task's own waker.
    One,
    Many {
        shared: Arc<Shared>,
        wakers: Rc<[Waker]>,
    },
}

/// The groups that were woken.
struct Shared(Mutex<Woken>);

struct Woken {
    /// Each of them once.
    groups: Vec<usize>,
    is_woken: Vec<bool>,
    task: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Woken> {
        lock(&self.0)
    }
}

/// The waker of a group.
struct Group {
    shared: Arc<Shared>,
    number: usize,
}

impl Wake for Group {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut woken = self.shared.lock();
        if !mem::replace(&mut woken.is_woken[self.number], true) {
            woken.groups.push(self.number);
        }
        let task = woken.task.take();
        drop(woken);
        task.into_iter().for_each(wake);
    }
}

impl<F: Future> JoinAll<F> {
    /// Makes a future that waits for all of `futures`.
    pub fn new(futures: impl IntoIterator<Item = F>) -> Self {
        let entries: Box<[_]> = futures.into_iter().map(Entry::Pending).collect();
        let count = entries.len().div_ceil(GROUP);
        Self {
            pending: entries.len(),
            entries,
            groups: if count <= 1 {
                Groups::One
            } else {
                Groups::many(count)
            },
        }
    }

    /// Polls the futures of a group that are not ready yet.
    fn poll_group(&mut self, number: usize, context: &mut Context<'_>) {
        let first = number * GROUP;
        let last = (first + GROUP).min(self.entries.len());
        for entry in &mut self.entries[first..last] {
            let Entry::Pending(future) = entry else {
                continue;
            };
            // SAFETY: the future is in a box that belongs to this value. Nothing moves it from
            // there: it is dropped in its place below, or with the box.
            let future = unsafe { Pin::new_unchecked(future) };
            if let Poll::Ready(value) = future.poll(context) {
                *entry = Entry::Ready(value);
                self.pending -= 1;
            }
        }
    }
}

impl Groups {
    fn many(count: usize) -> Self {
        let shared = Arc::new(Shared(Mutex::new(Woken {
            groups: (0..count).collect(),
            is_woken: vec![true; count],
            task: None,
        })));
        let waker = |number| {
            Waker::from(Arc::new(Group {
                shared: shared.clone(),
                number,
            }))
        };
        Self::Many {
            wakers: (0..count).map(waker).collect(),
            shared,
        }
    }
}

/// No future is pinned by a reference to this value: they are pinned in its box.
impl<F: Future> Unpin for JoinAll<F> {}

impl<F: Future> Future for JoinAll<F> {
    type Output = Vec<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut waker = ClonedWaker::of(context);
        match &this.groups {
            Groups::One => this.poll_group(0, context),
            Groups::Many { shared, wakers } => {
                let mut state = shared.lock();
                waker.store(&mut state.task);
                let woken = mem::take(&mut state.groups);
                woken
                    .iter()
                    .for_each(|&number| state.is_woken[number] = false);
                drop(state);
                let wakers = wakers.clone();
                for number in woken {
                    this.poll_group(number, &mut Context::from_waker(&wakers[number]));
                }
            }
        }
        if this.pending > 0 {
            return Poll::Pending;
        }
        let entries = this.entries.iter_mut();
        let values = entries.map(|entry| match mem::replace(entry, Entry::Taken) {
            Entry::Ready(value) => value,
            Entry::Pending(_) | Entry::Taken => panic!("this future was ready already"),
        });
        Poll::Ready(values.collect())
    }
}

impl<F: Future> Drop for JoinAll<F> {
    fn drop(&mut self) {
        if let Groups::Many { shared, .. } = &self.groups {
            let task = shared.lock().task.take();
            task.into_iter().for_each(drop_waker);
        }
    }
}

impl<F: Future> fmt::Debug for JoinAll<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinAll")
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
