//! The ring that the engine uses: one of the real kernel, or a simulated one.

use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::time::Duration;

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use super::World;
use super::buffers::Provided;
use super::faults;
use super::kernel::{Kernel, RingState, error};
use crate::engine::{Cqe, KernelRing, Sqe, ignore_transient};

/// A ring of the real kernel, or of a simulated one.
#[derive(Debug)]
pub(crate) enum Ring {
    Kernel(KernelRing),
    Simulated(SimulatedRing),
}

/// A ring of a simulated machine.
pub(crate) struct SimulatedRing {
    world: World,
    number: usize,
}

impl Ring {
    pub(crate) fn new(ring: IoUring) -> Self {
        Self::Kernel(KernelRing::new(ring))
    }

    /// Makes a ring of `world`, with `capacity` provided buffers. Their entries are at `entries`;
    /// the first index is `first`.
    pub(crate) fn simulated(
        world: &World,
        entries: NonNull<BufRingEntry>,
        capacity: u16,
        first: u16,
    ) -> Self {
        let mut kernel = world.0.borrow_mut();
        kernel.rings.push(RingState {
            buffers: Some(Provided::new(entries, capacity, first)),
            ..RingState::default()
        });
        Self::Simulated(SimulatedRing {
            world: world.clone(),
            number: kernel.rings.len() - 1,
        })
    }

    /// # Safety
    /// As for a ring of the real kernel: a simulated kernel dereferences the same pointers.
    #[inline]
    pub(crate) unsafe fn push(&mut self, sqe: Sqe, user_data: u64) -> bool {
        match self {
            // SAFETY: the caller guarantees that all pointers in `sqe` stay valid.
            Self::Kernel(ring) => unsafe { ring.push(sqe, user_data) },
            Self::Simulated(ring) => ring.with(|kernel, ring| {
                let submissions = &mut kernel.rings[ring].submissions;
                let has_room =
                    submissions.len() < kernel.faults.submissions || kernel.violation.is_some();
                if has_room {
                    submissions.push_back((sqe, user_data));
                }
                has_room
            }),
        }
    }

    pub(crate) fn unsubmitted(&self) -> usize {
        match self {
            Self::Kernel(ring) => ring.unsubmitted(),
            Self::Simulated(ring) => ring.with(|kernel, ring| kernel.rings[ring].submissions.len()),
        }
    }

    pub(crate) fn needs_enter(&self) -> bool {
        match self {
            Self::Kernel(ring) => ring.needs_enter(),
            Self::Simulated(ring) => ring.with(|kernel, ring| kernel.needs_enter(ring)),
        }
    }

    pub(crate) fn overflowed(&self) -> bool {
        match self {
            Self::Kernel(ring) => ring.overflowed(),
            Self::Simulated(ring) => {
                ring.with(|kernel, ring| !kernel.rings[ring].overflow.is_empty())
            }
        }
    }

    pub(crate) fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Kernel(ring) => ring.enter(want, timeout),
            Self::Simulated(ring) => ring.enter(want, timeout).or_else(ignore_transient),
        }
    }

    pub(crate) fn has_completions(&mut self) -> bool {
        match self {
            Self::Kernel(ring) => ring.has_completions(),
            Self::Simulated(ring) => {
                ring.with(|kernel, ring| !kernel.rings[ring].completions.is_empty())
            }
        }
    }

    pub(crate) fn reap(&mut self, out: &mut Vec<Cqe>) {
        match self {
            Self::Kernel(ring) => ring.reap(out),
            Self::Simulated(ring) => ring.with(|kernel, ring| {
                let ring = &mut kernel.rings[ring];
                let with_buffer = ring.completions.iter().filter(|cqe| cqe.buffer().is_some());
                let count = u16::try_from(with_buffer.count()).expect("a buffer has 16 bits");
                ring.buffers
                    .iter_mut()
                    .for_each(|buffers| buffers.reaped(count));
                out.extend(ring.completions.drain(..));
            }),
        }
    }
}

impl SimulatedRing {
    fn with<R>(&self, body: impl FnOnce(&mut Kernel, usize) -> R) -> R {
        body(&mut self.world.0.borrow_mut(), self.number)
    }

    /// io_uring_enter(2). During a step it returns `WouldBlock` instead of sleeping.
    fn enter(&self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        self.with(|kernel, ring| {
            let state = &kernel.rings[ring];
            if let Some(fault) = state.buffers.as_ref().and_then(|b| b.fault(want > 0)) {
                kernel.fail(&fault);
            }
            if kernel.violation.is_some() {
                return Err(io::Error::other("the simulation has ended"));
            }
            let unsubmitted = kernel.rings[ring].submissions.len();
            if kernel.random.chance(kernel.faults.enter) {
                let errno = kernel.random.pick(faults::ENTER);
                let submitted = match errno {
                    libc::EINTR => unsubmitted,
                    libc::EAGAIN => kernel.random.below(unsubmitted + 1),
                    _ => 0,
                };
                kernel.submit(ring, submitted);
                return Err(error(errno));
            }
            kernel.submit(ring, unsubmitted);
            kernel.run_task_work(ring);
            if want == 0 || !kernel.rings[ring].completions.is_empty() {
                return Ok(());
            }
            if kernel.is_stepping {
                kernel.rings[ring].sleeps_until_ms = deadline_ms(kernel, timeout);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            sleep(kernel, ring, timeout)
        })
    }
}

/// When a wait of `timeout` ends, in ms; `None` if it has no limit.
pub(super) fn deadline_ms(kernel: &Kernel, timeout: Option<Duration>) -> Option<u64> {
    let timeout_ms = u64::try_from(timeout?.as_millis()).unwrap_or(u64::MAX);
    Some(kernel.now_ms.saturating_add(timeout_ms))
}

/// Moves the clock until something completes.
fn sleep(kernel: &mut Kernel, ring: usize, timeout: Option<Duration>) -> io::Result<()> {
    let until_ms = deadline_ms(kernel, timeout);
    while kernel.rings[ring].completions.is_empty() {
        if kernel.violation.is_some() {
            return Err(io::Error::other("the simulation has ended"));
        }
        match (kernel.next_ms(ring), until_ms) {
            (Some(next_ms), until_ms) if until_ms.is_none_or(|until_ms| next_ms <= until_ms) => {
                kernel.now_ms = kernel.now_ms.max(next_ms);
                kernel.run_task_work(ring);
            }
            (_, Some(until_ms)) => {
                kernel.now_ms = until_ms;
                return Err(error(libc::ETIME));
            }
            (_, None) => {
                kernel.fail(&"a worker sleeps for ever");
                return Err(io::Error::other("the simulation has ended"));
            }
        }
    }
    Ok(())
}

impl Drop for SimulatedRing {
    fn drop(&mut self) {
        self.with(|kernel, ring| {
            kernel.rings[ring].buffers = None;
            kernel.rings[ring].submissions.clear();
        });
    }
}

impl fmt::Debug for SimulatedRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedRing({})", self.number)
    }
}
