//! A worker's cache of small files. It neither reads files nor the clock: the caller passes values,
//! their sizes and the time.
//!
//! An entry is fresh for [`TRUST_MS`]. The first request after that gets [`Lookup::Due`] and checks
//! the file. Meanwhile other requests get the entry as fresh, for another [`TRUST_MS`]. So no entry
//! is served for more than a second without a check, and cache hits do not wait for checks.
//!
//! Eviction uses the CLOCK algorithm, which approximates LRU: it removes an entry that was not used
//! since the hand last passed it. So files that are requested only once do not evict those that
//! are requested often.

use std::collections::HashMap;
use std::rc::Rc;

/// How long an entry is fresh after its file was checked, in ms. It is half of the promised second,
/// because a client that disconnects may cancel the check.
pub(super) const TRUST_MS: u64 = 500;

/// The estimated overhead of an entry in bytes, besides its content and two copies of its name.
const ENTRY_BYTES: usize = 1024;

/// A map from paths to values, with a limit in bytes.
#[derive(Debug)]
pub(super) struct Cache<V> {
    /// The index of each path's entry in `entries`.
    index: HashMap<Rc<[u8]>, usize>,
    entries: Vec<CacheEntry<V>>,
    /// The index in `entries` at which the next eviction starts.
    hand: usize,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct CacheEntry<V> {
    path: Rc<[u8]>,
    value: Rc<V>,
    bytes: usize,
    /// The entry was used since the hand last passed it.
    used: bool,
    /// When its file was last checked.
    checked_ms: u64,
    /// When a request must check the file again.
    due_ms: u64,
}

/// The result of a lookup.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup<V> {
    /// The value may be served.
    Fresh(Rc<V>),
    /// The caller must compare the value with its file.
    Due(Rc<V>),
    /// There is no value.
    Missing,
}

impl<V> Cache<V> {
    /// An empty cache with a limit of `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            index: HashMap::new(),
            entries: Vec::new(),
            hand: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// Whether content of `len` bytes may be cached: it must be less than an eighth of the limit.
    pub(super) fn accepts(&self, len: u64) -> bool {
        len < self.bytes_max as u64 / 8
    }

    /// Looks up `path`. If the entry is due, only this caller gets [`Lookup::Due`]; until
    /// `checked_ms + 2 * TRUST_MS` later callers get it as fresh.
    #[inline]
    pub(super) fn find(&mut self, path: &[u8], now_ms: u64) -> Lookup<V> {
        let Some(&at) = self.index.get(path) else {
            return Lookup::Missing;
        };
        let entry = &mut self.entries[at];
        entry.used = true;
        if now_ms < entry.due_ms {
            Lookup::Fresh(entry.value.clone())
        } else {
            entry.due_ms = entry.checked_ms + 2 * TRUST_MS;
            Lookup::Due(entry.value.clone())
        }
    }

    /// Marks `value` at `path` as fresh, because its file was unchanged at `checked_ms`. False if
    /// the cache no longer has this value there.
    pub(super) fn confirm(&mut self, path: &[u8], value: &Rc<V>, checked_ms: u64) -> bool {
        let entry = self.index.get(path).map(|&at| &mut self.entries[at]);
        let Some(entry) = entry.filter(|entry| Rc::ptr_eq(&entry.value, value)) else {
            return false;
        };
        entry.checked_ms = entry.checked_ms.max(checked_ms);
        entry.due_ms = entry.checked_ms + TRUST_MS;
        true
    }

    /// Puts a value with `len` bytes of content at `path`. It replaces the value that is there,
    /// unless that one was checked later. `checked_ms` is the time at which its file was opened.
    pub(super) fn insert(&mut self, path: &[u8], value: Rc<V>, len: usize, checked_ms: u64) {
        let known = self.index.get(path).map(|&at| &self.entries[at]);
        if known.is_some_and(|known| known.checked_ms > checked_ms) {
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
        self.index.insert(path.clone(), self.entries.len());
        self.bytes += bytes;
        self.entries.push(CacheEntry {
            path,
            value,
            bytes,
            used: false,
            checked_ms,
            due_ms: checked_ms + TRUST_MS,
        });
    }

    /// Removes all entries.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// Removes the entry of `path`, if there is one.
    pub(super) fn remove(&mut self, path: &[u8]) {
        if let Some(&at) = self.index.get(path) {
            self.remove_at(at);
        }
    }

    /// Removes one entry. The cache must not be empty.
    fn evict(&mut self) {
        loop {
            self.hand %= self.entries.len();
            let at = self.hand;
            self.hand += 1;
            if !std::mem::take(&mut self.entries[at].used) {
                // The last entry moves to this index, which the hand has just passed. So a new
                // entry is not evicted before the hand comes round.
                return self.remove_at(at);
            }
        }
    }

    fn remove_at(&mut self, at: usize) {
        let entry = self.entries.swap_remove(at);
        self.index.remove(&entry.path);
        self.bytes -= entry.bytes;
        if let Some(moved) = self.entries.get(at) {
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
        at.is_some_and(|&at| *cache.entries[at].path == [path])
    }

    fn value(found: Lookup<usize>) -> Option<usize> {
        match found {
            Lookup::Fresh(value) | Lookup::Due(value) => Some(*value),
            Lookup::Missing => None,
        }
    }

    #[test]
    fn an_entry_is_fresh_until_it_is_due() {
        let mut cache = cache(2, 100);
        assert_eq!(cache.find(b"a", 0), Lookup::Missing);
        cache.insert(b"a", Rc::new(1), 100, 1000);
        assert_eq!(cache.find(b"a", 1000), Lookup::Fresh(Rc::new(1)));
        assert_eq!(
            cache.find(b"a", 1000 + TRUST_MS - 1),
            Lookup::Fresh(Rc::new(1))
        );
        // The first caller must check the file; the others get the entry for TRUST_MS more.
        let later_ms = 1000 + TRUST_MS;
        assert_eq!(cache.find(b"a", later_ms), Lookup::Due(Rc::new(1)));
        assert_eq!(cache.find(b"a", later_ms), Lookup::Fresh(Rc::new(1)));
        let later_ms = later_ms + TRUST_MS;
        assert_eq!(cache.find(b"a", later_ms), Lookup::Due(Rc::new(1)));
        assert_eq!(cache.find(b"a", later_ms), Lookup::Due(Rc::new(1)));
        let Lookup::Due(known) = cache.find(b"a", later_ms) else {
            panic!("the entry is not due");
        };
        assert!(!cache.confirm(b"a", &Rc::new(1), later_ms));
        assert_eq!(cache.find(b"a", later_ms), Lookup::Due(Rc::new(1)));
        assert!(cache.confirm(b"a", &known, later_ms));
        assert_eq!(cache.find(b"a", later_ms), Lookup::Fresh(Rc::new(1)));
        // After a long time without requests every caller must check.
        assert_eq!(cache.find(b"a", 8000), Lookup::Due(Rc::new(1)));
        assert_eq!(cache.find(b"a", 8000), Lookup::Due(Rc::new(1)));
        cache.insert(b"a", Rc::new(2), 100, 9000);
        assert_eq!(cache.find(b"a", 9001), Lookup::Fresh(Rc::new(2)));
        // A slow check does not replace the result of a later one.
        cache.insert(b"a", Rc::new(1), 100, 8999);
        assert_eq!(cache.find(b"a", 9001), Lookup::Fresh(Rc::new(2)));
        cache.remove(b"a");
        assert_eq!(cache.find(b"a", 9001), Lookup::Missing);
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn the_limit_holds_and_used_entries_stay() {
        let mut cache = cache(4, 100);
        for path in b"abcd" {
            cache.insert(&[*path], Rc::new(0), 100, 0);
        }
        cache.find(b"a", 0);
        cache.find(b"c", 0);
        cache.insert(b"e", Rc::new(0), 100, 0);
        assert!(has(&cache, b'a') && has(&cache, b'c') && has(&cache, b'e'));
        // A crawl over many files does not evict the one that is requested all the time.
        for path in (0..=255_u8).filter(|path| !path.is_ascii_lowercase()) {
            cache.find(b"a", 0);
            cache.insert(&[path], Rc::new(0), 100, 0);
            assert!(cache.bytes <= cache.bytes_max && has(&cache, path));
        }
        assert!(has(&cache, b'a') && !has(&cache, b'c'));
    }

    #[test]
    fn a_value_that_is_too_large_is_not_cached() {
        let mut cache = cache(1, 1000);
        cache.insert(b"a", Rc::new(1), 1000, 0);
        cache.insert(b"b", Rc::new(2), 1001, 0);
        assert!(has(&cache, b'a') && !has(&cache, b'b'));
        // It does not replace the smaller value either. That value is outdated, so it is removed.
        cache.insert(b"a", Rc::new(3), 1001, 0);
        assert_eq!((cache.find(b"a", 0), cache.bytes), (Lookup::Missing, 0));
        assert!(cache.accepts(100) && !cache.accepts(1000));
        assert!(!Cache::<()>::new(0).accepts(0));
        cache.insert(b"a", Rc::new(4), 1000, 0);
        cache.clear();
        assert_eq!((cache.find(b"a", 0), cache.bytes), (Lookup::Missing, 0));
        assert!(cache.accepts(100));
    }

    #[test]
    fn entries_are_found_after_they_move() {
        let mut cache = cache(8, 10);
        let mut state = 1_u64;
        let mut expected = HashMap::new();
        for round in 0..10_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let path = [u8::try_from(state >> 60).expect("four bits fit into a byte")];
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
            assert_eq!(cache.index.len(), cache.entries.len());
            assert_eq!(cache.bytes, cache.entries.len() * (10 + 2 + ENTRY_BYTES));
            assert!(cache.bytes <= cache.bytes_max);
        }
    }
}
