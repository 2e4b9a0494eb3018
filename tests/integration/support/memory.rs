//! How much memory a process has.

use std::fs;

use super::report;

/// The private memory of a process, in bytes (proc_pid_smaps(5)).
pub(crate) fn private_bytes(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a child process");
    let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kib = lines.map(|line| {
        line.split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok())
    });
    kib.map(|kib: Option<u64>| kib.expect("a number of KiB") * 1024)
        .sum()
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
