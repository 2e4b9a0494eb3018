//! A lock that a coroutine may hold while it waits for something else.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::ops::{Deref, DerefMut};

use super::semaphore::{Semaphore, SemaphorePermit};

/// Mutual exclusion of coroutines of one worker *across* an `.await`. Within a piece of code that
/// does not wait, a `Cell` or a `RefCell` is enough, because nothing else runs meanwhile.
///
/// Coroutines get the lock in the order in which they have asked for it. A panic of its holder
/// releases it; what it protects may then be half changed. It is shared in an `Rc`.
///
/// ```
/// use std::rc::Rc;
/// use coring::sync::Mutex;
///
/// coring::run(async {
///     let log = Rc::new(Mutex::new(String::new()));
///     let writers = ["ab", "cd"].map(|pair| {
///         let log = log.clone();
///         coring::spawn(async move {
///             let mut log = log.lock().await;
///             for letter in pair.chars() {
///                 log.push(letter);
///                 coring::task::yield_now().await; // the other one waits
///             }
///         })
///     });
///     coring::task::join_all(writers).await;
///     assert_eq!(*log.lock().await, "abcd");
/// });
/// ```
pub struct Mutex<T: ?Sized> {
    /// One permit: that of the holder.
    permit: Semaphore,
    value: RefCell<T>,
}

/// The lock of a [`Mutex`], and access to what it protects. Dropping it releases the lock to the
/// coroutine that has waited longest.
#[must_use = "dropping it releases the lock"]
pub struct MutexGuard<'a, T: ?Sized> {
    // Dropped in this order: the value must be free when the next holder is woken.
    value: RefMut<'a, T>,
    _permit: SemaphorePermit<'a>,
}

/// The error of [`Mutex::try_lock`]: a coroutine holds the lock, or waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TryLockError;

impl<T> Mutex<T> {
    /// Makes an unlocked mutex.
    pub fn new(value: T) -> Self {
        Self {
            permit: Semaphore::new(1),
            value: RefCell::new(value),
        }
    }

    /// Returns what the mutex protects.
    ///
    /// ```
    /// assert_eq!(coring::sync::Mutex::new(7).into_inner(), 7);
    /// ```
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock. If the future is dropped, it leaves its place in the queue.
    pub async fn lock(&self) -> MutexGuard<'_, T> {
        let permit = self.permit.acquire().await;
        self.guard(permit.expect("this semaphore is never closed"))
    }

    /// Takes the lock if it is free and no coroutine waits for it.
    ///
    /// ```
    /// let mutex = coring::sync::Mutex::new(1);
    /// let held = mutex.try_lock().expect("the lock");
    /// assert!(mutex.try_lock().is_err());
    /// drop(held);
    /// assert_eq!(*mutex.try_lock().expect("the lock"), 1);
    /// ```
    ///
    /// # Errors
    /// If a coroutine holds the lock, or waits for it.
    pub fn try_lock(&self) -> Result<MutexGuard<'_, T>, TryLockError> {
        let permit = self.permit.try_acquire().map_err(|_| TryLockError)?;
        Ok(self.guard(permit))
    }

    /// What the mutex protects, without the lock: as `&mut self` shows, it is free.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    fn guard<'a>(&'a self, permit: SemaphorePermit<'a>) -> MutexGuard<'a, T> {
        MutexGuard {
            value: self.value.borrow_mut(),
            _permit: permit,
        }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut mutex = f.debug_struct("Mutex");
        match self.value.try_borrow() {
            Ok(value) => mutex.field("value", &&*value).finish(),
            Err(_) => mutex.field("value", &format_args!("<locked>")).finish(),
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl fmt::Display for TryLockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another coroutine holds the lock, or waits for it")
    }
}

impl std::error::Error for TryLockError {}
