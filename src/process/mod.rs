//! Other processes: waiting for the end of a child. What they are started with is the standard
//! library's.

use std::io;
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::net::{Events, Polling};

/// Waits until `child` has ended. Its standard input, if that is a pipe, is closed before, so that
/// a child which reads to the end can end. Other coroutines run meanwhile; if the future is
/// dropped, the child runs on and can be waited for again.
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
/// Those of pidfd_open(2) and waitid(2): the program itself may have waited for the child before,
/// or have told the kernel to forget its children (`SIGCHLD` ignored).
///
/// # Panics
/// Outside a worker.
pub async fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    drop(child.stdin.take());
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    // Its number is no other process's until its status is taken.
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
