//! How much memory a process has.

use std::fs;

use super::report;

/// The memory of a process that it has written and shares with no other, in bytes
/// (proc_pid_smaps(5)). Clean pages are left out: those of the program become private as soon as
/// other processes that run it have ended.
pub(crate) fn private_bytes(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a child process");
    let kib = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("a number of KiB") * 1024
}

/// Asserts that `bytes` of memory are less than `bound`, except under AddressSanitizer, which pads
/// what is allocated and keeps what is freed.
#[track_caller]
pub(crate) fn assert_bytes_below(bytes: u64, bound: u64) {
    if cfg!(asan) {
        report("memory: not checked, because AddressSanitizer needs more of it");
    } else {
        assert!(bytes < bound, "{bytes} bytes; must be less than {bound}");
    }
}
