//! Signals that a thread of ours must not receive.

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
    let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call makes an empty set of what it points to.
    unsafe { libc::sigemptyset(signals.as_mut_ptr()) };
    // SAFETY: `sigemptyset` cannot fail, so the set is initialised.
    let mut signals = unsafe { signals.assume_init() };
    for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
        // SAFETY: a set that is initialised, and the number of a signal.
        unsafe { libc::sigaddset(&mut signals, signal) };
    }
    // SAFETY: a set that is initialised; the former mask is not asked for. With these arguments the
    // call cannot fail.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut()) };
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
}
