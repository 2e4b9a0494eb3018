//! Timers as others have them: two binary heaps, for what the wheel is compared with. Neither
//! knows whom it wakes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Std's heap: what is cancelled stays until it comes up, or until most of the heap is such.
#[derive(Default)]
pub(crate) struct LazyHeap {
    heap: BinaryHeap<Reverse<(u64, Name)>>,
    generations: Vec<u32>,
    free: Vec<u32>,
}

/// A place, and which of its tenants is meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    slot: u32,
    generation: u32,
}

impl LazyHeap {
    pub(crate) fn arm(&mut self, deadline_ms: u64) -> Name {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.generations.push(0);
            index(self.generations.len() - 1)
        });
        let generation = self.generations[slot as usize];
        let name = Name { slot, generation };
        self.heap.push(Reverse((deadline_ms, name)));
        name
    }

    pub(crate) fn cancel(&mut self, name: Name) {
        if self.generations[name.slot as usize] != name.generation {
            return;
        }
        self.forget(name);
        let live = self.generations.len() - self.free.len();
        if self.heap.len() > 2 * live + 64 {
            let generations = &self.generations;
            self.heap
                .retain(|Reverse((_, name))| generations[name.slot as usize] == name.generation);
        }
    }

    pub(crate) fn expire(&mut self, now_ms: u64) {
        while let Some(&Reverse((deadline_ms, name))) = self.heap.peek()
            && deadline_ms <= now_ms
        {
            self.heap.pop();
            if self.generations[name.slot as usize] == name.generation {
                self.forget(name);
            }
        }
    }

    fn forget(&mut self, name: Name) {
        self.generations[name.slot as usize] += 1;
        self.free.push(name.slot);
    }
}

/// libevent's way: each timer knows its place in the heap, and is taken out of its midst.
#[derive(Default)]
pub(crate) struct IndexedHeap {
    heap: Vec<u32>,
    entries: Vec<Entry>,
    free: Vec<u32>,
}

struct Entry {
    deadline_ms: u64,
    /// Where it is in the heap; none when it is not.
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
            self.take_out(at as usize);
        }
        self.free.push(timer);
    }

    pub(crate) fn expire(&mut self, now_ms: u64) {
        while let Some(&first) = self.heap.first()
            && self.deadline_ms(first) <= now_ms
        {
            self.entries[first as usize].position = None;
            self.take_out(0);
        }
    }

    fn deadline_ms(&self, timer: u32) -> u64 {
        self.entries[timer as usize].deadline_ms
    }

    /// Fills the place `at` with the last timer, which rises or sinks from there.
    fn take_out(&mut self, at: usize) {
        let last = self.heap.pop().expect("there is one");
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

    /// Armed timers by their names, and when each is due.
    type Armed<N> = Vec<(N, u64)>;

    /// What expires is what is due, in either heap, whatever was cancelled before.
    fn lives<H: Default, N: Copy + PartialEq>(
        arm: fn(&mut H, u64) -> N,
        cancel: fn(&mut H, N),
        expire: fn(&mut H, u64),
        is_armed: fn(&H, N) -> bool,
    ) {
        let (mut random, mut heap) = (Random::new(1), H::default());
        let mut armed: Armed<N> = Vec::new();
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
            let (gone, still) = armed.into_iter().partition(|armed| armed.1 <= now_ms);
            armed = still;
            let gone: Armed<N> = gone;
            gone.into_iter()
                .for_each(|(timer, _)| cancel(&mut heap, timer));
        }
    }

    #[test]
    fn the_lazy_heap_keeps_what_is_armed() {
        lives(
            LazyHeap::arm,
            LazyHeap::cancel,
            LazyHeap::expire,
            |heap, name| heap.generations[name.slot as usize] == name.generation,
        );
    }

    #[test]
    fn the_indexed_heap_keeps_what_is_armed() {
        lives(
            IndexedHeap::arm,
            IndexedHeap::cancel,
            IndexedHeap::expire,
            |heap, timer| heap.entries[timer as usize].position.is_some(),
        );
    }
}
