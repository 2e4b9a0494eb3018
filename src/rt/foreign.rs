//! Calls into foreign code: a program's wakers, the destructors of values that its tasks own, and
//! the payloads of its panics. Foreign code may panic. A panic that reached the worker's loop would
//! end the worker, and with it the server.

use std::any::Any;
use std::mem::{ManuallyDrop, forget};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use super::executor;
use super::waker::{is_ours, task_id, wake_ours};

/// Runs `body`. Returns `None` if it panicked; the panic hook has then reported the panic.
#[inline]
pub fn catch_panic<R>(body: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(body))
        .map_err(drop_panic_payload)
        .ok()
}

/// Drops the payload of a caught panic. The payload's destructor may itself panic; the payload of
/// that panic is dropped in the same way. The fourth payload is leaked, so that the loop ends.
#[cold]
pub fn drop_panic_payload(mut payload: Box<dyn Any + Send>) {
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
        catch_panic(|| waker.wake());
    }
}

/// Wakes a task. If it is one of this worker, it runs next, before all others that are ready.
pub fn wake_next(waker: Waker) {
    let id = task_id(&waker).filter(|&id| executor::run_next(id));
    if id.is_none() {
        wake(waker);
    }
}

/// A foreign waker that calls `code` when it is cloned and when it is dropped.
#[cfg(test)]
pub fn calling_waker(code: &'static fn()) -> Waker {
    use std::task::{RawWaker, RawWakerVTable};

    fn call(code: *const ()) {
        // SAFETY: `calling_waker` has made the pointer from a reference to a static.
        let code = unsafe { *code.cast::<fn()>() };
        code();
    }
    fn clone(code: *const ()) -> RawWaker {
        call(code);
        RawWaker::new(code, &VTABLE)
    }
    static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, call, |_| (), call);
    let raw = RawWaker::new(std::ptr::from_ref(code).cast(), &VTABLE);
    // SAFETY: the functions only read the static, so they may be called from any thread.
    unsafe { Waker::from_raw(raw) }
}

/// Drops a waker. Catches a panic in the destructor of a foreign waker.
#[inline]
pub fn drop_waker(waker: Waker) {
    if is_ours(&waker) {
        forget(waker);
    } else {
        catch_panic(|| drop(waker));
    }
}
