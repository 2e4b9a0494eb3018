//! Wakers that are numbers: (worker, generation, slot) packed into the data pointer.
//!
//! Cloning and dropping such a waker is free. A waker that outlives its task finds another
//! generation in the slot and does nothing.

use std::task::{Context, RawWaker, RawWakerVTable, Waker};

use super::foreign::drop_waker;
use super::{executor, wake_queue};

#[cfg(not(target_pointer_width = "64"))]
compile_error!("a waker packs 64 bits into a pointer");

/// Bits of the worker's number.
pub(super) const WORKER_BITS: u32 = 12;
/// Bits of the generation of a task slot.
pub(super) const TASK_GENERATION_BITS: u32 = 20;

/// A task's id, unique among the tasks of all live workers. After a generation or the worker
/// numbers have wrapped around, a stale waker may cause a spurious wake-up. Every future must
/// tolerate spurious wake-ups anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskId {
    pub(super) worker: u16,
    pub(super) generation: u32,
    pub(super) slot: u32,
}

impl TaskId {
    pub(super) fn pack(self) -> u64 {
        debug_assert!(u32::from(self.worker) < 1 << WORKER_BITS);
        debug_assert!(self.generation < 1 << TASK_GENERATION_BITS);
        u64::from(self.worker) << (64 - WORKER_BITS)
            | u64::from(self.generation) << 32
            | u64::from(self.slot)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "each field is masked to its own bits"
    )]
    pub(super) fn unpack(packed: u64) -> Self {
        Self {
            worker: (packed >> (64 - WORKER_BITS)) as u16,
            generation: (packed >> 32) as u32 & ((1 << TASK_GENERATION_BITS) - 1),
            slot: packed as u32,
        }
    }

    /// Makes a waker of this task.
    pub(super) fn waker(self) -> Waker {
        // SAFETY: the vtable's functions treat the data as a number and never dereference it. They
        // may be called from any thread.
        unsafe { Waker::from_raw(raw(self)) }
    }

    /// Schedules the task: directly if its worker runs on this thread, otherwise through the
    /// worker's wake queue.
    pub(super) fn wake(self) {
        if !executor::wake_local(self) {
            wake_queue::wake_remote(self);
        }
    }
}

/// A clone of a task's waker, to be stored where the task waits.
///
/// Cloning and dropping a foreign waker is foreign code: it may call this crate, and it may panic.
/// So this is made before the place is borrowed, and dropped when nothing is borrowed any more.
/// (Variables are dropped in the reverse order of their declarations.)
#[derive(Debug)]
pub struct ClonedWaker(Option<Waker>);

impl ClonedWaker {
    /// Clones the waker of the task that is being polled.
    #[inline]
    pub fn of(context: &Context<'_>) -> Self {
        let waker = context.waker();
        Self(Some(if is_ours(waker) {
            // SAFETY: the data of our wakers is a number, so a copy is a clone.
            unsafe { Waker::new(waker.data(), waker.vtable()) }
        } else {
            waker.clone()
        }))
    }

    /// Stores the waker in `place`. The one that was there is dropped with this value.
    #[inline]
    pub fn store(&mut self, place: &mut Option<Waker>) {
        std::mem::swap(&mut self.0, place);
    }
}

impl Drop for ClonedWaker {
    #[inline]
    fn drop(&mut self) {
        if let Some(waker) = self.0.take() {
            drop_waker(waker);
        }
    }
}

/// Whether this is the waker of one of our tasks. Such a waker owns nothing, and does not panic.
#[inline]
pub(super) fn is_ours(waker: &Waker) -> bool {
    std::ptr::eq(waker.vtable(), &VTABLE)
}

/// The task that the waker wakes, if it is one of ours.
pub(super) fn task_id(waker: &Waker) -> Option<TaskId> {
    is_ours(waker).then(|| id(waker.data()))
}

/// Wakes one of our tasks. The waker must satisfy [`is_ours`].
#[inline]
pub(super) fn wake_ours(waker: &Waker) {
    id(waker.data()).wake();
}

fn raw(id: TaskId) -> RawWaker {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "usize has 64 bits, as checked above"
    )]
    let address = id.pack() as usize;
    RawWaker::new(std::ptr::without_provenance(address), &VTABLE)
}

fn id(data: *const ()) -> TaskId {
    TaskId::unpack(data.addr() as u64)
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(
    |data| raw(id(data)),
    |data| id(data).wake(),
    |data| id(data).wake(),
    |_| {},
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_survives_packing() {
        for worker in [0, 1, 4095] {
            for generation in [0, 1, (1 << TASK_GENERATION_BITS) - 1] {
                for slot in [0, 77, u32::MAX] {
                    let id = TaskId {
                        worker,
                        generation,
                        slot,
                    };
                    assert_eq!(TaskId::unpack(id.pack()), id);
                }
            }
        }
    }
}
