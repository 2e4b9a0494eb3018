//! Code that is not ours: wakers of a program, destructors of what its tasks own, payloads of its
//! panics. It may panic, and a panic that reached the worker's loop would end the worker and with
//! it the server.

use std::any::Any;
use std::mem::{ManuallyDrop, forget};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use super::waker::{is_ours, wake_ours};

/// Runs `body`; none when it panicked, which the panic hook has reported.
#[inline]
pub fn contain<R>(body: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(body)).map_err(discard).ok()
}

/// Drops the payload of a panic that was caught. Its destructor may panic with a payload of its
/// own, which is dropped likewise; the fourth is leaked, because this could go on for ever.
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

/// Wakes a task, from wherever a panic must not go further.
#[inline]
pub fn wake(waker: Waker) {
    if is_ours(&waker) {
        wake_ours(&ManuallyDrop::new(waker));
    } else {
        contain(|| waker.wake());
    }
}

/// Drops a waker, from wherever a panic must not go further.
#[inline]
pub fn drop_waker(waker: Waker) {
    if is_ours(&waker) {
        forget(waker);
    } else {
        contain(|| drop(waker));
    }
}
