//! The timer wheel: hierarchical, with a resolution of 1 ms, inspired by picoev's timer ring.
//!
//! It has six levels of 64 slots; a slot of level n spans 64^n ms. Arming, moving and cancelling a
//! timer is O(1) for any number of timers, where a heap needs O(log n). Moving a deadline *later*
//! only stores it: the timer stays in its slot, and is placed again when that slot comes up. So a
//! connection whose deadline moves with every request costs the wheel nothing.

use std::task::Waker;

use super::vacant::{ENTRIES_MIN, Vacant};

const LEVELS: usize = 6;
const SLOT_BITS: usize = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// How far ahead a timer is placed at most, in ms (two years). A timer with a later deadline is
/// placed again when that time has come. The range is one slot less than a full round of the top
/// level: a timer in the slot that contains the present would hide all others of its level.
const RANGE_MS: u64 = (SLOTS as u64 - 1) << ((LEVELS - 1) * SLOT_BITS);
const NIL: u32 = u32::MAX;
const UNUSED: u16 = u16::MAX;
/// The deadline of a timer that is not armed.
pub(super) const NEVER: u64 = u64::MAX;

#[derive(Debug)]
struct TimerEntry {
    /// When the owner wants to be woken, in ms; `NEVER` if the timer is not armed.
    deadline_ms: u64,
    /// When the wheel will check this entry, in ms; `NEVER` if the entry is in no list.
    placed_ms: u64,
    /// The list that contains the entry: level * SLOTS + slot. `UNUSED` in an unused entry.
    list: u16,
    /// The next entry of that list.
    next: u32,
    prev: u32,
    waker: Option<Waker>,
}

/// All timers of one worker. The caller passes the time, in ms since any fixed moment.
#[derive(Debug)]
pub struct Wheel {
    now_ms: u64,
    entries: Vec<TimerEntry>,
    vacant: Vacant,
    live: usize,
    /// The first entry of each list, or `NIL`.
    heads: [u32; LEVELS * SLOTS],
    /// Per level, a bit for each slot whose list is not empty.
    occupied: [u64; LEVELS],
}

#[allow(
    clippy::new_without_default,
    reason = "only the executor makes a wheel"
)]
impl Wheel {
    /// Makes a wheel without timers, at time 0.
    pub fn new() -> Self {
        Self {
            now_ms: 0,
            entries: Vec::new(),
            vacant: Vacant::default(),
            live: 0,
            heads: [NIL; LEVELS * SLOTS],
            occupied: [0; LEVELS],
        }
    }

    /// The number of timers, armed or not.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Makes a timer, not armed, and returns the index of its entry.
    pub fn insert(&mut self) -> u32 {
        self.live += 1;
        let entry = TimerEntry {
            deadline_ms: NEVER,
            placed_ms: NEVER,
            list: 0,
            next: NIL,
            prev: NIL,
            waker: None,
        };
        let Some(timer) = self.vacant.take(self.entries.len()) else {
            self.entries.push(entry);
            return index(self.entries.len() - 1);
        };
        self.entries[timer as usize] = entry;
        timer
    }

    /// Removes a timer. The caller must drop the returned waker when the wheel is not borrowed.
    pub fn remove(&mut self, timer: u32) -> Option<Waker> {
        self.unlink(timer);
        let entry = &mut self.entries[timer as usize];
        entry.deadline_ms = NEVER;
        entry.list = UNUSED;
        let waker = entry.waker.take();
        self.live -= 1;
        self.vacant.add(timer);
        if self.entries.len() > ENTRIES_MIN {
            while self.entries.pop_if(|last| last.list == UNUSED).is_some() {}
            self.vacant.shrink(&mut self.entries);
        }
        waker
    }

    /// Arms or moves a timer; `NEVER` disarms it.
    #[inline]
    pub fn set(&mut self, timer: u32, deadline_ms: u64) {
        let entry = &mut self.entries[timer as usize];
        entry.deadline_ms = deadline_ms;
        if entry.placed_ms > deadline_ms {
            self.unlink(timer);
            self.place(timer);
        }
    }

    /// The deadline of a timer, in ms; `NEVER` if it is not armed.
    pub fn deadline_ms(&self, timer: u32) -> u64 {
        self.entries[timer as usize].deadline_ms
    }

    /// The waker for a timer's deadline.
    #[inline]
    pub fn waker_mut(&mut self, timer: u32) -> &mut Option<Waker> {
        &mut self.entries[timer as usize].waker
    }

    /// Takes all wakers out, for an executor that ends.
    pub(super) fn take_wakers(&mut self) -> impl Iterator<Item = Waker> {
        self.entries
            .iter_mut()
            .filter_map(|entry| entry.waker.take())
    }

    /// When the wheel must be advanced next, in ms; `None` if all lists are empty. This may be
    /// earlier than the earliest deadline, but is never later.
    pub fn next_ms(&self) -> Option<u64> {
        self.next_list().map(|(at_ms, _)| at_ms)
    }

    /// Moves time to `now_ms`, and passes the waker of each timer that is due to `fire`.
    pub fn advance(&mut self, now_ms: u64, mut fire: impl FnMut(Waker)) {
        while let Some((at_ms, list)) = self.next_list() {
            if at_ms > now_ms {
                break;
            }
            self.now_ms = self.now_ms.max(at_ms);
            let mut timer = std::mem::replace(&mut self.heads[list], NIL);
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
            while timer != NIL {
                let entry = &mut self.entries[timer as usize];
                let next = entry.next;
                entry.placed_ms = NEVER;
                if entry.deadline_ms <= self.now_ms {
                    if let Some(waker) = entry.waker.take() {
                        fire(waker);
                    }
                } else if entry.deadline_ms != NEVER {
                    self.place(timer);
                }
                timer = next;
            }
        }
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// The list that comes up first, and its time in ms. The lists of a lower level come up before
    /// those of a higher one: a slot of level n + 1 begins where the slots of level n end.
    fn next_list(&self) -> Option<(u64, usize)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let shift = level * SLOT_BITS;
        let position = (self.now_ms >> shift) % SLOTS as u64;
        #[expect(clippy::cast_possible_truncation, reason = "less than 64")]
        let ahead = self.occupied[level]
            .rotate_right(position as u32)
            .trailing_zeros();
        let slot = (position + u64::from(ahead)) % SLOTS as u64;
        let round_ms = 1 << (shift + SLOT_BITS);
        let mut at_ms = (self.now_ms & !(round_ms - 1)) + (slot << shift);
        if at_ms < self.now_ms || (level > 0 && ahead == 0) {
            at_ms += round_ms;
        }
        #[expect(clippy::cast_possible_truncation, reason = "less than 64")]
        let slot = slot as usize;
        Some((at_ms, level * SLOTS + slot))
    }

    /// Puts an armed timer that is in no list into the list for its deadline.
    fn place(&mut self, timer: u32) {
        let now_ms = self.now_ms;
        let entry = &mut self.entries[timer as usize];
        let placed_ms = entry.deadline_ms.clamp(now_ms + 1, now_ms + RANGE_MS);
        let differing = (placed_ms ^ now_ms) | (SLOTS as u64 - 1);
        let level = (differing.ilog2() as usize / SLOT_BITS).min(LEVELS - 1);
        #[expect(clippy::cast_possible_truncation, reason = "less than 64")]
        let slot = ((placed_ms >> (level * SLOT_BITS)) % SLOTS as u64) as usize;
        let list = level * SLOTS + slot;
        let head = self.heads[list];
        entry.placed_ms = placed_ms;
        #[expect(clippy::cast_possible_truncation, reason = "less than LEVELS * SLOTS")]
        let list_number = list as u16;
        entry.list = list_number;
        entry.next = head;
        entry.prev = NIL;
        if head != NIL {
            self.entries[head as usize].prev = timer;
        }
        self.heads[list] = timer;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, timer: u32) {
        let entry = &mut self.entries[timer as usize];
        if entry.placed_ms == NEVER {
            return;
        }
        entry.placed_ms = NEVER;
        let (list, next, prev) = (usize::from(entry.list), entry.next, entry.prev);
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        if prev != NIL {
            self.entries[prev as usize].next = next;
        } else {
            self.heads[list] = next;
            if next == NIL {
                self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
            }
        }
    }
}

fn index(n: usize) -> u32 {
    u32::try_from(n)
        .ok()
        .filter(|&n| n != NIL)
        .expect("fewer than 2^32 - 1 timers")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};
    use std::task::Wake;

    use super::*;

    /// A waker that appends its number to a list when it is woken.
    struct Recorder(Arc<Mutex<Vec<u32>>>, u32);

    impl Wake for Recorder {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().push(self.1);
        }
    }

    /// A deterministic pseudo-random number (xorshift).
    fn random(seed: &AtomicU64) -> u64 {
        let mut x = seed.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        seed.store(x, Ordering::Relaxed);
        x
    }

    /// Compares random operations on a wheel with a plain list of deadlines.
    #[test]
    fn fires_the_same_timers_as_a_plain_list() {
        let (rounds, steps) = if cfg!(miri) { (2, 100) } else { (39, 2000) };
        for start in 1..=rounds {
            let seed = AtomicU64::new(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(start));
            let fired = Arc::new(Mutex::new(Vec::new()));
            let mut wheel = Wheel::new();
            let mut now_ms = random(&seed) % (1 << 40);
            wheel.advance(now_ms, |_| ());
            // Every other round covers years.
            let (span_bits, pause_bits) = if start % 2 == 0 { (39, 38) } else { (24, 20) };
            let timers: Vec<u32> = (0..20).map(|_| wheel.insert()).collect();
            let mut expected = [NEVER; 20];
            for _ in 0..steps {
                let n = (random(&seed) % 20) as usize;
                let span = 1 << (random(&seed) % span_bits);
                match random(&seed) % 4 {
                    0 => expected[n] = NEVER,
                    _ => expected[n] = now_ms + 1 + random(&seed) % span,
                }
                wheel.set(timers[n], expected[n]);
                let recorder = Recorder(fired.clone(), u32::try_from(n).unwrap());
                *wheel.waker_mut(timers[n]) = Some(Waker::from(Arc::new(recorder)));
                now_ms += random(&seed) % (1 << (random(&seed) % pause_bits));
                if let Some(next_ms) = wheel.next_ms() {
                    let earliest = expected.iter().min().unwrap();
                    assert!(next_ms <= (*earliest).max(wheel.now_ms), "seed {start}");
                }
                wheel.advance(now_ms, Waker::wake);
                let mut got = std::mem::take(&mut *fired.lock().unwrap());
                got.sort_unstable();
                let due = (0..20)
                    .filter(|&n| expected[n as usize] <= now_ms)
                    .collect::<Vec<_>>();
                assert_eq!(got, due, "seed {start} at {now_ms}");
                for n in due {
                    expected[n as usize] = NEVER;
                    wheel.set(timers[n as usize], NEVER);
                }
            }
        }
    }

    #[test]
    fn moving_a_deadline_later_leaves_the_timer_in_its_list() {
        let mut wheel = Wheel::new();
        let timer = wheel.insert();
        wheel.set(timer, 10);
        let placed = wheel.entries[timer as usize].placed_ms;
        wheel.set(timer, 5000);
        assert_eq!(wheel.entries[timer as usize].placed_ms, placed);
        let mut fired = 0;
        *wheel.waker_mut(timer) = Some(Waker::noop().clone());
        wheel.advance(4999, |_| fired += 1);
        assert_eq!(fired, 0);
        wheel.advance(5000, |_| fired += 1);
        assert_eq!(fired, 1);
    }

    #[test]
    fn a_timer_years_ahead_does_not_hide_a_near_one() {
        let mut wheel = Wheel::new();
        let boundary_ms = 5 << 30;
        wheel.advance(boundary_ms - 10, |_| ());
        let (far, near) = (wheel.insert(), wheel.insert());
        wheel.set(far, u64::MAX / 2);
        wheel.set(near, boundary_ms + 10);
        *wheel.waker_mut(near) = Some(Waker::noop().clone());
        let mut fired = 0;
        wheel.advance(boundary_ms + 10, |_| fired += 1);
        assert_eq!(fired, 1);
    }

    /// A burst is given back, and the timers that are left still fire.
    #[test]
    fn the_entries_of_a_burst_are_given_back() {
        const BURST: usize = if cfg!(miri) { 1500 } else { 100_000 };
        let mut wheel = Wheel::new();
        let kept: Vec<u32> = (0..10).map(|_| wheel.insert()).collect();
        for burst in 1..=3 {
            let timers: Vec<u32> = (0..BURST).map(|_| wheel.insert()).collect();
            assert!(wheel.entries.capacity() >= BURST);
            for timer in timers {
                wheel.set(timer, 1 << 30);
                wheel.remove(timer);
            }
            assert!(wheel.entries.capacity() <= 1024, "burst {burst}");
            assert_eq!(wheel.live(), kept.len());
        }
        let mut fired = 0;
        for &timer in &kept {
            wheel.set(timer, 7);
            *wheel.waker_mut(timer) = Some(Waker::noop().clone());
        }
        wheel.advance(7, |_| fired += 1);
        assert_eq!(fired, kept.len());
        // Every free entry is used once.
        let mut all: Vec<u32> = (0..5000).map(|_| wheel.insert()).chain(kept).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 5010);
    }

    #[test]
    fn entries_are_reused() {
        let mut wheel = Wheel::new();
        let first = wheel.insert();
        wheel.set(first, 7);
        wheel.remove(first);
        assert_eq!(
            (wheel.insert(), wheel.live(), wheel.next_ms()),
            (first, 1, None)
        );
    }
}
