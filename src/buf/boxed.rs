//! A box in a block: what lives briefly need not go to the allocator.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::ptr::NonNull;

use super::chunk::Block;
use super::pool::{BLOCK_BYTES, Pool, pool_of};

/// A value in a block of the pool, or on the heap when it does not fit into one.
pub struct PoolBox<T: ?Sized> {
    value: NonNull<T>,
    _owns: PhantomData<T>,
}

/// Whether a value of this size and alignment is in a block.
const fn fits_in_block(size: usize, alignment: usize) -> bool {
    size <= BLOCK_BYTES && alignment <= BLOCK_BYTES
}

impl<T> PoolBox<T> {
    /// Takes a block of `pool` and has the value made in it: what is made elsewhere first would
    /// have to be moved, and the future of a service may be large.
    #[inline(always)]
    pub fn new(pool: &Pool, make: impl FnOnce() -> T) -> Self {
        let value = if const { fits_in_block(size_of::<T>(), align_of::<T>()) } {
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

    /// The pool that the value's block is from.
    pub fn pool(&self) -> Pool {
        const { assert!(fits_in_block(size_of::<T>(), align_of::<T>())) };
        pool_of(self.value.cast())
    }
}

impl<'f, T> PoolBox<dyn Future<Output = T> + 'f> {
    /// As [`PoolBox::pin`], for a future of any type.
    pub fn pin_future<F>(pool: &Pool, make: impl FnOnce() -> F) -> Pin<Self>
    where
        F: Future<Output = T> + 'f,
    {
        let future = ManuallyDrop::new(PoolBox::new(pool, make));
        let erased = Self {
            value: future.value,
            _owns: PhantomData,
        };
        // SAFETY: as for `pin`: only the type is forgotten.
        unsafe { Pin::new_unchecked(erased) }
    }
}

impl<T: ?Sized> Deref for PoolBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `value` points to the value that we own.
        unsafe { self.value.as_ref() }
    }
}

impl<T: ?Sized> DerefMut for PoolBox<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: `value` points to the value that we own, and `&mut self` makes this exclusive.
        unsafe { self.value.as_mut() }
    }
}

impl<T: ?Sized> Drop for PoolBox<T> {
    #[inline]
    fn drop(&mut self) {
        if fits_in_block(size_of_val(&**self), align_of_val(&**self)) {
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

impl<T: ?Sized> fmt::Debug for PoolBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBox").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

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
    fn a_future_of_any_type_gives_back_what_it_took() {
        let pool = Pool::new();
        let held = Rc::new(());
        for (size, blocks) in [(1, 1), (BLOCK_BYTES, 0)] {
            let beside = PoolBox::new(&pool, || ());
            let (small, large) = (held.clone(), held.clone());
            let mut future: Pin<PoolBox<dyn Future<Output = usize>>> = match size {
                1 => {
                    PoolBox::pin_future(&beside.pool(), || async move { Rc::strong_count(&small) })
                }
                _ => PoolBox::pin_future(&pool, || {
                    let filling = [0_u8; BLOCK_BYTES];
                    async move { Rc::strong_count(&large) + usize::from(filling[7]) }
                }),
            };
            assert_eq!(pool.in_use(), 1 + blocks);
            let context = &mut Context::from_waker(Waker::noop());
            assert_eq!(future.as_mut().poll(context), Poll::Ready(3));
            drop(future);
            assert_eq!(pool.in_use(), 1);
        }
        assert_eq!((Rc::strong_count(&held), pool.in_use()), (1, 0));
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
