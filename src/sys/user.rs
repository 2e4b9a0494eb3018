//! The user and the groups of this process.

use std::io;

/// Makes all threads of this process run as user `uid` with the group `gid` and the further
/// `groups`, for good: nothing remains of the identity before.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let check = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // A system call changes one thread only; these functions of the C library change all.
    // SAFETY: `groups` is valid for as many numbers as it has.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    // SAFETY: it has no preconditions.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: it has no preconditions.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}
