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
    /// The block that holds the value; none when the value is on the heap.
    block: Option<Block>,
    _owns: PhantomData<T>,
}

impl<T> PoolBox<T> {
    /// Moves `value` into a block of `pool`.
    #[inline]
    pub fn pin(pool: &Pool, value: T) -> Pin<Self> {
        let boxed = if size_of::<T>() <= BLOCK_BYTES && align_of::<T>() <= BLOCK_BYTES {
            let block = pool.take();
            let place = block.as_ptr().cast::<T>();
            // SAFETY: the block is large enough, aligned to its size, and held by us alone.
            unsafe { place.write(value) };
            // SAFETY: a block's address is not null.
            let value = unsafe { NonNull::new_unchecked(place) };
            Self {
                value,
                block: Some(block),
                _owns: PhantomData,
            }
        } else {
            let value = NonNull::from(Box::leak(Box::new(value)));
            Self {
                value,
                block: None,
                _owns: PhantomData,
            }
        };
        // SAFETY: the value stays at its place until it is dropped there: neither the block nor
        // the box is ever moved out of.
        unsafe { Pin::new_unchecked(boxed) }
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
        if self.block.is_some() {
            // SAFETY: the value was written by `pin` and is dropped once, here; the block goes
            // back to the pool after it.
            unsafe { self.value.drop_in_place() };
        } else {
            // SAFETY: `pin` leaked this box.
            drop(unsafe { Box::from_raw(self.value.as_ptr()) });
        }
    }
}

impl<T> fmt::Debug for PoolBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBox")
            .field("in_block", &self.block.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn small_values_live_in_a_block_and_large_ones_on_the_heap() {
        let pool = Pool::new();
        let small = PoolBox::pin(&pool, 7_u64);
        assert_eq!((*small, pool.in_use()), (7, 1));
        let large = PoolBox::pin(&pool, [1_u8; BLOCK_BYTES + 1]);
        assert_eq!((large[BLOCK_BYTES], pool.in_use()), (1, 1));
        drop(small);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn the_value_is_dropped_once() {
        let pool = Pool::new();
        let value = Rc::new(());
        drop(PoolBox::pin(&pool, value.clone()));
        drop(PoolBox::pin(&pool, (value.clone(), [0_u8; BLOCK_BYTES])));
        assert_eq!(Rc::strong_count(&value), 1);
    }
}
