//! Two binary heaps of timers, as other runtimes use them, to compare the timer wheel with. They
//! store deadlines only, and wake no coroutines.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A heap of std. A cancelled timer stays in it until its deadline, or until most of the heap is
/// cancelled timers.
#[derive(Default)]
pub(crate) struct LazyHeap {
    heap: BinaryHeap<Reverse<(u64, TimerId)>>,
    /// For each slot: the generation of the timer that uses it now.
    generations: Vec<u32>,
    /// Slots that no armed timer uses.
    free: Vec<u32>,
}

/// A timer. The generation tells it from earlier and later timers in the same slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerId {
    slot: u32,
    generation: u32,
}

impl LazyHeap {
    pub(crate) fn arm(&mut self, deadline_ms: u64) -> TimerId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.generations.push(0);
            index(self.generations.len() - 1)
        });
        let generation = self.generations[slot as usize];
        let timer = TimerId { slot, generation };
        self.heap.push(Reverse((deadline_ms, timer)));
        timer
    }

    pub(crate) fn cancel(&mut self, timer: TimerId) {
        if self.generations[timer.slot as usize] != timer.generation {
            return;
        }
        self.release(timer);
        let live = self.generations.len() - self.free.len();
        if self.heap.len() > 2 * live + 64 {
            let generations = &self.generations;
            self.heap
                .retain(|Reverse((_, timer))| generations[timer.slot as usize] == timer.generation);
        }
    }

    pub(crate) fn expire(&mut self, now_ms: u64) {
        while let Some(&Reverse((deadline_ms, timer))) = self.heap.peek()
            && deadline_ms <= now_ms
        {
            self.heap.pop();
            if self.generations[timer.slot as usize] == timer.generation {
                self.release(timer);
            }
        }
    }

    /// Frees the timer's slot. Its entry in the heap stays, with an old generation.
    fn release(&mut self, timer: TimerId) {
        self.generations[timer.slot as usize] += 1;
        self.free.push(timer.slot);
    }
}

/// A heap like libevent's: each timer knows its position in it, so that a cancelled timer is
/// removed at once.
#[derive(Default)]
pub(crate) struct IndexedHeap {
    heap: Vec<u32>,
    entries: Vec<Entry>,
    free: Vec<u32>,
}

struct Entry {
    deadline_ms: u64,
    /// The timer's position in the heap. `None` once it has expired or was cancelled.
    position: Option<u32>,
}

impl IndexedHeap {
    pub(crate) fn arm(&mut self, deadline_ms: u64) -> u32 {
        let entry = Entry {
            deadline_ms,
            position: None,
        };
        let timer = match self.free.pop() {
            Some(timer) => {
                self.entries[timer as usize] = entry;
                timer
            }
            None => {
                self.entries.push(entry);
                index(self.entries.len() - 1)
            }
        };
        self.heap.push(timer);
        self.rise(self.heap.len() - 1, timer);
        timer
    }

    pub(crate) fn cancel(&mut self, timer: u32) {
        if let Some(at) = self.entries[timer as usize].position.take() {
            self.remove(at as usize);
        }
        self.free.push(timer);
    }

    pub(crate) fn expire(&mut self, now_ms: u64) {
        while let Some(&first) = self.heap.first()
            && self.deadline_ms(first) <= now_ms
        {
            self.entries[first as usize].position = None;
            self.remove(0);
        }
    }

    fn deadline_ms(&self, timer: u32) -> u64 {
        self.entries[timer as usize].deadline_ms
    }

    /// Removes the timer at position `at`: the last timer of the heap takes that position, and
    /// rises or sinks from there.
    fn remove(&mut self, at: usize) {
        let last = self.heap.pop().expect("the heap is not empty");
        if at < self.heap.len() {
            let parent = at.checked_sub(1).map(|below| self.heap[below / 2]);
            let rises =
                parent.is_some_and(|parent| self.deadline_ms(parent) > self.deadline_ms(last));
            if rises {
                self.rise(at, last);
            } else {
                self.sink(at, last);
            }
        }
    }

    fn put(&mut self, at: usize, timer: u32) {
        self.heap[at] = timer;
        self.entries[timer as usize].position = Some(index(at));
    }

    fn rise(&mut self, mut at: usize, timer: u32) {
        while at > 0 {
            let parent = self.heap[(at - 1) / 2];
            if self.deadline_ms(parent) <= self.deadline_ms(timer) {
                break;
            }
            self.put(at, parent);
            at = (at - 1) / 2;
        }
        self.put(at, timer);
    }

    fn sink(&mut self, mut at: usize, timer: u32) {
        while let Some(&left) = self.heap.get(2 * at + 1) {
            let mut child = (2 * at + 1, left);
            if let Some(&right) = self.heap.get(2 * at + 2)
                && self.deadline_ms(right) < self.deadline_ms(left)
            {
                child = (2 * at + 2, right);
            }
            if self.deadline_ms(timer) <= self.deadline_ms(child.1) {
                break;
            }
            self.put(at, child.1);
            at = child.0;
        }
        self.put(at, timer);
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("fewer than 2^32 timers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use coring::sim::Random;

    /// Armed timers, each with its deadline.
    type Armed<T> = Vec<(T, u64)>;

    /// Arms, cancels and expires timers at random. After each step exactly the timers whose
    /// deadline has not passed are armed.
    fn check<H: Default, T: Copy + PartialEq>(
        arm: fn(&mut H, u64) -> T,
        cancel: fn(&mut H, T),
        expire: fn(&mut H, u64),
        is_armed: fn(&H, T) -> bool,
    ) {
        let (mut random, mut heap) = (Random::new(1), H::default());
        let mut armed: Armed<T> = Vec::new();
        for now_ms in 0..20_000 {
            if random.chance(600) || armed.is_empty() {
                let deadline_ms = now_ms + 1 + random.below(1000) as u64;
                armed.push((arm(&mut heap, deadline_ms), deadline_ms));
            } else {
                let (timer, _) = armed.swap_remove(random.below(armed.len()));
                cancel(&mut heap, timer);
            }
            expire(&mut heap, now_ms);
            for &(timer, deadline_ms) in &armed {
                assert_eq!(is_armed(&heap, timer), deadline_ms > now_ms);
            }
            let (expired, still): (Armed<T>, _) =
                armed.into_iter().partition(|armed| armed.1 <= now_ms);
            armed = still;
            // The owner of a timer cancels it also after it has expired.
            for (timer, _) in expired {
                cancel(&mut heap, timer);
            }
        }
    }

    #[test]
    fn lazy_heap_expires_timers_that_are_due_and_no_others() {
        check(
            LazyHeap::arm,
            LazyHeap::cancel,
            LazyHeap::expire,
            |heap, timer| heap.generations[timer.slot as usize] == timer.generation,
        );
    }

    #[test]
    fn indexed_heap_expires_timers_that_are_due_and_no_others() {
        check(
            IndexedHeap::arm,
            IndexedHeap::cancel,
            IndexedHeap::expire,
            |heap, timer| heap.entries[timer as usize].position.is_some(),
        );
    }
}
