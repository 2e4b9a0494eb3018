//! The signals that reach a thread.

use std::mem::MaybeUninit;

/// Blocks, in this thread, the signals that the kernel raises for a failed write: `SIGPIPE` if
/// there is no reader any more, `SIGXFSZ` if a file may not grow. The write still fails with EPIPE
/// or EFBIG. The default action of both signals ends the process, and a library must not rely on
/// the program having changed it. send(2) has a flag against the signal (`MSG_NOSIGNAL`);
/// sendfile(2) and write(2) have none.
///
/// Both signals are sent to the thread that writes. One that is blocked stays pending for it and is
/// gone with it, so the thread must be ours and keep them blocked until it ends. Threads that it
/// starts inherit the mask, and so do processes, unless `std::process::Command` starts them.
pub fn block_write_signals() {
    change_mask(libc::SIG_BLOCK, &[libc::SIGPIPE, libc::SIGXFSZ]);
}

/// Lets `signals` reach this thread and those that it starts afterwards. A signal that a process
/// blocks stays blocked in the program that it executes (execve(2)), and one that arrived meanwhile
/// is pending there.
pub fn unblock_signals(signals: &[i32]) {
    change_mask(libc::SIG_UNBLOCK, signals);
}

/// Changes the mask of this thread; numbers that are no signals are left out.
fn change_mask(how: libc::c_int, signals: &[i32]) {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call makes an empty set of what it points to.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: `sigemptyset` cannot fail, so the set is initialised.
    let mut set = unsafe { set.assume_init() };
    for &signal in signals {
        // SAFETY: a set that is initialised; the call refuses what is not the number of a signal.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    // SAFETY: a set that is initialised; the former mask is not asked for. With these arguments the
    // call cannot fail.
    unsafe { libc::pthread_sigmask(how, &set, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The mask of blocked signals of this thread (proc_pid_status(5)).
    fn blocked() -> u64 {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        u64::from_str_radix(mask.unwrap().trim(), 16).unwrap()
    }

    #[test]
    fn it_blocks_two_signals_in_one_thread() {
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
    fn signals_that_were_blocked_can_be_let_through() {
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
