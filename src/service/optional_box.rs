//! An optional value on the heap, for data that few requests and responses have. The others spend
//! one null pointer on it.

use std::fmt;

/// An `Option<Box<T>>` that is cheap to drop while it is empty: the check is inlined, and only
/// dropping a value is a call.
pub(super) struct OptionalBox<T>(Option<Box<T>>);

impl<T> OptionalBox<T> {
    /// No value.
    pub(super) const NONE: Self = Self(None);

    /// The value, if there is one.
    #[inline]
    pub(super) fn get(&self) -> Option<&T> {
        self.0.as_deref()
    }

    /// The value, mutably, if there is one.
    pub(super) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// The value; if there is none, it is first set to the default.
    pub(super) fn get_or_default(&mut self) -> &mut T
    where
        T: Default,
    {
        self.0.get_or_insert_default()
    }
}

impl<T> Drop for OptionalBox<T> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            drop_value(value);
        }
    }
}

#[cold]
fn drop_value<T>(value: Box<T>) {
    drop(value);
}

impl<T: fmt::Debug> fmt::Debug for OptionalBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
