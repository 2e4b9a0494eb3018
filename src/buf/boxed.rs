//! A box in a block: what lives briefly need not go to the allocator.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::ptr::NonNull;

use super::chunk::Block;
use super::pool::{BLOCK_BYTES, Pool};

/// A value in a block of the pool, or on the heap when it does not fit into one.
pub struct PoolBox<T> {
    value: NonNull<T>,
    _owns: PhantomData<T>,
}

impl<T> PoolBox<T> {
    /// Whether the value is in a block.
    const IN_BLOCK: bool = size_of::<T>() <= BLOCK_BYTES && align_of::<T>() <= BLOCK_BYTES;

    /// Takes a block of `pool` and has the value made in it: what is made elsewhere first would
    /// have to be moved, and the future of a service may be large.
    #[inline(always)]
    pub fn new(pool: &Pool, make: impl FnOnce() -> T) -> Self {
        let value = if Self::IN_BLOCK {
            let block = pool.take();
            let place = block.as_ptr().cast::<T>();
            // SAFETY: the block is large enough, aligned to its size, and held by us alone.
            unsafe { place.write(make()) };
            std::mem::forget(block);
            // SAFETY: a block's address is not null.
            unsafe { NonNull::new_unchecked(place) }
        } else {
            NonNull::from(Box::leak(Box::new(make())))
        };
        Self {
            value,
            _owns: PhantomData,
        }
    }

    /// As [`PoolBox::new`], for a value that must not be moved any more.
    #[inline(always)]
    pub fn pin(pool: &Pool, make: impl FnOnce() -> T) -> Pin<Self> {
        // SAFETY: the value stays at its place until it is dropped there: neither the block nor
        // the box is ever moved out of.
        unsafe { Pin::new_unchecked(Self::new(pool, make)) }
    }
}

impl<T> Deref for PoolBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `value` points to the value that we own.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for PoolBox<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: `value` points to the value that we own, and `&mut self` makes this exclusive.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for PoolBox<T> {
    #[inline]
    fn drop(&mut self) {
        if Self::IN_BLOCK {
            // The block goes back after the value, also when the value's destructor panics.
            let _block = Block::from_raw(self.value.cast());
            // SAFETY: the value was written by `new` and is dropped once, here.
            unsafe { self.value.drop_in_place() };
        } else {
            // SAFETY: `new` leaked this box.
            drop(unsafe { Box::from_raw(self.value.as_ptr()) });
        }
    }
}

impl<T> fmt::Debug for PoolBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBox")
            .field("in_block", &Self::IN_BLOCK)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::rc::Rc;

    use super::*;

    #[test]
    fn small_values_live_in_a_block_and_large_ones_on_the_heap() {
        let pool = Pool::new();
        let small = PoolBox::pin(&pool, || 7_u64);
        assert_eq!((*small, pool.in_use()), (7, 1));
        let large = PoolBox::pin(&pool, || [1_u8; BLOCK_BYTES + 1]);
        assert_eq!((large[BLOCK_BYTES], pool.in_use()), (1, 1));
        drop(small);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn the_value_is_dropped_once() {
        let pool = Pool::new();
        let value = Rc::new(());
        drop(PoolBox::pin(&pool, || value.clone()));
        drop(PoolBox::pin(&pool, || (value.clone(), [0_u8; BLOCK_BYTES])));
        assert_eq!(Rc::strong_count(&value), 1);
    }

    #[test]
    fn a_panic_while_it_is_made_or_dropped_gives_the_block_back() {
        struct Worse;
        impl Drop for Worse {
            fn drop(&mut self) {
                panic!("planned");
            }
        }
        let pool = Pool::new();
        let made = catch_unwind(AssertUnwindSafe(|| {
            PoolBox::<u64>::new(&pool, || panic!("planned"))
        }));
        assert!(made.is_err() && pool.in_use() == 0);
        let worse = PoolBox::new(&pool, || Worse);
        assert!(catch_unwind(AssertUnwindSafe(|| drop(worse))).is_err());
        assert_eq!(pool.in_use(), 0);
    }
}
