//! Locks a mutex of std, whatever has become of the threads that held it before.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, also if a thread has panicked while it held the lock. What this crate does under
/// a lock leaves the value whole at each step, so the panic of one thread need not end the others.
#[inline]
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
