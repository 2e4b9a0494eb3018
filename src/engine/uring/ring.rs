//! The ring itself: push submissions, enter the kernel, reap completions.

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, opcode};

use super::buf_ring::BUFFER_GROUP;
use super::{Cqe, Sqe};
use crate::sys::mutants::mutate;

/// `IORING_ENTER_GETEVENTS`, `IORING_ENTER_EXT_ARG`, `IORING_ENTER_NO_IOWAIT` (io_uring_enter(2)).
const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_NO_IOWAIT: u32 = 1 << 7;

/// How long to wait before the next call when the kernel is short of memory.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(1);

/// A ring and its two queues. These borrow from the ring while this value lives. The submitter is
/// kept because only it knows that the ring is registered, the queues because they keep their
/// positions.
pub(crate) struct KernelRing {
    submitter: ManuallyDrop<Submitter<'static>>,
    submissions: ManuallyDrop<SubmissionQueue<'static>>,
    completions: ManuallyDrop<CompletionQueue<'static>>,
    /// The leaked ring that the fields above borrow from.
    owner: NonNull<IoUring>,
    enter_flags: u32,
}

impl KernelRing {
    pub(crate) fn new(ring: IoUring) -> Self {
        let no_iowait = ring.params().is_feature_no_iowait();
        let owner = NonNull::from(Box::leak(Box::new(ring)));
        let mut borrowed = owner;
        // SAFETY: the ring was leaked just now. `drop` frees it, after the fields that borrow from
        // it.
        let ring: &'static mut IoUring = unsafe { borrowed.as_mut() };
        let (mut submitter, submissions, completions) = ring.split();
        // Spares the kernel a look-up in each call (`IORING_REGISTER_RING_FDS`). The ring works
        // without it.
        let _ = submitter.register_ring_fd();
        Self {
            submitter: ManuallyDrop::new(submitter),
            submissions: ManuallyDrop::new(submissions),
            completions: ManuallyDrop::new(completions),
            owner,
            enter_flags: ENTER_EXT_ARG | if no_iowait { ENTER_NO_IOWAIT } else { 0 },
        }
    }

    /// Queues a submission. Returns false if the queue is full: then enter the kernel first.
    ///
    /// # Safety
    /// The memory that `sqe` points to stays valid and unmoved until the final completion of
    /// `user_data`. Until then no other code writes to memory that the kernel reads, or touches
    /// memory that it writes. A descriptor in `sqe` stays open until then, or is the caller's to
    /// close.
    #[inline(always)]
    pub(crate) unsafe fn push(&mut self, sqe: Sqe, user_data: u64) -> bool {
        let entry = prepare(sqe).user_data(user_data);
        // SAFETY: the caller guarantees what the entry needs.
        unsafe { self.submissions.push(&entry) }.is_ok()
    }

    /// The number of submissions that the kernel has not seen.
    pub(crate) fn unsubmitted(&self) -> usize {
        self.submissions.len()
    }

    /// Whether the kernel must be entered for completions: some are not posted yet, or overflowed.
    pub(crate) fn needs_enter(&self) -> bool {
        self.submissions.taskrun() || self.submissions.cq_overflow()
    }

    /// Whether the completion queue has overflowed. The kernel keeps the rest.
    pub(crate) fn overflowed(&self) -> bool {
        self.submissions.cq_overflow()
    }

    /// Submits the queue, and waits until `want` completions are available or `timeout` has passed
    /// (`None`: without limit).
    ///
    /// # Errors
    /// Those of io_uring_enter(2), except transient ones: a signal, the timeout, a full completion
    /// queue (the caller empties it next), and a shortage of memory.
    pub(crate) fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        self.submissions.sync();
        let timespec = timeout.map(Timespec::from);
        let args = match &timespec {
            Some(timespec) => SubmitArgs::new().timespec(timespec),
            None => SubmitArgs::new(),
        };
        let to_submit = u32::try_from(self.submissions.len()).expect("the queue is small");
        let flags = self.enter_flags | ENTER_GETEVENTS;
        // SAFETY: with EXT_ARG the argument is a `struct io_uring_getevents_arg`, and `SubmitArgs`
        // is one. It and the timespec live until the call returns.
        let entered = unsafe { self.submitter.enter(to_submit, want, flags, Some(&args)) };
        self.submissions.sync();
        if let Err(error) = &entered
            && let Some(libc::EAGAIN | libc::ENOMEM) = error.raw_os_error()
        {
            std::thread::sleep(SHORTAGE_PAUSE);
        }
        entered.map(|_| ()).or_else(ignore_transient)
    }

    /// Whether completions can be reaped without entering the kernel.
    pub(crate) fn has_completions(&mut self) -> bool {
        self.completions.sync();
        !self.completions.is_empty()
    }

    /// Moves all available completions to `out`.
    pub(crate) fn reap(&mut self, out: &mut Vec<Cqe>) {
        self.completions.sync();
        out.extend(self.completions.by_ref().map(|cqe| Cqe {
            user_data: cqe.user_data(),
            result: cqe.result(),
            flags: cqe.flags(),
        }));
        self.completions.sync();
    }
}

impl Drop for KernelRing {
    fn drop(&mut self) {
        // SAFETY: dropped once, here.
        unsafe { ManuallyDrop::drop(&mut self.submissions) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.completions) };
        let _ = self.submitter.unregister_ring_fd();
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.submitter) };
        // SAFETY: `new` leaked this box, and everything that borrowed from it is dropped.
        drop(unsafe { Box::from_raw(self.owner.as_ptr()) });
    }
}

impl fmt::Debug for KernelRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelRing")
            .field("unsubmitted", &self.unsubmitted())
            .finish_non_exhaustive()
    }
}

/// The submission queue entry of a request. A send never waits in the kernel.
#[inline]
fn prepare(sqe: Sqe) -> Entry {
    match sqe {
        Sqe::Accept { fd } => opcode::Accept::new(Fd(fd), null_mut(), null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build(),
        Sqe::AcceptMulti { fd } => opcode::AcceptMulti::new(Fd(fd))
            .flags(libc::SOCK_CLOEXEC)
            .build(),
        // At most one buffer: a length of 0 means the length of the buffer.
        Sqe::Recv { fd } => opcode::Recv::new(Fd(fd), null_mut(), 0)
            .buf_group(BUFFER_GROUP)
            .build()
            .flags(Flags::BUFFER_SELECT),
        Sqe::RecvMulti { fd } => opcode::RecvMulti::new(Fd(fd), BUFFER_GROUP).build(),
        Sqe::Send {
            fd,
            from,
            len,
            then,
        } => opcode::Send::new(Fd(fd), from, len)
            .flags(libc::MSG_DONTWAIT | then.flag())
            .build(),
        Sqe::SendMsg { fd, header, then } => {
            let flags = (libc::MSG_DONTWAIT | then.flag()).unsigned_abs();
            opcode::SendMsg::new(Fd(fd), header).flags(flags).build()
        }
        Sqe::RecvMsg { fd, header } => opcode::RecvMsg::new(Fd(fd), header)
            .flags(libc::MSG_CMSG_CLOEXEC.unsigned_abs())
            .build(),
        Sqe::PollOut { fd, edges } => {
            opcode::PollAdd::new(Fd(fd), libc::POLLOUT.unsigned_abs().into())
                .multi(edges)
                .build()
        }
        // The kernel adds POLLERR, POLLHUP and POLLRDHUP itself.
        Sqe::Poll { fd, events } => opcode::PollAdd::new(Fd(fd), events.bits())
            .multi(true)
            .build(),
        Sqe::Read { fd, to, len } => opcode::Read::new(Fd(fd), to, len).build(),
        Sqe::Connect { fd, address, len } => opcode::Connect::new(Fd(fd), address, len).build(),
        Sqe::Close { fd } => opcode::Close::new(Fd(fd)).build(),
        Sqe::Cancel { target } => {
            opcode::AsyncCancel2::new(CancelBuilder::user_data(target)).build()
        }
    }
}

/// Ignores the transient errors of io_uring_enter(2): the next call submits and reaps the rest.
pub(crate) fn ignore_transient(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::EINTR) => mutate!(FatalSignal, Err(error), Ok(())),
        Some(libc::ETIME | libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Function<F>(F);

    impl<F: Fn(&mut KernelRing, Sqe, u64) -> bool> Function<F> {
        fn is_safe(&self) -> bool {
            true
        }
    }

    trait Otherwise {
        fn is_safe(&self) -> bool {
            false
        }
    }

    impl<F> Otherwise for &Function<F> {}

    /// The kernel follows the pointers in the argument of `KernelRing::push`, so it must be unsafe.
    /// An unsafe function does not implement `Fn`, so `Otherwise` applies to it.
    #[test]
    fn safe_code_cannot_push() {
        let (safe, push) = (
            &Function(|_: &mut KernelRing, _, _| true),
            &Function(KernelRing::push),
        );
        assert!(safe.is_safe());
        assert!(!push.is_safe());
    }
}
