//! The timer wheel: hierarchical, of 1 ms, in the spirit of picoev's timer ring.
//!
//! Six levels of 64 slots; a slot of level n spans 64^n ms. Arming, moving and cancelling are O(1)
//! whatever the number of timers, where a heap needs O(log n). A deadline that moves *later* is
//! only written down: the timer stays where it is, and is placed anew when its old slot comes up.
//! A connection whose deadline moves with every request thus costs the wheel nothing.

use std::task::Waker;

use super::waker::note_waker;

const LEVELS: usize = 6;
const SLOT_BITS: usize = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// The furthest a timer is placed ahead, in ms (two years); a later one is placed again then. It is
/// a slot less than the wheel's whole round: who is placed in the slot that time is in would hide
/// all others of its level.
const RANGE_MS: u64 = (SLOTS as u64 - 1) << ((LEVELS - 1) * SLOT_BITS);
const NIL: u32 = u32::MAX;
/// The deadline of a timer that is not armed.
pub(super) const NEVER: u64 = u64::MAX;

#[derive(Debug)]
struct Entry {
    /// When the owner wants to be woken, in ms; `NEVER` when it does not.
    deadline_ms: u64,
    /// When the wheel will look at this entry, in ms; `NEVER` when it is in no list.
    placed_ms: u64,
    /// The list it is in: level * SLOTS + slot. In the free list, `next` alone counts.
    list: u16,
    next: u32,
    prev: u32,
    waker: Option<Waker>,
}

/// All timers of one worker. Time is an argument, in ms since any fixed moment.
#[derive(Debug)]
pub struct Wheel {
    now_ms: u64,
    entries: Vec<Entry>,
    free: u32,
    live: usize,
    heads: [u32; LEVELS * SLOTS],
    /// Per level, a bit for each slot whose list is not empty.
    occupied: [u64; LEVELS],
}

#[allow(clippy::new_without_default, reason = "a worker makes one, by name")]
impl Wheel {
    /// A wheel without timers that stands at 0.
    pub fn new() -> Self {
        Self {
            now_ms: 0,
            entries: Vec::new(),
            free: NIL,
            live: 0,
            heads: [NIL; LEVELS * SLOTS],
            occupied: [0; LEVELS],
        }
    }

    /// Timers that exist, armed or not.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Makes a timer, not armed, and returns its slot.
    pub fn insert(&mut self) -> u32 {
        self.live += 1;
        let entry = Entry {
            deadline_ms: NEVER,
            placed_ms: NEVER,
            list: 0,
            next: NIL,
            prev: NIL,
            waker: None,
        };
        if self.free == NIL {
            self.entries.push(entry);
            return index(self.entries.len() - 1);
        }
        let slot = self.free;
        self.free = self.entries[slot as usize].next;
        self.entries[slot as usize] = entry;
        slot
    }

    /// Forgets a timer. Its waker is to be dropped when the wheel is free again.
    pub fn remove(&mut self, timer: u32) -> Option<Waker> {
        self.unlink(timer);
        let entry = &mut self.entries[timer as usize];
        entry.deadline_ms = NEVER;
        entry.next = self.free;
        self.free = timer;
        self.live -= 1;
        entry.waker.take()
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

    /// The deadline of a timer, or the largest number if it is not armed.
    pub fn deadline_ms(&self, timer: u32) -> u64 {
        self.entries[timer as usize].deadline_ms
    }

    /// Names who is to be woken when the timer's deadline has come, in place of whom it returns.
    #[inline]
    pub fn set_waker(&mut self, timer: u32, waker: &Waker) -> Option<Waker> {
        note_waker(&mut self.entries[timer as usize].waker, waker)
    }

    /// Takes all wakers out, when no timer will fire any more.
    pub(super) fn take_wakers(&mut self) -> impl Iterator<Item = Waker> {
        self.entries
            .iter_mut()
            .filter_map(|entry| entry.waker.take())
    }

    /// When the wheel must be advanced next, in ms; none when no timer is armed. It may be
    /// earlier than the earliest deadline, never later.
    pub fn next_ms(&self) -> Option<u64> {
        self.next_list().map(|(at_ms, _)| at_ms)
    }

    /// Moves time forward and hands the waker of each timer whose deadline has come to `fire`.
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

    /// The list that comes up first, and when. Lists of a lower level come before those of a
    /// higher one: a slot of level n + 1 begins where the slots of level n end.
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

    /// Puts an armed timer that is in no list where its deadline belongs.
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

    struct Note(Arc<Mutex<Vec<u32>>>, u32);

    impl Wake for Note {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().push(self.1);
        }
    }

    /// A deterministic stream of numbers (xorshift).
    fn random(seed: &AtomicU64) -> u64 {
        let mut x = seed.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        seed.store(x, Ordering::Relaxed);
        x
    }

    /// Every random life of a wheel agrees with a plain list of deadlines, ms by ms.
    #[test]
    fn it_fires_exactly_what_a_plain_list_would() {
        let (lives, steps) = if cfg!(miri) { (2, 100) } else { (39, 2000) };
        for start in 1..=lives {
            let seed = AtomicU64::new(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(start));
            let fired = Arc::new(Mutex::new(Vec::new()));
            let mut wheel = Wheel::new();
            let mut now_ms = random(&seed) % (1 << 40);
            wheel.advance(now_ms, |_| ());
            // Every other life is one of years.
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
                let note = Note(fired.clone(), u32::try_from(n).unwrap());
                let _ = wheel.set_waker(timers[n], &Waker::from(Arc::new(note)));
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
    fn a_later_deadline_is_only_written_down() {
        let mut wheel = Wheel::new();
        let timer = wheel.insert();
        wheel.set(timer, 10);
        let placed = wheel.entries[timer as usize].placed_ms;
        wheel.set(timer, 5000);
        assert_eq!(wheel.entries[timer as usize].placed_ms, placed);
        let mut fired = 0;
        let _ = wheel.set_waker(timer, Waker::noop());
        wheel.advance(4999, |_| fired += 1);
        assert_eq!(fired, 0);
        wheel.advance(5000, |_| fired += 1);
        assert_eq!(fired, 1);
    }

    #[test]
    fn a_timer_of_years_hides_no_other() {
        let mut wheel = Wheel::new();
        let boundary_ms = 5 << 30;
        wheel.advance(boundary_ms - 10, |_| ());
        let (far, near) = (wheel.insert(), wheel.insert());
        wheel.set(far, u64::MAX / 2);
        wheel.set(near, boundary_ms + 10);
        let _ = wheel.set_waker(near, Waker::noop());
        let mut fired = 0;
        wheel.advance(boundary_ms + 10, |_| fired += 1);
        assert_eq!(fired, 1);
    }

    #[test]
    fn slots_are_used_again() {
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
