//! Information about the kernel, and about the restrictions that apply to this process.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// The kernel's release, as `uname -r` prints it.
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// The sysctl `kernel.io_uring_disabled` (Linux 6.6): io_uring is allowed 0 for all, 1 for one
/// group, 2 for none. `None` if the kernel has no such sysctl.
pub fn io_uring_disabled() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Whether a seccomp filter applies to this process (`Seccomp: 2` in proc_pid_status(5)).
pub fn seccomp_filtered() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| {
        line.strip_prefix("Seccomp:")
            .is_some_and(|mode| mode.trim() == "2")
    })
}

/// The size of a page of memory, in bytes: usually 4 KiB, and up to 64 KiB on ARM.
pub fn page_bytes() -> usize {
    // SAFETY: the call only returns a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("memory has pages")
}

/// The limit of locked memory, as `ulimit -l` prints it: in KiB, or "unlimited".
pub fn memlock_limit() -> String {
    match getrlimit(Resource::Memlock).current {
        Some(bytes) => format!("{} KiB", bytes / 1024),
        None => "unlimited".to_owned(),
    }
}
