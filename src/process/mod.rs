//! Child processes: waiting until one has exited, without blocking the worker. To start one, use
//! [`std::process::Command`].

use std::io;
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::net::{Events, Polling};

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
