//! A box in a pool block, so that short-lived values do not need the allocator.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::ptr::NonNull;

use super::chunk::Block;
use super::pool::{BLOCK_BYTES, Pool, pool_of};

/// A value in a block of a pool, or on the heap if it does not fit into a block.
pub struct PoolBox<T: ?Sized> {
    value: NonNull<T>,
    _owns: PhantomData<T>,
}

/// Whether a value of this size and alignment, both in bytes, is stored in a block.
const fn fits_in_block(size: usize, alignment: usize) -> bool {
    size <= BLOCK_BYTES && alignment <= BLOCK_BYTES
}

impl<T> PoolBox<T> {
    /// Takes a block of `pool` and stores the result of `make` there, or on the heap if it does not
    /// fit. `make` builds the value in place: otherwise it would have to be moved, and the future
    /// of a service may be large.
    #[inline(always)]
    pub fn new(pool: &Pool, make: impl FnOnce() -> T) -> Self {
        let value = if const { fits_in_block(size_of::<T>(), align_of::<T>()) } {
            let block = pool.take();
            let start = block.as_ptr().cast::<T>();
            // SAFETY: the block is large enough and aligned to its size, and only we hold it.
            unsafe { start.write(make()) };
            std::mem::forget(block);
            // SAFETY: a block's address is not null.
            unsafe { NonNull::new_unchecked(start) }
        } else {
            NonNull::from(Box::leak(Box::new(make())))
        };
        Self {
            value,
            _owns: PhantomData,
        }
    }

    /// Like [`PoolBox::new`], for a value that must not be moved afterwards.
    #[inline(always)]
    pub fn pin(pool: &Pool, make: impl FnOnce() -> T) -> Pin<Self> {
        // SAFETY: the value stays where it is until it is dropped there: nothing moves it out of
        // the block or the heap allocation.
        unsafe { Pin::new_unchecked(Self::new(pool, make)) }
    }

    /// The pool of the value's block. It does not compile for a `T` that does not fit into a block.
    pub fn pool(&self) -> Pool {
        const { assert!(fits_in_block(size_of::<T>(), align_of::<T>())) };
        pool_of(self.value.cast())
    }
}

impl<'f, T> PoolBox<dyn Future<Output = T> + 'f> {
    /// Like [`PoolBox::pin`], for a future of any type.
    pub fn pin_future<F>(pool: &Pool, make: impl FnOnce() -> F) -> Pin<Self>
    where
        F: Future<Output = T> + 'f,
    {
        let future = ManuallyDrop::new(PoolBox::new(pool, make));
        let erased = Self {
            value: future.value,
            _owns: PhantomData,
        };
        // SAFETY: as in `pin`. Only the type is erased; the value is not moved.
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
        // The value's size and alignment are those of its concrete type, as in `new`.
        if fits_in_block(size_of_val(&**self), align_of_val(&**self)) {
            // Returns the block after the value is dropped, even if the value's destructor panics.
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
    fn a_future_of_any_type_frees_its_memory() {
        let pool = Pool::new();
        let held = Rc::new(());
        for (size, blocks) in [(1, 1), (BLOCK_BYTES, 0)] {
            let other = PoolBox::new(&pool, || ());
            let (small, large) = (held.clone(), held.clone());
            let mut future: Pin<PoolBox<dyn Future<Output = usize>>> = match size {
                1 => PoolBox::pin_future(&other.pool(), || async move { Rc::strong_count(&small) }),
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
    fn the_block_is_returned_if_make_or_the_destructor_panics() {
        struct PanicsOnDrop;
        impl Drop for PanicsOnDrop {
            fn drop(&mut self) {
                panic!("planned");
            }
        }
        let pool = Pool::new();
        let made = catch_unwind(AssertUnwindSafe(|| {
            PoolBox::<u64>::new(&pool, || panic!("planned"))
        }));
        assert!(made.is_err() && pool.in_use() == 0);
        let value = PoolBox::new(&pool, || PanicsOnDrop);
        assert!(catch_unwind(AssertUnwindSafe(|| drop(value))).is_err());
        assert_eq!(pool.in_use(), 0);
    }
}
