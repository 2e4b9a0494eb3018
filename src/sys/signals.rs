//! The signal mask of a thread.

use std::io;
use std::mem::MaybeUninit;

/// The signals that the kernel raises for a failed write: `SIGPIPE` if the reader is gone,
/// `SIGXFSZ` if the file must not grow.
const WRITE_SIGNALS: [i32; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

/// Blocks the signals of failed writes in this thread. The write still fails, with EPIPE or EFBIG.
/// By default both signals end the process, and a library must not rely on the program to change
/// that. send(2) has a flag against the signal (`MSG_NOSIGNAL`); sendfile(2) and write(2) have
/// none.
///
/// Both signals are sent to the thread that writes. A blocked signal stays pending until the thread
/// ends. So the thread must be ours, and must keep them blocked until it ends. Threads that it
/// starts inherit the mask. So do processes, also those of `std::process::Command`, unless they are
/// started within [`with_write_signals`].
pub fn block_write_signals() {
    change_mask(libc::SIG_BLOCK, &set_of(&WRITE_SIGNALS));
}

/// Calls `start` with the signals of failed writes unblocked in this thread, so that a process that
/// it starts inherits them unblocked (execve(2)). `start` must not write to a file or a socket.
///
/// A signal of an earlier write that failed would be delivered when it is unblocked. It is taken
/// before that.
pub fn with_write_signals<R>(start: impl FnOnce() -> R) -> R {
    struct Restore(libc::sigset_t);
    impl Drop for Restore {
        fn drop(&mut self) {
            change_mask(libc::SIG_SETMASK, &self.0);
        }
    }
    let signals = set_of(&WRITE_SIGNALS);
    // A signal is taken only if it is blocked, so both are blocked first.
    let _restore = Restore(change_mask(libc::SIG_BLOCK, &signals));
    take_pending(&signals);
    change_mask(libc::SIG_UNBLOCK, &signals);
    start()
}

/// Takes the blocked signals of `set` that are pending, without waiting.
fn take_pending(set: &libc::sigset_t) {
    let at_once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        // SAFETY: the set and the time are initialised, and null means that no details are stored.
        let taken = unsafe { libc::sigtimedwait(set, std::ptr::null_mut(), &at_once) };
        let is_interrupted = || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
        if taken < 0 && !is_interrupted() {
            return;
        }
    }
}

/// Lets `signals`, given by their numbers, reach this thread and the threads that it starts
/// afterwards. A process inherits blocked signals from the one that started it (execve(2)). A
/// signal that arrived while it was blocked is delivered now. Numbers that are not signals are
/// ignored.
///
/// ```
/// const SIGTERM: i32 = 15;
/// coring::unblock_signals(&[SIGTERM]);
/// ```
pub fn unblock_signals(signals: &[i32]) {
    change_mask(libc::SIG_UNBLOCK, &set_of(signals));
}

/// A set of `signals`, without the numbers that are not signals.
fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the call initialises the set that it points to.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: `sigemptyset` cannot fail, so the set is initialised.
    let mut set = unsafe { set.assume_init() };
    for &signal in signals {
        // SAFETY: the set is initialised, and the call rejects numbers that are not signals.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    set
}

/// Changes this thread's mask, and returns the old one.
fn change_mask(how: libc::c_int, set: &libc::sigset_t) -> libc::sigset_t {
    let mut old = MaybeUninit::uninit();
    // SAFETY: `set` is initialised, and `old` has room for a set.
    unsafe { libc::pthread_sigmask(how, set, old.as_mut_ptr()) };
    // SAFETY: with these arguments the call cannot fail, so it has stored the old mask.
    unsafe { old.assume_init() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// This thread's mask of blocked signals (proc_pid_status(5)).
    fn blocked() -> u64 {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        u64::from_str_radix(mask.unwrap().trim(), 16).unwrap()
    }

    #[test]
    fn both_write_signals_are_blocked_in_one_thread_only() {
        let before = blocked();
        let bit = |signal: i32| 1_u64 << (signal - 1);
        let both = bit(libc::SIGPIPE) | bit(libc::SIGXFSZ);
        let within = std::thread::spawn(|| {
            block_write_signals();
            blocked()
        });
        assert_eq!(within.join().unwrap(), before | both);
        assert_eq!(blocked(), before);
    }

    #[test]
    fn write_signals_are_unblocked_during_a_start_only() {
        let within = std::thread::spawn(|| {
            let before = blocked();
            block_write_signals();
            let both = blocked();
            let started = with_write_signals(blocked);
            (before, both, started, blocked())
        });
        let (before, both, started, after) = within.join().unwrap();
        assert_eq!((started, after), (before, both));
        assert_eq!(with_write_signals(blocked), blocked());
    }

    #[test]
    fn blocked_signals_can_be_unblocked() {
        let within = std::thread::spawn(|| {
            let before = blocked();
            change_mask(libc::SIG_BLOCK, &set_of(&[libc::SIGUSR1, libc::SIGUSR2]));
            unblock_signals(&[libc::SIGUSR1, 0, -1, 1000]);
            (before, blocked())
        });
        let (before, after) = within.join().unwrap();
        assert_eq!(after, before | 1 << (libc::SIGUSR2 - 1));
    }
}
