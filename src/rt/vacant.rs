//! The unused entries of a table whose entries are known by their index. A table that a burst has
//! enlarged gives its memory back: while it has more than [`ENTRIES_MIN`] entries, its user removes
//! unused ones from its end as soon as they are there, and calls [`Vacant::shrink`].

/// A table with this many entries or fewer keeps its memory.
pub(super) const ENTRIES_MIN: usize = 1024;

/// The indices of unused entries. Those behind the end of the table do not count: they were removed
/// from it. The table grows only when there is no index left here, so none of these comes back.
#[derive(Debug, Default)]
pub(super) struct Vacant(Vec<u32>);

impl Vacant {
    /// Adds an index.
    #[inline]
    pub(super) fn add(&mut self, index: u32) {
        self.0.push(index);
    }

    /// Takes an index for a table of `len` entries; `None` if the table must grow.
    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Option<u32> {
        loop {
            let index = self.0.pop()?;
            if (index as usize) < len {
                return Some(index);
            }
        }
    }

    /// Gives back the memory of `table`, if most of it is not used any more.
    #[inline]
    pub(super) fn shrink<T>(&mut self, table: &mut Vec<T>) {
        if table.capacity() > ENTRIES_MIN && table.len() < table.capacity() / 4 {
            self.shrink_now(table);
        }
    }

    #[cold]
    fn shrink_now<T>(&mut self, table: &mut Vec<T>) {
        let len = table.len();
        table.shrink_to((2 * len).max(ENTRIES_MIN));
        self.0.retain(|&index| (index as usize) < len);
        self.0.shrink_to_fit();
    }
}
