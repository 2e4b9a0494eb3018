//! Small files that are asked for often, in memory; each worker has its own. It refuses to know
//! files and clocks: what it holds has a cost, and the time is given.
//!
//! An entry is trusted for [`TRUST_MS`]. Whoever asks for it after that is told that it is due, and
//! looks at the file; all others go on being served meanwhile, for as long again. So nothing is
//! stale for longer than a second, and looking costs the hot path nothing.
//!
//! When there is no room, those go that have not been asked for since the cache last looked for
//! room: a clock, which comes close to the least recently used. What is read once and never again
//! does not drive out what is asked for all the time.

use std::collections::HashMap;
use std::rc::Rc;

/// How long an entry is served without a look at its file, in ms: half of what is promised, for a
/// look may be lost with its client.
pub(super) const TRUST_MS: u64 = 500;

/// What an entry costs besides its content and twice its name, in bytes; an estimate.
const ENTRY_BYTES: usize = 1024;

/// Values by their path, up to a bound in bytes.
#[derive(Debug)]
pub(super) struct Cache<V> {
    index: HashMap<Rc<[u8]>, usize>,
    slots: Vec<Slot<V>>,
    /// Where the search for room goes on.
    hand: usize,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Slot<V> {
    path: Rc<[u8]>,
    value: Rc<V>,
    bytes: usize,
    /// Asked for since the hand was here.
    used: bool,
    /// When its file was looked at.
    looked_ms: u64,
    /// When somebody is to look again.
    due_ms: u64,
}

/// What the cache has for a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<V> {
    /// This, to be served.
    Fresh(Rc<V>),
    /// This, to be compared with its file.
    Due(Rc<V>),
    /// Nothing.
    Missing,
}

impl<V> Cache<V> {
    /// An empty cache of `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            index: HashMap::new(),
            slots: Vec::new(),
            hand: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// Whether it would hold content of `len` bytes: no single file may take more than an eighth.
    pub(super) fn takes(&self, len: u64) -> bool {
        len < self.bytes_max as u64 / 8
    }

    /// Looks `path` up.
    #[inline]
    pub(super) fn find(&mut self, path: &[u8], now_ms: u64) -> Found<V> {
        let Some(&at) = self.index.get(path) else {
            return Found::Missing;
        };
        let slot = &mut self.slots[at];
        slot.used = true;
        if now_ms < slot.due_ms {
            Found::Fresh(slot.value.clone())
        } else {
            slot.due_ms = slot.looked_ms + 2 * TRUST_MS;
            Found::Due(slot.value.clone())
        }
    }

    /// Trusts `value` at `path` anew: when its file was looked at, `looked_ms`, it was as before.
    /// False: there is another by now, or none.
    pub(super) fn confirm(&mut self, path: &[u8], value: &Rc<V>, looked_ms: u64) -> bool {
        let slot = self.index.get(path).map(|&at| &mut self.slots[at]);
        let Some(slot) = slot.filter(|slot| Rc::ptr_eq(&slot.value, value)) else {
            return false;
        };
        slot.looked_ms = slot.looked_ms.max(looked_ms);
        slot.due_ms = slot.looked_ms + TRUST_MS;
        true
    }

    /// Puts a value with `len` bytes of content at `path`, in place of the one that was there
    /// unless that is the newer. `looked_ms` is when its file was opened.
    pub(super) fn insert(&mut self, path: &[u8], value: Rc<V>, len: usize, looked_ms: u64) {
        let known = self.index.get(path).map(|&at| &self.slots[at]);
        if known.is_some_and(|known| known.looked_ms > looked_ms) {
            return;
        }
        self.remove(path);
        let bytes = len + 2 * path.len() + ENTRY_BYTES;
        if bytes > self.bytes_max {
            return;
        }
        while self.bytes + bytes > self.bytes_max {
            self.evict();
        }
        let path: Rc<[u8]> = path.into();
        self.index.insert(path.clone(), self.slots.len());
        self.bytes += bytes;
        self.slots.push(Slot {
            path,
            value,
            bytes,
            used: false,
            looked_ms,
            due_ms: looked_ms + TRUST_MS,
        });
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// Forgets `path`.
    pub(super) fn remove(&mut self, path: &[u8]) {
        if let Some(&at) = self.index.get(path) {
            self.remove_at(at);
        }
    }

    /// Takes out one entry; there is one.
    fn evict(&mut self) {
        loop {
            self.hand %= self.slots.len();
            let at = self.hand;
            self.hand += 1;
            if !std::mem::take(&mut self.slots[at].used) {
                // The last entry moves to this place, and the hand has passed it: new ones stay
                // for a round.
                return self.remove_at(at);
            }
        }
    }

    fn remove_at(&mut self, at: usize) {
        let slot = self.slots.swap_remove(at);
        self.index.remove(&slot.path);
        self.bytes -= slot.bytes;
        if let Some(moved) = self.slots.get(at) {
            self.index.insert(moved.path.clone(), at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Room for exactly `count` entries of `len` bytes with names of one byte.
    fn cache(count: usize, len: usize) -> Cache<usize> {
        Cache::new(count * (len + 2 + ENTRY_BYTES))
    }

    fn has(cache: &Cache<usize>, path: u8) -> bool {
        let at = cache.index.get(&[path][..]);
        at.is_some_and(|&at| *cache.slots[at].path == [path])
    }

    fn value(found: Found<usize>) -> Option<usize> {
        match found {
            Found::Fresh(value) | Found::Due(value) => Some(*value),
            Found::Missing => None,
        }
    }

    #[test]
    fn values_are_found_until_they_are_due() {
        let mut cache = cache(2, 100);
        assert_eq!(cache.find(b"a", 0), Found::Missing);
        cache.insert(b"a", Rc::new(1), 100, 1000);
        assert_eq!(cache.find(b"a", 1000), Found::Fresh(Rc::new(1)));
        assert_eq!(
            cache.find(b"a", 1000 + TRUST_MS - 1),
            Found::Fresh(Rc::new(1))
        );
        // One is told to look; the others are served meanwhile, but not for long.
        let later_ms = 1000 + TRUST_MS;
        assert_eq!(cache.find(b"a", later_ms), Found::Due(Rc::new(1)));
        assert_eq!(cache.find(b"a", later_ms), Found::Fresh(Rc::new(1)));
        let later_ms = later_ms + TRUST_MS;
        assert_eq!(cache.find(b"a", later_ms), Found::Due(Rc::new(1)));
        assert_eq!(cache.find(b"a", later_ms), Found::Due(Rc::new(1)));
        let Found::Due(known) = cache.find(b"a", later_ms) else {
            panic!("it is due");
        };
        assert!(!cache.confirm(b"a", &Rc::new(1), later_ms));
        assert_eq!(cache.find(b"a", later_ms), Found::Due(Rc::new(1)));
        assert!(cache.confirm(b"a", &known, later_ms));
        assert_eq!(cache.find(b"a", later_ms), Found::Fresh(Rc::new(1)));
        // Nobody asks for long: then nobody is served what may be as old.
        assert_eq!(cache.find(b"a", 8000), Found::Due(Rc::new(1)));
        assert_eq!(cache.find(b"a", 8000), Found::Due(Rc::new(1)));
        cache.insert(b"a", Rc::new(2), 100, 9000);
        assert_eq!(cache.find(b"a", 9001), Found::Fresh(Rc::new(2)));
        // A look that took longer knows less.
        cache.insert(b"a", Rc::new(1), 100, 8999);
        assert_eq!(cache.find(b"a", 9001), Found::Fresh(Rc::new(2)));
        cache.remove(b"a");
        assert_eq!(cache.find(b"a", 9001), Found::Missing);
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn the_bound_holds_and_what_is_used_stays() {
        let mut cache = cache(4, 100);
        for path in b"abcd" {
            cache.insert(&[*path], Rc::new(0), 100, 0);
        }
        cache.find(b"a", 0);
        cache.find(b"c", 0);
        cache.insert(b"e", Rc::new(0), 100, 0);
        assert!(has(&cache, b'a') && has(&cache, b'c') && has(&cache, b'e'));
        // A crawl over many files leaves the one that is asked for all the time.
        for path in (0..=255_u8).filter(|path| !path.is_ascii_lowercase()) {
            cache.find(b"a", 0);
            cache.insert(&[path], Rc::new(0), 100, 0);
            assert!(cache.bytes <= cache.bytes_max && has(&cache, path));
        }
        assert!(has(&cache, b'a') && !has(&cache, b'c'));
    }

    #[test]
    fn what_does_not_fit_is_not_taken() {
        let mut cache = cache(1, 1000);
        cache.insert(b"a", Rc::new(1), 1000, 0);
        cache.insert(b"b", Rc::new(2), 1001, 0);
        assert!(has(&cache, b'a') && !has(&cache, b'b'));
        // Not even in place of a smaller one, which is no longer true.
        cache.insert(b"a", Rc::new(3), 1001, 0);
        assert_eq!((cache.find(b"a", 0), cache.bytes), (Found::Missing, 0));
        assert!(cache.takes(100) && !cache.takes(1000));
        assert!(!Cache::<()>::new(0).takes(0));
        cache.insert(b"a", Rc::new(4), 1000, 0);
        cache.clear();
        assert_eq!((cache.find(b"a", 0), cache.bytes), (Found::Missing, 0));
        assert!(cache.takes(100));
    }

    #[test]
    fn entries_are_found_wherever_they_move() {
        let mut cache = cache(8, 10);
        let mut state = 1_u64;
        let mut expected = HashMap::new();
        for round in 0..10_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let path = [u8::try_from(state >> 60).expect("four bits")];
            match (state >> 40) % 4 {
                0 => cache.remove(&path),
                1 => {
                    cache.insert(&path, Rc::new(round), 10, 0);
                    expected.insert(path, round);
                }
                _ => {
                    let found = value(cache.find(&path, 0));
                    assert!(found.is_none_or(|found| expected[&path] == found));
                }
            }
            assert_eq!(cache.index.len(), cache.slots.len());
            assert_eq!(cache.bytes, cache.slots.len() * (10 + 2 + ENTRY_BYTES));
            assert!(cache.bytes <= cache.bytes_max);
        }
    }
}
