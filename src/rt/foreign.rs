//! Calls into foreign code: a program's wakers, the destructors of values that its tasks own, and
//! the payloads of its panics. Foreign code may panic. A panic that reached the worker's loop would
//! end the worker, and with it the server.

use std::any::Any;
use std::mem::{ManuallyDrop, forget};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use super::waker::{is_ours, wake_ours};

/// Runs `body`. Returns `None` if it panicked; the panic hook has then reported the panic.
#[inline]
pub fn contain<R>(body: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(body)).map_err(discard).ok()
}

/// Drops the payload of a caught panic. The payload's destructor may itself panic; the payload of
/// that panic is dropped in the same way. The fourth payload is leaked, so that the loop ends.
#[cold]
pub fn discard(mut payload: Box<dyn Any + Send>) {
    for _ in 0..3 {
        match catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            Ok(()) => return,
            Err(next) => payload = next,
        }
    }
    forget(payload);
}

/// Wakes a task. Catches a panic of a foreign waker.
#[inline]
pub fn wake(waker: Waker) {
    if is_ours(&waker) {
        wake_ours(&ManuallyDrop::new(waker));
    } else {
        contain(|| waker.wake());
    }
}

/// Drops a waker. Catches a panic in the destructor of a foreign waker.
#[inline]
pub fn drop_waker(waker: Waker) {
    if is_ours(&waker) {
        forget(waker);
    } else {
        contain(|| drop(waker));
    }
}
