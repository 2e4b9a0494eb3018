//! Children of this process that have ended (waitid(2)).

use std::mem::MaybeUninit;

/// The process id of a child that has ended and was not waited for; it remains so. None if there is
/// no such child.
pub fn ended_child() -> Option<i32> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` has room for what the call stores.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) };
    // SAFETY: zeroes are a valid value, and the call stores another one, or none.
    let info = unsafe { info.assume_init() };
    // SAFETY: after waitid(2) the value is that of a child, or zero.
    let pid = unsafe { info.si_pid() };
    (result == 0 && pid != 0).then_some(pid)
}
