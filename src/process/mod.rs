//! Child processes: starting one with the usual signals, and waiting until it has exited, without
//! blocking the worker. [`std::process::Command`] says what to start.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::net::{Events, Polling};
use crate::sys::signals::with_write_signals;
use crate::sys::{output, user};

/// Makes all threads of this process run as user `uid` with the group `gid` and the further
/// `groups`, for good: nothing remains of the identity before.
///
/// A server that starts as root, to bind port 80 for example, gives up its privileges so.
/// Afterwards the process makes no core dump, and other processes of that user cannot trace it.
///
/// # Errors
/// Those of setgroups(2), setresgid(2) and setresuid(2). If one fails, the process has to end,
/// since those before may have succeeded.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    user::become_user(uid, gid, groups)
}

/// A copy of the descriptor that a path names: `/dev/stdout`, `/dev/stderr`, `/dev/fd/N` or
/// `/proc/self/fd/N`. Returns `None` for other paths.
///
/// To open such a path fails if it names a socket, or a pipe that another user has made.
///
/// # Errors
/// Inside the option, those of fcntl(2): the descriptor is not open, or there are too many.
#[must_use]
pub fn copy_descriptor(path: &Path) -> Option<io::Result<OwnedFd>> {
    output::copy_named(path)
}

/// As [`Command::spawn`], but the child does not inherit the signal mask of a server's thread.
///
/// The threads of a [`Server`](crate::Server) block `SIGPIPE` and `SIGXFSZ`, and a child process
/// inherits the mask of the thread that starts it. If a child with this mask writes to a pipe
/// without a reader, the write fails and does not end the child. A shell's loop in `... | head -1`,
/// for example, then continues. This function starts the child with both signals unblocked. It can
/// be called on any thread, also within [`task::blocking`](crate::task::blocking).
///
/// ```
/// use std::process::{Command, Stdio};
///
/// # fn main() -> std::io::Result<()> {
/// coring::run(async {
///     let mut command = Command::new("sh");
///     command.args(["-c", "yes | head -1"]).stdout(Stdio::piped());
///     let child = coring::process::spawn(&mut command)?;
///     let output = coring::task::blocking(|| child.wait_with_output()).await??;
///     assert_eq!(output.stdout, b"y\n");
///     Ok(())
/// })
/// # }
/// ```
///
/// # Errors
/// Those of [`Command::spawn`].
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    with_write_signals(|| command.spawn())
}

/// Waits until `child` has exited, and returns its exit status. Other coroutines run meanwhile.
///
/// If the standard input of `child` is a pipe, it is closed first, so that a child that reads until
/// the end of its input can exit. If the future is dropped, the child continues, and can be waited
/// for again.
///
/// ```
/// use std::process::Command;
///
/// # fn main() -> std::io::Result<()> {
/// coring::run(async {
///     let mut child = Command::new("true").spawn()?;
///     assert!(coring::process::wait(&mut child).await?.success());
///     Ok(())
/// })
/// # }
/// ```
///
/// # Errors
/// Those of pidfd_open(2) and waitid(2). They fail if the program has already waited for the child
/// elsewhere, or has told the kernel not to keep the status of children (`SIGCHLD` ignored).
///
/// # Panics
/// Outside a worker.
pub async fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    drop(child.stdin.take());
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    // The pid is not reused before the status is taken.
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut polling = Polling::new(pidfd, Events::READABLE);
    loop {
        polling.ready().await?;
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
    }
}

#[cfg(test)]
mod tests;
