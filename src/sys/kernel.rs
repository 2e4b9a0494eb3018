//! What the kernel says of itself, and of what it forbids us.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// The kernel's release, as `uname -r` prints it.
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// The sysctl `kernel.io_uring_disabled` (Linux 6.6): 0 allowed, 1 for a group, 2 for nobody.
pub fn io_uring_disabled() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Whether a seccomp filter watches this process (`Seccomp: 2` in proc_pid_status(5)).
pub fn seccomp_filtered() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| {
        line.strip_prefix("Seccomp:")
            .is_some_and(|mode| mode.trim() == "2")
    })
}

/// The size of a page of memory: 4 KiB mostly, and up to 64 KiB on ARM.
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
