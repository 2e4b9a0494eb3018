//! The signal mask of a thread.

use std::mem::MaybeUninit;

/// Blocks the signals that the kernel raises for a failed write, in this thread: `SIGPIPE` if the
/// reader is gone, `SIGXFSZ` if the file must not grow. The write still fails, with EPIPE or EFBIG.
/// By default both signals end the process, and a library must not rely on the program to change
/// that. send(2) has a flag against the signal (`MSG_NOSIGNAL`); sendfile(2) and write(2) have
/// none.
///
/// Both signals are sent to the thread that writes. A blocked signal stays pending until the thread
/// ends. So the thread must be ours, and must keep them blocked until it ends. Threads that it
/// starts inherit the mask. So do the processes that it starts, also by `std::process::Command`.
pub fn block_write_signals() {
    change_mask(libc::SIG_BLOCK, &[libc::SIGPIPE, libc::SIGXFSZ]);
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
    change_mask(libc::SIG_UNBLOCK, signals);
}

/// Changes this thread's mask. Numbers that are not signals are ignored.
fn change_mask(how: libc::c_int, signals: &[i32]) {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call initialises the set that it points to.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: `sigemptyset` cannot fail, so the set is initialised.
    let mut set = unsafe { set.assume_init() };
    for &signal in signals {
        // SAFETY: the set is initialised, and the call rejects numbers that are not signals.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    // SAFETY: the set is initialised, and null means that the old mask is not stored. With these
    // arguments the call cannot fail.
    unsafe { libc::pthread_sigmask(how, &set, std::ptr::null_mut()) };
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
    fn blocked_signals_can_be_unblocked() {
        let within = std::thread::spawn(|| {
            let before = blocked();
            change_mask(libc::SIG_BLOCK, &[libc::SIGUSR1, libc::SIGUSR2]);
            unblock_signals(&[libc::SIGUSR1, 0, -1, 1000]);
            (before, blocked())
        });
        let (before, after) = within.join().unwrap();
        assert_eq!(after, before | 1 << (libc::SIGUSR2 - 1));
    }
}
